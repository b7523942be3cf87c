"""Uni-Mol v1 as a teacher of molecules: one vector per atom, and their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reed import weights as files
from reed.build.shard import Values
from reed.cache.schema import Field
from reed.chem.molecule import ATOMS
from reed.encoders import ENCODERS
from reed.encoders.base import PublicWeights
from reed.encoders.molecule.molecule import READS, check_coords, molecule_of
from reed.encoders.molecule.unimol_net import Size, collate, forward, shapes
from reed.errors import ReedError
from reed.state_dict import compare
from reed.weights import Origin

ORIGIN = Origin(repo="dptech/Uni-Mol-Models", files=("mol_pre_all_h_220816.pt",))


@ENCODERS.register("unimol")
@dataclass
class UniMol(PublicWeights):
    """Hidden states of Uni-Mol for a conformer with all hydrogens.

    Its fields do not change when the molecule is rotated or translated:

    - ``token`` [N, dim]: the state of each atom.
    - ``sample`` [dim]: their mean. It includes neither padding nor the special tokens before and
      after the atoms, where the public code of REED also averages the special tokens.

    Attributes:
        weights: A released ``mol_pre_*_220816.pt``, or its tensors as safetensors; None for the
            public weights.
        dim: Width of the model.
        coords: Field of the coordinates, such as ``conformer/coords``.
        batch_size: Molecules per call of ``encode``.
    """

    weights: str | None = None
    dim: int = 512
    coords: str = "molecule/coords"
    batch_size: int = 16

    _state: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)

    name = "unimol"
    licence = "MIT"
    origin = ORIGIN

    def __post_init__(self) -> None:
        check_coords("unimol", self.coords)

    @property
    def reads(self) -> tuple[str, ...]:
        """The fields of the molecule, and the coordinates."""
        return tuple(dict.fromkeys((self.coords, *READS)))

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields ``sample`` (per molecule) and ``token`` (per atom)."""
        return (
            Field("sample", "sample", (self.dim,), "float32"),
            Field("token", "token", (None, self.dim), "int8"),
        )

    def revision(self) -> str:
        """Return the hash of the weights and the version of the computation."""
        return f"{self._find().sha256[:16]} 1 fp32"  # raise the 1 when the computation changes

    def load(self, device: str) -> None:
        """Load the weights onto ``device``.

        Raises:
            ReedError: The file is not a Uni-Mol of width ``dim``; the message lists the tensors
                that are missing or have another shape.
        """
        path = self._find().files[0]
        state = files.read(path)
        state = next((state[k] for k in ("model", "model_state_dict") if k in state), state)
        needed = ("encoder.layers.0.fc1.weight", "gbf_proj.linear2.weight")
        if not isinstance(state, Mapping) or any(key not in state for key in needed):
            raise ReedError(f"{path} is not a Uni-Mol: it lacks {' or '.join(needed)}")

        # The sizes follow from the weights, so that every tensor is compared before it is used.
        want = shapes(size := Size.of(state))
        compare(str(path), want, {key: state[key] for key in want if key in state})
        if size.width != self.dim:
            problem = f"{path} has {size.width} channels, unimol.dim is {self.dim}"
            raise ReedError(f"{problem}; set dim={size.width}")
        self._state = {key: state[key].float().to(device) for key in want}
        self._device = device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``sample`` [dim] and ``token`` [N, dim] of each molecule, float32."""
        import torch

        molecules = [molecule_of(sample, self.coords) for sample in samples]
        symbols = [[ATOMS[number] for number in mol.atoms.tolist()] for mol in molecules]
        tokens, coords = collate([(s, m.coords) for s, m in zip(symbols, molecules, strict=True)])
        with torch.no_grad():
            states = forward(self._state, tokens.to(self._device), coords.to(self._device))

        # The first token is [CLS]; whatever follows the atoms is [SEP] or padding.
        values = states.cpu().numpy()
        atoms = [values[i, 1 : 1 + len(mol)].copy() for i, mol in enumerate(molecules)]
        return {"token": atoms, "sample": [states.mean(0) for states in atoms]}
