"""SaProt, a language model of residues with their 3Di state: vectors per residue, and their mean.

Source: Su et al., 2024, ICLR; westlake-repl/SaProt, utils/constants.py, for the vocabulary. The
network is that of ESM-2, with a token for every pair of a residue and a state.
"""

from __future__ import annotations

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
from reed.weights import Found, Origin

SPECIAL = ("<cls>", "<pad>", "<eos>", "<unk>", "<mask>")
LETTERS = "ACDEFGHIKLMNPQRSTVWY#"
STATES = "pynwrqhgdlvtmfsaeikc#"
VOCABULARY = (*SPECIAL, *(letter + state for letter in LETTERS for state in STATES))
CLS, PAD, EOS = (SPECIAL.index(name) for name in ("<cls>", "<pad>", "<eos>"))


@dataclass(frozen=True)
class Card:
    """One public model.

    Attributes:
        name: Name in the registry.
        hub: Repository on the Hugging Face hub.
        layers: Transformer layers.
        dim: Channels of a token.
    """

    name: str
    hub: str
    layers: int
    dim: int


@dataclass
class SaProt(PublicWeights):
    """Hidden states of SaProt on the sequence and the 3Di states of each chain of a sample.

    The states are computed from N, CA and C by biotite, which has Foldseek's encoder; see
    ``reed.encoders.protein.foldseek``. A residue whose backbone is not observed is masked (``#``),
    as SaProt masks residues of low confidence, and so is the letter X.

    Its fields:

    - ``tokens`` [L, dim]: the states of the last layer, without the begin and end tokens.
    - ``mean`` [dim]: their mean over the sample.

    Attributes:
        card: The model.
        weights: The folder of the hub's repository; None for the public weights.
        layer: Layer whose output is stored, counted from 1; 0 is the last, which ends in a norm.
        coords: Field of the coordinates, such as ``esmfold/coords``.
        precision: ``fp32``, ``tf32`` or ``bf16``, of the weights too.
        batch_size: Samples per call of ``encode``.
    """

    libraries, extra = ("transformers", "biotite"), "proteins"

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
        """The sequence and the coordinates."""
        return ("sequence", "chain", self.coords)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields ``tokens`` and ``mean``."""
        return per_chain.fields(self.card.dim)

    @property
    def origin(self) -> Origin:
        """Location of the public weights; the tokens are listed beside them."""
        return Origin(self.card.hub, files=("config.json", "vocab.txt", "pytorch_model.bin"))

    @property
    def name(self) -> str:
        """Name of the encoder, from its card."""
        return self.card.name

    def revision(self) -> str:
        """Return the weights, the layer, the coordinates, the precision and the libraries."""
        layer = self.layer or self.card.layers
        version = f"{pre.version('transformers', 'proteins')} {foldseek.version()}"
        return (
            f"{pre.fingerprint(self._find())} {version} {self.precision} layer {layer} "
            f"3di of {self.coords} 1"  # raise the 1 when the tokens change
        )

    def load(self, device: str) -> None:
        """Load the model onto ``device``.

        Raises:
            ReedError: The weights are those of another model or size.
        """
        found = self._find()
        check_vocabulary(found)
        model = pre.open_model("EsmModel", found, self.precision)

        # A folder of another size opens as well, so the size is compared here.
        config = model.config
        have = (config.num_hidden_layers, config.hidden_size, config.vocab_size)
        want = (self.card.layers, self.card.dim, len(VOCABULARY))
        if have != want:
            names = "layers, channels and tokens"
            raise ReedError(f"{found.folder} has {have} {names}, {self.card.name} has {want}")
        self._model, self._device = model.to(device), device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``tokens`` [L, dim] and ``mean`` [dim] of each sample, float32.

        Raises:
            BadSample: A sample has not one set of coordinates per residue.
        """
        for sample in samples:
            have, want = np.shape(sample[self.coords]), (len(sample["sequence"]), 4, 3)
            if have != want:
                raise BadSample(f"{self.coords} is {list(have)}, the sequence needs {list(want)}")
        return per_chain.encode(samples, self._run)

    def _run(self, chains: Sequence[per_chain.Chain]) -> list[np.ndarray]:
        import torch

        # One row of tokens per chain, padded to the longest.
        rows = [
            tokens(sample["sequence"][part], foldseek.states(np.asarray(sample[self.coords])[part]))
            for sample, part in chains
        ]
        ids = torch.full((len(rows), max(map(len, rows)) + 2), PAD)
        for into, row in zip(ids, rows, strict=True):
            into[: len(row) + 2] = torch.tensor([CLS, *row, EOS])
        ids = ids.to(self._device)

        with pre.running(self._device, self.precision):
            output = self._model(ids, attention_mask=ids.ne(PAD).long(), output_hidden_states=True)
            values = output.hidden_states[self.layer or -1].float().cpu().numpy()
        return [values[i, 1 : len(row) + 1] for i, row in enumerate(rows)]


def tokens(sequence: str, states: str) -> list[int]:
    """Return the token of every residue with its state; an unknown residue, X, is masked."""
    letters = sequence.replace("X", "#")
    pairs = zip(letters, states, strict=True)
    return [
        len(SPECIAL) + LETTERS.index(letter) * len(STATES) + STATES.index(state)
        for letter, state in pairs
    ]


def check_vocabulary(found: Found) -> None:
    """Compare the tokens beside the weights with those of the code.

    Raises:
        ReedError: A token has another number.
    """
    path = found.folder / "vocab.txt"
    if not path.is_file():
        return
    have = path.read_text(encoding="utf-8").split()
    for number, token in enumerate(VOCABULARY):
        other = have[number] if number < len(have) else "no token"
        if other != token:
            problem = f"{path} has {other} as token {number}, SaProt has {token}"
            raise ReedError(f"{problem}; give the folder of a SaProt")


_CARDS = (
    Card("saprot-35m", "westlake-repl/SaProt_35M_AF2", 12, 480),
    Card("saprot-650m", "westlake-repl/SaProt_650M_AF2", 33, 1280),
    Card("saprot-650m-pdb", "westlake-repl/SaProt_650M_PDB", 33, 1280),
)

for _each in _CARDS:
    ENCODERS.register(_each.name)(partial(SaProt, card=_each))
