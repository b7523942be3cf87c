"""ESM-C, a language model of protein sequences: vectors per residue, and their mean.

Source: ESM Team, 2024, "ESM Cambrian". The weights of the package esm and of transformers' ESMC are
read alike; neither package is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from reed import weights as files
from reed.build.shard import Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import PublicWeights
from reed.encoders.image.batches import check_precision
from reed.encoders.protein import esmc_net, per_chain
from reed.encoders.protein.esm2 import CLS, EOS, PAD, token
from reed.precision import computing
from reed.weights import Origin


@dataclass(frozen=True)
class Card:
    """One size of the model.

    Attributes:
        name: Name in the registry.
        origin: Location of the public weights.
        layers: Transformer layers.
        dim: Channels of a token.
        licence: Licence of the weights.
    """

    name: str
    origin: Origin
    layers: int
    dim: int
    licence: str


@dataclass
class EsmC(PublicWeights):
    """Hidden states of ESM-C on the sequence of each chain of a sample.

    Its fields:

    - ``tokens`` [L, dim]: the states, without the begin and end tokens.
    - ``mean`` [dim]: their mean over the sample.

    Attributes:
        card: Size of the model.
        weights: The .pth file of the package esm, or a transformers folder; None for the public
            weights.
        layer: Layer whose output is stored, counted from 1; 0 is the last, which ends in a norm.
        precision: ``fp32``, ``tf32`` or ``bf16``.
        batch_size: Samples per call of ``encode``.
    """

    card: Card
    weights: str | None = None
    layer: int = 0
    precision: str = "fp32"
    batch_size: int = 8

    _state: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)

    reads = ("sequence", "chain")

    def __post_init__(self) -> None:
        check_precision(self.card.name, self.precision)
        per_chain.check_layer(self.card.name, self.layer, self.card.layers)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields ``tokens`` and ``mean``."""
        return per_chain.fields(self.card.dim)

    @property
    def licence(self) -> str:
        """Licence of the weights."""
        return self.card.licence

    @property
    def origin(self) -> Origin:
        """Location of the public weights."""
        return self.card.origin

    @property
    def name(self) -> str:
        """Name of the encoder, from its card."""
        return self.card.name

    def revision(self) -> str:
        """Return the weights, the version of the computation, the precision and the layer."""
        layer = self.layer or self.card.layers
        # Raise the 1 when the computation changes.
        return f"{self._find().sha256[:16]} 1 {self.precision} layer {layer}"

    def load(self, device: str) -> None:
        """Load the weights onto ``device``.

        Raises:
            ReedError: The weights are those of another model, or of another size.
        """
        path = self._find().files[0]
        state = esmc_net.checked(path, files.read(path), self.card.dim, self.card.layers)
        self._state, self._device = {k: v.to(device) for k, v in state.items()}, device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``tokens`` [L, dim] and ``mean`` [dim] of each sample, float32."""
        return per_chain.encode(samples, self._run)

    def _run(self, chains: Sequence[per_chain.Chain]) -> list[np.ndarray]:
        import torch

        # One row of tokens per chain, padded to the longest.
        texts = [sample["sequence"][part] for sample, part in chains]
        ids = torch.full((len(texts), max(map(len, texts)) + 2), PAD)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text) + 2] = torch.tensor([CLS, *map(token, text), EOS])
        ids = ids.to(self._device)

        with computing(self._device, self.precision):
            layer = self.layer or self.card.layers
            states = esmc_net.forward(self._state, ids, ids != PAD, layer)
        values = states.float().cpu().numpy()
        return [values[i, 1 : len(text) + 1] for i, text in enumerate(texts)]


def _card(size: str, layers: int, dim: int, licence: str) -> Card:
    repo = f"EvolutionaryScale/esmc-{size}-2024-12"
    origin = Origin(repo, files=(f"data/weights/esmc_{size}_2024_12_v0.pth",))
    return Card(f"esmc-{size}", origin, layers, dim, licence)


for _each in (
    _card("300m", 30, 960, "Cambrian Open"),
    _card("600m", 36, 1152, "Cambrian Non-Commercial"),
):
    ENCODERS.register(_each.name)(partial(EsmC, card=_each))
