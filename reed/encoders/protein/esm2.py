"""ESM-2, a language model of protein sequences: vectors per residue, per pair and per chain.

Source: Lin et al., 2023, Science 379:1123. The weights of https://github.com/facebookresearch/esm
and of the Hugging Face hub are the same numbers under different names.
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
from reed.encoders.protein import esm2_weights, per_chain
from reed.encoders.protein.chain import segments
from reed.errors import ReedError
from reed.precision import cast_weights
from reed.weights import Found, Origin

if TYPE_CHECKING:
    import torch

LETTERS = "LAGVSERTIDPKQNFYMHWCX"  # tokens 4 to 24 of ESM's alphabet
FIRST, CLS, PAD, EOS = 4, 0, 1, 2
GRAPH = "chain/neighbours"


@dataclass(frozen=True)
class Card:
    """One size of the model.

    Attributes:
        name: Name in the registry.
        hub: Repository on the Hugging Face hub.
        layers: Transformer layers.
        dim: Channels of a token.
        heads: Attention heads per layer.
    """

    name: str
    hub: str
    layers: int
    dim: int
    heads: int


@dataclass
class Esm2(PublicWeights):
    """Hidden states of ESM-2 on the sequence of each chain of a sample.

    Its fields; pairs of different chains are zero:

    - ``tokens`` [L, dim]: the states, without the begin and end tokens.
    - ``mean`` [dim]: their mean over the sample.
    - ``attention`` [L, 48, layers x heads]: of every head, the symmetric attention map after
      average product correction, at ``chain/neighbours``.
    - ``contacts`` [L, 48, 2]: the probability of a contact (CB within 8 angstroms), and of none.

    Attributes:
        card: Size of the model.
        weights: A transformers folder, or the .pt file of fair-esm; None for the public weights.
        layer: Layer whose output is stored, counted from 1; 0 is the last, which ends in a norm.
        attention: Whether to store the attention maps.
        contacts: Whether to store the predictions of the contact head.
        precision: ``fp32``, ``tf32`` or ``bf16``, of the weights too.
        batch_size: Samples per call of ``encode``.
    """

    libraries, extra = ("transformers",), "proteins"

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
        per_chain.check_layer(self.card.name, self.layer, self.card.layers)

    @property
    def reads(self) -> tuple[str, ...]:
        """The sequence, and the graph if pairs are stored."""
        return ("sequence", "chain", *([GRAPH] if self.attention or self.contacts else []))

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields ``tokens`` and ``mean``, then the chosen fields of pairs."""
        card, pairs = self.card, []
        if self.attention:
            shape = (None, NEIGHBOURS, card.layers * card.heads)
            pairs.append(Field("attention", "pair", shape, "int8"))
        if self.contacts:
            pairs.append(Field("contacts", "pair", (None, NEIGHBOURS, 2), "float16"))
        tokens = Field("tokens", "token", (None, card.dim), "int8")
        return (tokens, Field("mean", "sample", (card.dim,), "float32"), *pairs)

    @property
    def origin(self) -> Origin:
        """Location of the public weights."""
        return pre.origin_of(self.card.hub)

    @property
    def name(self) -> str:
        """Name of the encoder, from its card."""
        return self.card.name

    def revision(self) -> str:
        """Return the weights, the layer, the precision and the library."""
        found = self._find()
        digest = found.sha256[:16] if self._is_fair(found) else pre.fingerprint(found)
        heads = f" {esm2_weights.contact_sha256(found)[:16]}" if self._has_beside(found) else ""
        layer = self.layer or self.card.layers
        version = pre.version("transformers", "proteins")
        # Earlier versions also rounded the frequencies of positions of a .pt file in bf16.
        rounded = " weights" if self.precision == "bf16" and self._is_fair(found) else ""
        return f"{digest}{heads} {version} {self.precision}{rounded} layer {layer}"

    def _is_fair(self, found: Found) -> bool:
        return found.files[0].suffix == ".pt"

    def _has_beside(self, found: Found) -> bool:
        return self.contacts and self._is_fair(found)

    def load(self, device: str) -> None:
        """Load the model onto ``device``.

        Raises:
            ReedError: The weights are those of another size.
        """
        found = self._find()
        if self._is_fair(found):
            model = esm2_weights.open_fair(found, contacts=self.contacts)
            cast_weights(model, self.precision)
        else:
            model = pre.open_model("EsmModel", found, self.precision)

        # A .pt file or folder of another size opens as well, so the size is compared here.
        config, card = model.config, self.card
        have = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads)
        if have != (card.layers, card.dim, card.heads):
            names = "layers, channels and heads"
            want = (card.layers, card.dim, card.heads)
            raise ReedError(f"{found.files[0]} has {have} {names}, {card.name} has {want}")
        model.set_attn_implementation("eager")  # computes as fair-esm does, and returns the maps
        self._model, self._device = model.to(device), device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one array per field and sample."""
        names = [field.name for field in self.fields if field.name != "mean"]
        parts: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in samples] for name in names}
        chains = [(i, part) for i, sample in enumerate(samples) for part in segments(sample)]

        # Attention maps are large: those of one chain fit in memory, those of a batch may not.
        step = len(chains) if names == ["tokens"] else 1
        for start in range(0, len(chains), step):
            batch = chains[start : start + step]
            for (i, _), values in zip(batch, self._run(samples, batch), strict=True):
                for name, value in values.items():
                    parts[name][i].append(value)

        columns = {name: [np.concatenate(chunks) for chunks in parts[name]] for name in names}
        return columns | {"mean": [tokens.mean(0) for tokens in columns["tokens"]]}

    def _run(
        self, samples: Sequence[dict[str, Any]], chains: Sequence[tuple[int, slice]]
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield the values of some chains, each [length, ...]; a chain is (sample, residues)."""
        import torch

        # One row of tokens per chain, padded to the longest.
        texts = [samples[i]["sequence"][part] for i, part in chains]
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

            # The begin token is at 0; the end token and padding follow the residues.
            for index, (i, part) in enumerate(chains):
                inside = slice(1, part.stop - part.start + 1)
                values = {"tokens": states[index, inside]}
                if pairs:
                    graph = np.asarray(samples[i][GRAPH])[part]
                    maps = [layer[index, :, inside, inside] for layer in output.attentions]
                    values |= self._pairs(torch.cat(maps).float(), graph, part)
                yield values

    def _pairs(self, maps: torch.Tensor, graph: np.ndarray, part: slice) -> dict[str, np.ndarray]:
        """Return attention and contacts at the neighbours, from the maps of one chain.

        Args:
            maps: Attention maps [layers x heads, L, L].
            graph: Neighbours of the chain's residues [L, 48], as indices into the sample.
            part: The residues of the chain in the sample.
        """
        import torch

        # Neighbours in other chains have no map; they are clamped to be read, then zeroed.
        inside = torch.from_numpy((graph >= part.start) & (graph < part.stop)).to(maps.device)
        columns = torch.from_numpy(graph - part.start).to(maps.device).clamp(0, len(graph) - 1)
        rows = torch.arange(len(graph), device=maps.device)[:, None]
        at = corrected(maps)[:, rows, columns].permute(1, 2, 0)  # [L, 48, layers * heads]

        values = {}
        if self.attention:
            values["attention"] = (at * inside[..., None]).cpu().numpy()
        if self.contacts:
            chance = self._model.contact_head.regression.float()(at).sigmoid()
            both = torch.cat([chance, 1 - chance], -1) * inside[..., None]
            values["contacts"] = both.cpu().numpy()
        return values


def token(letter: str) -> int:
    """Return the token of a letter of ``reed.chem.protein.ALPHABET`` in ESM's alphabet."""
    return FIRST + LETTERS.index(letter)


def corrected(maps: torch.Tensor) -> torch.Tensor:
    """Symmetrise maps and apply the average product correction: [C, L, L] -> [C, L, L].

    Source: Dunn et al., 2008; Rao et al., 2021, who regress contacts on these maps.
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
