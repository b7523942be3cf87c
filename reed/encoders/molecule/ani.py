"""ANI potentials as teachers: the states of atoms in networks that predict energies.

Source: Smith et al., 2018 (ANI-1x); Smith et al., 2019 (ANI-1ccx); Devereux et al., 2020 (ANI-2x).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.chem.molecule import ATOMS
from reed.encoders import ENCODERS
from reed.encoders.base import PublicWeights
from reed.encoders.molecule import ani_files, ani_net
from reed.encoders.molecule.molecule import check_coords
from reed.errors import ReedError
from reed.precision import computing
from reed.weights import Found, Origin


@dataclass(frozen=True)
class Card:
    """One public model.

    Attributes:
        name: Name in the registry.
        hidden: Elements, in its order, and the width of the last hidden layer of each.
        cutoffs: Radial and angular cutoff in angstroms.
        aev: Length of a descriptor.
        origin: Location of the weights.
    """

    name: str
    hidden: Mapping[str, int]
    cutoffs: tuple[float, float]
    aev: int
    origin: Origin

    @property
    def width(self) -> int:
        """The widest of the last hidden layers."""
        return max(self.hidden.values())


@dataclass
class AniStates(PublicWeights):
    """The states of atoms in an ANI potential, which do not change with rotation or translation.

    Its fields:

    - ``token`` [N, members x width]: the last hidden layer, from which the energy of an atom is a
      linear function, of each member of the ensemble. Elements have networks of their own; those
      with a narrower layer are padded with zeros.
    - ``sample`` [members x width]: the mean of ``token``.
    - ``aev`` [N, 384] or [N, 1008]: the descriptor of each atom's surroundings, which the networks
      read.

    Molecules with an element that the model lacks are not encoded. ANI knows no charges.

    Attributes:
        card: The model.
        weights: A folder of NeuroChem, or a state dict of torchani; None for the public weights.
        members: Networks in the ensemble.
        aev: Whether to store the descriptors.
        coords: Field of the coordinates, such as ``conformer/coords``.
        batch_size: Molecules per call of ``encode``.
    """

    card: Card
    weights: str | None = None
    members: int = 8
    aev: bool = False
    coords: str = "molecule/coords"
    batch_size: int = 16

    _ani: Any = field(default=None, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)

    licence = "MIT"

    def __post_init__(self) -> None:
        check_coords(self.card.name, self.coords)
        if self.members < 1:
            raise ReedError(
                f"{self.card.name}.members is {self.members}; an ensemble has 1 or more"
            )

    @property
    def name(self) -> str:
        """Name of the encoder, from its card."""
        return self.card.name

    @property
    def origin(self) -> Origin:
        """Location of the public weights."""
        return self.card.origin

    @property
    def reads(self) -> tuple[str, ...]:
        """The coordinates and the elements."""
        return (self.coords, "molecule/atoms")

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields ``sample`` and ``token``, and the descriptors if they are stored."""
        dim = self.members * self.card.width
        fields = [
            Field("sample", "sample", (dim,), "float32"),
            Field("token", "token", (None, dim), "int8"),
        ]
        if self.aev:
            fields.append(Field("aev", "token", (None, self.card.aev), "int8"))
        return tuple(fields)

    def _find(self) -> Found:
        """Find the weights; a folder of NeuroChem has many files."""
        folder = Path(self.weights or "").expanduser()
        if self.weights and folder.is_dir() and (files := ani_files.listing(folder)):
            return Found(folder, files)
        try:
            return super()._find()
        except ReedError as error:
            # A folder that is one of NeuroChem in part is told what it lacks.
            parts = {p: len([*folder.glob(p)]) for p in ani_files.PARTS} if self.weights else {}
            if not folder.is_dir() or not any(parts.values()):
                raise
            have = ", ".join(f"{count} {part}" for part, count in parts.items())
            problem = f"{self.name}: {folder} is no whole folder of NeuroChem: it has {have}"
            raise ReedError(
                f"{problem}, and needs 1 of the former and some of the latter; copy it again"
            ) from error

    def revision(self) -> str:
        """Return the hash of the weights, the coordinates and the version of the computation."""
        return f"{self._find().sha256[:16]} of {self.coords} 1 fp32"  # raise the 1 when it changes

    def load(self, device: str) -> None:
        """Load the weights onto ``device``.

        Raises:
            ReedError: The files are not those of this model.
        """
        found = self._find()
        elements = tuple(self.card.hidden)
        if len(found.files) > 1:
            ani, where = ani_files.from_neurochem(found.folder), str(found.folder)
        else:
            where = str(found.files[0])
            ani = ani_files.from_torchani(found.files[0], elements, self.card.cutoffs)

        # What the card states of the fields must hold for the file.
        have, want = ani.elements, elements
        if have != want:
            problem = f"{where} has the elements {', '.join(have)}"
            raise ReedError(f"{problem}, {self.name} has {', '.join(want)}; name its encoder")
        if len(ani.members) != self.members:
            count = len(ani.members)
            problem = f"{where} has {count} members, {self.name}.members is {self.members}"
            raise ReedError(f"{problem}; set members={count}")
        terms = ani.terms
        if not np.allclose((terms.radial_cutoff, terms.angular_cutoff), self.card.cutoffs):
            problem = (
                f"{where} has the cutoffs {terms.radial_cutoff:g} and {terms.angular_cutoff:g}"
            )
            far, close = self.card.cutoffs
            raise ReedError(f"{problem}, {self.name} has {far:g} and {close:g}; name its encoder")
        if (width := terms.width(len(have))) != self.card.aev:
            raise ReedError(f"{where} has descriptors of {width} numbers, not {self.card.aev}")
        ani.check(where, self.card.hidden)
        self._ani, self._device = ani.to(device), device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one array per field and sample, float32.

        Raises:
            BadSample: A molecule has an element that the model lacks.
        """
        import torch

        # One molecule at a time, so that no padding enters.
        species = [self._species(sample) for sample in samples]
        tokens, descriptors = [], []
        with computing(self._device, "fp32"):
            for numbers, sample in zip(species, samples, strict=True):
                kinds = torch.from_numpy(numbers).to(self._device)
                coords = torch.from_numpy(np.array(sample[self.coords], np.float32))
                coords = coords.to(self._device)
                aev = ani_net.descriptors(self._ani.terms, kinds, coords, len(self.card.hidden))
                values = ani_net.states(self._ani, kinds, aev, self.card.width)
                tokens.append(values.cpu().numpy())
                descriptors.append(aev.cpu().numpy())

        found = {"token": tokens, "sample": [each.mean(0) for each in tokens]}
        return found | ({"aev": descriptors} if self.aev else {})

    def _species(self, sample: dict[str, Any]) -> np.ndarray:
        """Return the numbers of the elements of a molecule."""
        symbols = [ATOMS[number] for number in np.asarray(sample["molecule/atoms"]).tolist()]
        numbers = ani_net.numbers_of(tuple(self.card.hidden), symbols)
        if (numbers < 0).any():
            lacking = ", ".join(sorted({s for s, n in zip(symbols, numbers, strict=True) if n < 0}))
            known = ", ".join(self.card.hidden)
            raise BadSample(f"the molecule has {lacking}; {self.name} knows {known}")
        return numbers


_SMALL = dict.fromkeys("HCNO", 96)
_LARGE = {"H": 160, "C": 160, "N": 128, "O": 128, "S": 96, "F": 96, "Cl": 96}
_WHEEL = Origin(
    files=("*.params", "train*"),
    url="torchani/resources/ani-1x_8x in the wheel of https://pypi.org/project/torchani/2.1.1/",
)


def _hub(name: str) -> Origin:
    return Origin(f"roitberg-group/{name}", files=(f"{name}_state_dict.pt",))


for _card in (
    Card("ani-1x", _SMALL, (5.2, 3.5), 384, _WHEEL),
    Card("ani-1ccx", _SMALL, (5.2, 3.5), 384, _hub("ani1ccx")),
    Card("ani-2x", _LARGE, (5.1, 3.5), 1008, _hub("ani2x")),
):
    ENCODERS.register(_card.name)(partial(AniStates, card=_card))
