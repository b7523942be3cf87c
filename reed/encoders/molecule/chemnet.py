"""ChemNet, which reads SMILES and predicts assays: the features of the Fréchet ChemNet Distance.

Source: Mayr et al., 2018; Preuer et al., 2018. The package fcd (1.2.2) has the weights as PyTorch
tensors, and its padding is kept to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from reed import weights as files
from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import PublicWeights
from reed.errors import ReedError
from reed.precision import computing
from reed.state_dict import compare
from reed.weights import Origin

if TYPE_CHECKING:
    import torch

NAME = "chemnet"
ORIGIN = Origin(
    files=("ChemNet_v0.13_pretrained.pt",),
    url="fcd/ChemNet_v0.13_pretrained.pt in the wheel of https://pypi.org/project/fcd/1.2.2/",
)
TOKENS = "C N O H F Cl P B Br S I Si # ( ) + - 1 2 3 4 5 6 7 8 = [ ] @ c n o s X .".split()
UNKNOWN, END = TOKENS.index("X"), "."
TOKEN = re.compile("|".join(map(re.escape, sorted(TOKENS, key=len, reverse=True))) + "|.")
LENGTH = 350  # of the input; only longer SMILES make it longer
WIDTH = 512

# The layers in the file, and the shapes of their tensors.
LAYERS = (
    ("Conv1d", {"weight": (32, 35, 4)}),
    ("Conv1d", {"weight": (32, 32, 4)}),
    (
        "LSTM",
        {
            "weight_ih_l0": (512, 32),
            "weight_hh_l0": (512, 128),
            "bias_ih_l0": (512,),
            "bias_hh_l0": (512,),
        },
    ),
    (
        "LSTM",
        {
            "weight_ih_l0": (2048, 128),
            "weight_hh_l0": (2048, WIDTH),
            "bias_ih_l0": (2048,),
            "bias_hh_l0": (2048,),
        },
    ),
)


@ENCODERS.register(NAME)
@dataclass
class ChemNet(PublicWeights):
    """The last hidden state of ChemNet for the SMILES of each molecule.

    The field ``sample`` [512] depends on how the SMILES is written. It knows no coordinates, and
    ``@`` but not ``/``: letters that ChemNet lacks are unknown to it.

    Attributes:
        weights: ``ChemNet_v0.13_pretrained.pt`` of the package fcd.
        smiles: Field of the SMILES, COLUMN/FIELD.
        batch_size: Molecules per call of ``encode``.
    """

    weights: str | None = None
    smiles: str = "molecule/smiles"
    batch_size: int = 64

    _layers: list[Any] = field(default_factory=list, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)

    name = NAME
    licence = "LGPL-3.0"
    origin = ORIGIN
    fields = (Field("sample", "sample", (WIDTH,), "float32"),)

    def __post_init__(self) -> None:
        if not all(self.smiles.partition("/")[::2]):
            problem = f"{NAME}.smiles is {self.smiles!r}"
            raise ReedError(f"{problem}; name a column and field: molecule/smiles")

    @property
    def reads(self) -> tuple[str, ...]:
        """The field of the SMILES."""
        return (self.smiles,)

    def revision(self) -> str:
        """Return the hash of the weights and the version of the computation."""
        return f"{self._find().sha256[:16]} 1 fp32"  # raise the 1 when the computation changes

    def load(self, device: str) -> None:
        """Load the weights onto ``device``.

        Raises:
            ReedError: The file is not a ChemNet.
        """
        import torch

        path = self._find().files[0]
        tables = tensors_of(files.content(path), str(path))

        # The two LSTMs are torch's own; the convolutions need their weights alone.
        self._layers = [table["weight"].float().to(device) for table in tables[:2]]
        for table in tables[2:]:
            outer, inner = table["weight_ih_l0"].shape[1], table["weight_hh_l0"].shape[1]
            lstm = torch.nn.LSTM(outer, inner, batch_first=True)
            lstm.load_state_dict(table)
            self._layers.append(lstm.requires_grad_(False).eval().to(device))
        self._device = device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``sample`` [512] of each molecule, float32.

        Raises:
            BadSample: A SMILES is empty.
        """
        texts = [sample[self.smiles] for sample in samples]
        if not all(texts):
            raise BadSample("the SMILES is empty")

        # Inputs of one length are computed together: padding would change the features.
        order = sorted(range(len(texts)), key=lambda i: padded_length(texts[i]))
        rows = np.empty((len(texts), WIDTH), np.float32)
        for length, group in groupby(order, key=lambda i: padded_length(texts[i])):
            chosen = list(group)
            rows[chosen] = self._run([texts[i] for i in chosen], length)
        return {"sample": rows}

    def _run(self, texts: Sequence[str], length: int) -> np.ndarray:
        import torch

        inputs = torch.zeros(len(texts), len(TOKENS), length)
        for row, text in zip(inputs, texts, strict=True):
            numbers = tokens(text)
            row[numbers, range(len(numbers))] = 1 / len(TOKENS)  # as the package fcd scales them
        with computing(self._device, "fp32"):
            return self._features(inputs.to(self._device)).cpu().numpy()

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features [B, 512] of scaled one-hot tokens [B, 35, T]."""
        import torch
        from torch.nn import functional

        # A stride of 2; of an odd length, the package fcd pads one more position on the right.
        for weight in self._layers[:2]:
            x = functional.pad(x, (1, 1 + x.shape[2] % 2))
            x = functional.selu(functional.conv1d(x, weight, stride=2))

        # Both LSTMs read their input from its end; the features are the last state of the second.
        states = x.transpose(1, 2)
        for lstm in self._layers[2:]:
            states, _ = lstm(torch.flip(states, [1]))
        return states[:, -1]


def tokens(smiles: str) -> list[int]:
    """Return the numbers of the tokens of a SMILES, and of the end token."""
    found = TOKEN.findall(smiles + END)
    return [TOKENS.index(token) if token in TOKENS else UNKNOWN for token in found]


def padded_length(smiles: str) -> int:
    """Return the length of the input for a SMILES; the package fcd counts letters, not tokens."""
    return max(LENGTH, len(smiles) + len(END))


def tensors_of(content: Any, where: str) -> list[dict[str, torch.Tensor]]:
    """Return the tensors of each layer in the file of the package fcd.

    Raises:
        ReedError: The file has other layers, or tensors of other shapes.
    """
    try:
        tables = [(kind, dict(settings[0])) for kind, settings in content]
    except (TypeError, ValueError, LookupError) as error:
        raise ReedError(f"{where} is not a ChemNet: it is no list of layers") from error
    have, want = [kind for kind, _ in tables], [kind for kind, _ in LAYERS]
    if have != want:
        raise ReedError(f"{where} is not a ChemNet: its layers are {have}, not {want}")

    for (_, table), (_, shapes) in zip(tables, LAYERS, strict=True):
        compare(where, shapes, table)
    return [table for _, table in tables]
