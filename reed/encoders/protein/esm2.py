"""ESM-2: a language model of protein sequences; per residue, per pair, per chain.

Source: Lin et al., 2023, Science 379:1123; weights of https://github.com/facebookresearch/esm or of
the Hugging Face hub, which are the same numbers under other names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from reed.build.shard import Values
from reed.cache.schema import Field
from reed.chem.protein import NEIGHBOURS
from reed.encoders import ENCODERS
from reed.encoders import pretrained as pre
from reed.encoders.base import PublicWeights
from reed.encoders.image.batches import check_precision
from reed.encoders.protein import esm2_weights
from reed.encoders.protein.chain import segments
from reed.errors import ReedError
from reed.weights import Found, Origin

if TYPE_CHECKING:
    import torch

LETTERS = "LAGVSERTIDPKQNFYMHWCX"  # tokens 4 to 24 of ESM's alphabet
FIRST, CLS, PAD, EOS = 4, 0, 1, 2
GRAPH = "chain/neighbours"


@dataclass(frozen=True)
class Card:
    """One size of the model; hub: its repository."""

    name: str
    hub: str
    layers: int
    dim: int
    heads: int


@dataclass
class Esm2(PublicWeights):
    """Hidden states of ESM-2 on the sequence of each chain of a sample.

    weights: a folder of transformers, or the .pt file of fair-esm, instead of the hub's; layer:
    whose output, counted from 1, 0 for the last (which ends in a norm); attention: also the
    attention maps; contacts: also what the contact head says of them; precision: fp32, tf32 or
    bf16, of the weights too.

    tokens: [L, dim], without those of the begin and end tokens; mean: their mean over the sample,
    [dim]; attention: [L, 48, layers * heads], of every head the symmetric map with its average
    product taken out, at chain/neighbours; contacts: [L, 48, 2], the probability of a contact (CB
    within 8 angstroms) and of none. Pairs of different chains are zero.
    """

    card: Card
    weights: str | None = None
    layer: int = 0
    attention: bool = False
    contacts: bool = False
    precision: str = "fp32"
    batch_size: int = 8

    licence = "MIT"

    def __post_init__(self) -> None:
        check_precision(self.card.name, self.precision)
        if not 0 <= self.layer <= self.card.layers:
            problem = f"{self.card.name}.layer is {self.layer}"
            raise ReedError(f"{problem}; it has layers 1 to {self.card.layers}, 0 is the last")

    @property
    def reads(self) -> tuple[str, ...]:
        """The sequence, and the graph where there are pairs."""
        return ("sequence", "chain", *([GRAPH] if self.attention or self.contacts else []))

    @property
    def fields(self) -> tuple[Field, ...]:
        """tokens and mean; then what was asked for."""
        card, found = self.card, []
        if self.attention:
            shape = (None, NEIGHBOURS, card.layers * card.heads)
            found.append(Field("attention", "pair", shape, "int8"))
        if self.contacts:
            found.append(Field("contacts", "pair", (None, NEIGHBOURS, 2), "float16"))
        tokens = Field("tokens", "token", (None, card.dim), "int8")
        return (tokens, Field("mean", "sample", (card.dim,), "float32"), *found)

    @property
    def origin(self) -> Origin:
        """Where the public weights are."""
        return pre.origin_of(self.card.hub)

    @property
    def name(self) -> str:
        """As the card says."""
        return self.card.name

    def revision(self) -> str:
        """The weights, the layer, the precision and the library."""
        found = self._find()
        print_of = found.sha256[:16] if self._is_fair(found) else pre.fingerprint(found)
        heads = f" {esm2_weights.contact_sha256(found)[:16]}" if self._has_beside(found) else ""
        layer = self.layer or self.card.layers
        return f"{print_of}{heads} {pre.version('transformers')} {self.precision} layer {layer}"

    def _is_fair(self, found: Found) -> bool:
        return found.files[0].suffix == ".pt"

    def _has_beside(self, found: Found) -> bool:
        return self.contacts and self._is_fair(found)

    def load(self, device: str) -> None:
        """The model; ReedError where it is not of this size."""
        found = self._find()
        if self._is_fair(found):
            model = esm2_weights.open_fair(found, contacts=self.contacts)
            model = model.bfloat16() if self.precision == "bf16" else model
        else:
            model = pre.open_model("EsmModel", found, self.precision)
        config, card = model.config, self.card
        have = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads)
        if have != (card.layers, card.dim, card.heads):
            names = "layers, channels and heads"
            want = (card.layers, card.dim, card.heads)
            raise ReedError(f"{found.files[0]} has {have} {names}, {card.name} has {want}")
        model.set_attn_implementation("eager")  # as fair-esm computes, and gives the maps
        self._model, self._device = model.to(device), device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """One array per field and sample."""
        names = [field.name for field in self.fields if field.name != "mean"]
        parts: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in samples] for name in names}
        places = [(i, part) for i, sample in enumerate(samples) for part in segments(sample)]
        # the maps of one chain are large: those of a batch may not fit
        step = len(places) if names == ["tokens"] else 1
        for start in range(0, len(places), step):
            some = places[start : start + step]
            for (i, _), values in zip(some, self._run(samples, some), strict=True):
                for name, value in values.items():
                    parts[name][i].append(value)
        found = {name: [np.concatenate(each) for each in parts[name]] for name in names}
        return found | {"mean": [tokens.mean(0) for tokens in found["tokens"]]}

    def _run(
        self, samples: Sequence[dict[str, Any]], places: Sequence[tuple[int, slice]]
    ) -> Iterator[dict[str, np.ndarray]]:
        """The values of some chains, each [length, ...]."""
        import torch

        texts = [samples[i]["sequence"][part] for i, part in places]
        ids = torch.full((len(texts), max(map(len, texts)) + 2), PAD)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text) + 2] = torch.tensor([CLS, *map(token, text), EOS])
        ids = ids.to(self._device)
        pairs = self.attention or self.contacts
        with pre.running(self._device, self.precision):
            output = self._model(
                ids,
                attention_mask=ids.ne(PAD).long(),
                output_hidden_states=True,
                output_attentions=pairs,
            )
            states = output.hidden_states[self.layer or -1].float().cpu().numpy()
            for row, (i, part) in enumerate(places):
                length = part.stop - part.start
                values = {"tokens": states[row, 1 : length + 1]}
                if pairs:
                    graph = np.asarray(samples[i][GRAPH])[part]
                    maps = [
                        each[row, :, 1 : length + 1, 1 : length + 1] for each in output.attentions
                    ]
                    values |= self._pairs(torch.cat(maps).float(), graph, part)
                yield values

    def _pairs(self, maps: torch.Tensor, graph: np.ndarray, part: slice) -> dict[str, np.ndarray]:
        """attention and contacts at the neighbours; maps: [layers * heads, L, L] of one chain."""
        import torch

        inside = torch.from_numpy((graph >= part.start) & (graph < part.stop)).to(maps.device)
        columns = torch.from_numpy(graph - part.start).to(maps.device).clamp(0, len(graph) - 1)
        rows = torch.arange(len(graph), device=maps.device)[:, None]
        at = corrected(maps)[:, rows, columns].permute(1, 2, 0)  # [L, 48, layers * heads]
        found = {}
        if self.attention:
            found["attention"] = (at * inside[..., None]).cpu().numpy()
        if self.contacts:
            chance = self._model.contact_head.regression.float()(at).sigmoid()
            both = torch.cat([chance, 1 - chance], -1) * inside[..., None]
            found["contacts"] = both.cpu().numpy()
        return found


def token(letter: str) -> int:
    """The number of a letter of reed.chem.protein.ALPHABET in ESM's alphabet."""
    return FIRST + LETTERS.index(letter)


def corrected(maps: torch.Tensor) -> torch.Tensor:
    """Symmetric maps with their average product taken out: [C, L, L] -> [C, L, L].

    Source: Dunn et al., 2008; Rao et al., 2021, who regress contacts on these.
    """
    both = maps + maps.transpose(1, 2)
    rows, columns = both.sum(2, keepdim=True), both.sum(1, keepdim=True)
    return both - rows * columns / both.sum((1, 2), keepdim=True)


_CARDS = (
    Card("esm2-8m", "facebook/esm2_t6_8M_UR50D", 6, 320, 20),
    Card("esm2-35m", "facebook/esm2_t12_35M_UR50D", 12, 480, 20),
    Card("esm2-150m", "facebook/esm2_t30_150M_UR50D", 30, 640, 20),
    Card("esm2-650m", "facebook/esm2_t33_650M_UR50D", 33, 1280, 20),
    Card("esm2-3b", "facebook/esm2_t36_3B_UR50D", 36, 2560, 40),
    Card("esm2-15b", "facebook/esm2_t48_15B_UR50D", 48, 5120, 40),
)

for _card in _CARDS:
    ENCODERS.register(_card.name)(partial(Esm2, card=_card))
