"""ProstT5 and ProtT5, encoders of T5 for residues or their 3Di states: vectors per residue.

Source: Heinzinger et al., 2024, NAR Genomics and Bioinformatics 6:lqae150; mheinzinger/ProstT5,
scripts/embed.py; Elnaggar et al., 2022, TPAMI 44:7112 (ProtT5).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders import pretrained as pre
from reed.encoders.base import PublicWeights
from reed.encoders.image.batches import check_precision
from reed.encoders.protein import foldseek, per_chain
from reed.errors import ReedError
from reed.hub import require
from reed.weights import Found, Origin

PAD, EOS, UNKNOWN = 0, 1, 2
LETTERS = {letter: number for number, letter in enumerate("ALGVSREDTIPKFQNYMHWCXBOUZ", 3)}
# What ProstT5 added to ProtT5, behind the 100 sentinels of T5: states, and the two directions.
ADDED = {state: number for number, state in enumerate("algvsredtipkfqnymhwc", 128)}
ADDED |= {"<fold2AA>": 148, "<AA2fold>": 149}
PIECE = re.compile(rb"\n\x04\xe2\x96\x81([A-Z])")  # in spiece.model, a letter at a word's start


@dataclass(frozen=True)
class Card:
    """One public model, and what it reads.

    Attributes:
        name: Name in the registry.
        hub: Repository on the Hugging Face hub.
        prefix: The token before the residues; empty for none.
        layers: Transformer layers.
        dim: Channels of a token.
    """

    name: str
    hub: str
    prefix: str = ""
    layers: int = 24
    dim: int = 1024

    @property
    def reads_states(self) -> bool:
        """Whether it reads 3Di states instead of residues."""
        return self.prefix == "<fold2AA>"


@dataclass
class ProtT5(PublicWeights):
    """Hidden states of the encoder of ProstT5 or ProtT5 on each chain of a sample.

    ``prostt5`` reads the sequence, ``prostt5-3di`` the 3Di states that are computed from N, CA and
    C (``reed.encoders.protein.foldseek``); a residue whose backbone is not observed is an unknown
    token to the latter. ``prott5-xl`` is the model that ProstT5 began with.

    Its fields:

    - ``tokens`` [L, dim]: the states of the last layer, without the token of the direction before
      the residues and the end token.
    - ``mean`` [dim]: their mean over the sample.

    Attributes:
        card: The model.
        weights: The folder of the hub's repository; None for the public weights.
        layer: Layer whose output is stored, counted from 1; 0 is the last, which ends in a norm.
        coords: Field of the coordinates for 3Di states, such as ``esmfold/coords``.
        precision: ``fp32``, ``tf32`` or ``bf16``, of the weights too.
        batch_size: Samples per call of ``encode``.
    """

    extra = "proteins"

    card: Card
    weights: str | None = None
    layer: int = 0
    coords: str = "coords"
    precision: str = "fp32"
    batch_size: int = 8

    _model: Any = field(default=None, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)

    licence = "MIT"

    def __post_init__(self) -> None:
        check_precision(self.card.name, self.precision)
        per_chain.check_layer(self.card.name, self.layer, self.card.layers)

    @property
    def reads(self) -> tuple[str, ...]:
        """The sequence, and the coordinates if states are read."""
        return ("sequence", "chain", *([self.coords] if self.card.reads_states else []))

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields ``tokens`` and ``mean``."""
        return per_chain.fields(self.card.dim)

    @property
    def origin(self) -> Origin:
        """Location of the public weights; the tokens are listed beside them."""
        added = ["added_tokens.json"] if self.card.prefix else []
        return Origin(self.card.hub, files=("config.json", "spiece.model", "*.bin", *added))

    @property
    def name(self) -> str:
        """Name of the encoder, from its card."""
        return self.card.name

    def check_libraries(self) -> None:
        """Raise ReedError if a module that the model needs is not installed."""
        states = ["biotite"] if self.card.reads_states else []
        require(self.name, ["transformers", *states], self.extra)

    def revision(self) -> str:
        """Return the weights, the layer, the precision, the libraries and what is read."""
        layer = self.layer or self.card.layers
        version = pre.version("transformers", "proteins")
        states = f" 3di of {self.coords} {foldseek.version()}" if self.card.reads_states else ""
        return (
            f"{pre.fingerprint(self._find())} {version} {self.precision} layer {layer} "
            f"{self.card.prefix or 'no prefix'}{states} 1"  # raise the 1 when the tokens change
        )

    def load(self, device: str) -> None:
        """Load the model onto ``device``.

        Raises:
            ReedError: The weights are those of another model or size.
        """
        found = self._find()
        check_vocabulary(found, added=bool(self.card.prefix))
        model = pre.open_model("T5EncoderModel", found, self.precision)

        # A folder of another size opens as well, so the size is compared here.
        config = model.config
        have = (config.num_layers, config.d_model)
        want = (self.card.layers, self.card.dim)
        if have != want:
            problem = "{} has {} layers and {} channels".format(found.folder, *have)
            problem += f", {self.name} has {want[0]} and {want[1]}"
            raise ReedError(f"{problem}; give the folder of {self.card.hub}")
        last = max((*LETTERS.values(), *(ADDED.values() if self.card.prefix else ())))
        if config.vocab_size <= last:
            problem = f"{found.folder} has {config.vocab_size} tokens, {self.name} reads {last + 1}"
            raise ReedError(f"{problem}; give the folder of {self.card.hub}")
        self._model, self._device = model.to(device), device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``tokens`` [L, dim] and ``mean`` [dim] of each sample, float32.

        Raises:
            BadSample: A sample has not one set of coordinates per residue, if states are read.
        """
        for sample in samples if self.card.reads_states else ():
            have, want = np.shape(sample[self.coords]), (len(sample["sequence"]), 4, 3)
            if have != want:
                raise BadSample(f"{self.coords} is {list(have)}, the sequence needs {list(want)}")
        return per_chain.encode(samples, self._run)

    def _run(self, chains: Sequence[per_chain.Chain]) -> list[np.ndarray]:
        import torch

        # One row of tokens per chain, padded to the longest.
        rows = [self._tokens(sample, part) for sample, part in chains]
        ids = torch.full((len(rows), max(map(len, rows))), PAD)
        for into, row in zip(ids, rows, strict=True):
            into[: len(row)] = torch.tensor(row)
        mask = torch.tensor([[place < len(row) for place in range(ids.shape[1])] for row in rows])
        ids, mask = ids.to(self._device), mask.long().to(self._device)

        with pre.running(self._device, self.precision):
            output = self._model(ids, attention_mask=mask, output_hidden_states=True)
            values = output.hidden_states[self.layer or -1].float().cpu().numpy()
        start = 1 if self.card.prefix else 0
        return [values[i, start : len(row) - 1] for i, row in enumerate(rows)]

    def _tokens(self, sample: dict[str, Any], part: slice) -> list[int]:
        """Return the tokens of a chain, with the direction before and the end token behind."""
        before = [ADDED[self.card.prefix]] if self.card.prefix else []
        if self.card.reads_states:
            letters = foldseek.states(np.asarray(sample[self.coords])[part])
            return [*before, *(ADDED.get(state, UNKNOWN) for state in letters), EOS]
        return [*before, *(LETTERS[letter] for letter in sample["sequence"][part]), EOS]


def check_vocabulary(found: Found, *, added: bool) -> None:
    """Compare the tokens beside the weights, as far as they are there, with those of the code.

    Args:
        found: The files of the model.
        added: Whether it has the tokens that ProstT5 added.

    Raises:
        ReedError: A token has another number.
    """
    # The pieces of a SentencePiece model are in the order of their numbers.
    path, letters = found.folder / "spiece.model", "".join(LETTERS)
    if path.is_file():
        have = "".join(letter.decode() for letter in PIECE.findall(path.read_bytes()))
        if have != letters:
            problem = f"{path} has the letters {have or 'of no residue'}, ProtT5 has {letters}"
            raise ReedError(f"{problem}; give the folder of a ProtT5 or ProstT5")

    path = found.folder / "added_tokens.json"
    if added and path.is_file():
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            differing = {
                token: table.get(token) for token in ADDED if table.get(token) != ADDED[token]
            }
        except (ValueError, AttributeError) as error:
            raise ReedError(f"cannot read {path} ({error}); download it again") from error
        for token, number in differing.items():
            problem = f"{path} has {token} as token {number}, ProstT5 has {ADDED[token]}"
            raise ReedError(f"{problem}; give the folder of a ProstT5")


for _each in (
    Card("prostt5", "Rostlab/ProstT5", "<AA2fold>"),
    Card("prostt5-3di", "Rostlab/ProstT5", "<fold2AA>"),
    Card("prott5-xl", "Rostlab/prot_t5_xl_half_uniref50-enc"),
):
    ENCODERS.register(_each.name)(partial(ProtT5, card=_each))
