"""Frame2seq: the states of an inverse folding model on a backbone, one vector per residue.

Source: Akpinaroglu et al., 2023, "Structure-conditioned masked language models"; weights of the
package frame2seq 0.0.8 (MIT), whose code is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reed import weights as files
from reed.build.shard import Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import PublicWeights
from reed.encoders.image.batches import check_precision
from reed.encoders.protein import frame2seq_net, per_chain
from reed.encoders.protein.chain import backbone
from reed.errors import ReedError
from reed.precision import computing
from reed.state_dict import compare
from reed.weights import Origin

ORIGIN = Origin(
    files=("model1.ckpt",),
    url="https://pypi.org/project/frame2seq/0.0.8/#files (trained_models/model1.ckpt in it)",
)


@ENCODERS.register("frame2seq")
@dataclass
class Frame2seq(PublicWeights):
    """Last states of Frame2seq, computed from N, CA and C with all letters masked.

    Its fields:

    - ``tokens`` [L, dim]: the states. The model's logits are a linear function of them.
    - ``mean`` [dim]: their mean over the sample.

    Every chain of a sample is encoded alone. A residue that lacks one of the three atoms is masked.

    Attributes:
        weights: One of the three .ckpt files in the package; see ``make data-chains``.
        dim: Channels of the model.
        coords: Field of the atoms, to read others than the source's, such as ``esmfold/coords``.
        precision: ``fp32`` or ``tf32``.
        batch_size: Samples per call of ``encode``.
    """

    weights: str | None = None
    dim: int = 128
    coords: str = "coords"
    precision: str = "fp32"
    batch_size: int = 4

    _state: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)

    name = "frame2seq"
    licence = "MIT"
    origin = ORIGIN

    def __post_init__(self) -> None:
        check_precision("frame2seq", self.precision)
        if self.precision == "bf16":
            raise ReedError("frame2seq.precision cannot be 'bf16': geometry needs fp32 or tf32")

    @property
    def reads(self) -> tuple[str, ...]:
        """The atoms, the sequence and the chain of each residue."""
        return (self.coords, "sequence", "chain")

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields ``tokens`` and ``mean``."""
        return per_chain.fields(self.dim)

    def revision(self) -> str:
        """Return the weights, the version of the computation, and the precision."""
        return f"{self._find().sha256[:16]} 1 {self.precision}"  # raise the 1 when it changes

    def load(self, device: str) -> None:
        """Load the net onto ``device``.

        Raises:
            ReedError: The file is not a Frame2seq with ``dim`` channels.
        """
        path = self._find().files[0]
        table = files.read(path)

        # The three public files differ in the width of their transitions.
        try:
            config, state = table["hyper_parameters"]["config"], table["state_dict"]
            dim, depth = config["ipa_dim"], config["ipa_depth"]
            wide = config["st_mod_tsit_factor"]
            named = frame2seq_net.shapes(dim, depth, wide) if dim == self.dim else {}
        except (KeyError, TypeError) as error:
            problem = (
                "it lacks state_dict, or numbers in hyper_parameters.config (ipa_dim, ipa_depth, "
                "st_mod_tsit_factor)"
            )
            raise ReedError(
                f"{path} is not a Frame2seq: {problem}; give the public file"
            ) from error
        if dim != self.dim:
            raise ReedError(f"{path} has {dim} channels, frame2seq.dim is {self.dim}; set it")

        # Names and shapes are those of the file, strictly.
        compare(str(path), named, state)
        self._state = {k: v.float().to(device) for k, v in state.items()}
        self._device = device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``tokens`` [L, dim] and ``mean`` [dim] of each sample, float32.

        Raises:
            BadSample: There are not as many residues as letters.
        """
        return per_chain.encode(samples, self._run)

    def _run(self, chains: Sequence[per_chain.Chain]) -> list[np.ndarray]:
        import torch

        assert self._state, "load() comes before encode()"
        found = []
        for sample, part in chains:
            atoms = backbone(sample | {"coords": sample[self.coords]})[part, :3]
            with computing(self._device, self.precision):
                placed = torch.from_numpy(atoms).to(self._device)
                states, _ = frame2seq_net.forward(self._state, placed)
            found.append(states.float().cpu().numpy())
        return found
