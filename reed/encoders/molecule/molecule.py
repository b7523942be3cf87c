"""A molecule as a net is given it: atoms, charges, bonds, coordinates; and new conformers of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.chem import rdkit
from reed.chem.molecule import DEGREE, Molecule, to_matrix
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless
from reed.errors import ReedError
from reed.seeding import seed_for

READS = tuple(f"molecule/{name}" for name in ("coords", "atoms", "charges", "partners", "orders"))


@ENCODERS.register("molecule")
class Copied(Weightless):
    """A molecule as the source has it.

    coords: angstroms [N, 3]; atoms: places in reed.chem.molecule.ATOMS [N]; charges: formal [N];
    partners: the neighbours of each atom, -1 behind the last, and orders: the kinds of the bonds to
    them, 1, 2, 3, or 4 if aromatic, both [N, 8]; smiles: canonical.
    """

    reads = ("coords", "atoms", "charges", "partners", "orders", "smiles")
    fields = (
        Field("coords", "data", (None, 3)),
        Field("atoms", "data", (None,), "uint8"),
        Field("charges", "data", (None,), "int32"),
        Field("partners", "data", (None, DEGREE), "int32"),
        Field("orders", "data", (None, DEGREE), "uint8"),
        Field("smiles", "text", (), "utf8"),
    )
    batch_size = 64
    version = "1"  # raise it when the vocabulary changes

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """One value per field and sample."""
        return {name: [sample[name] for sample in samples] for name in self.reads}


@ENCODERS.register("conformer")
@dataclass(frozen=True)
class NewConformer(Weightless):
    """Another conformer of the same molecule, the same atoms in the same order, same stereo.

    coords: angstroms [N, 3]. It is what other encoders can see in place of the data set's own
    coordinates (`--set rdkit3d.coords=conformer/coords`): a synthetic modality of a list of SMILES.
    seed: the coordinates are a function of it and the key.
    """

    seed: int = 1

    reads = ("key", *READS)
    fields = (Field("coords", "data", (None, 3)),)
    batch_size = 16

    def revision(self) -> str:
        """The seed, and the version of RDKit that embeds."""
        return f"1-{self.seed}-rdkit{rdkit.version()}"

    def load(self, device: str) -> None:
        """RDKit is imported here."""
        rdkit.library()

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """coords of each sample; BadSample where none is found."""
        return {"coords": [self._coords(sample) for sample in samples]}

    def _coords(self, sample: dict[str, Any]) -> np.ndarray:
        mol = rdkit_mol(sample, "molecule/coords")
        if problem := rdkit.conformer(mol, seed_for("conformer", self.seed, sample["key"])):
            raise BadSample(problem)
        return mol.GetConformer().GetPositions().astype(np.float32)


def rdkit_mol(sample: dict[str, Any], coords: str) -> Any:
    """The molecule of a record with coordinates of that place; BadSample if RDKit refuses it."""
    found = rdkit.sanitised(molecule_of(sample, coords))
    if found is None:
        raise BadSample("is no molecule that RDKit accepts")
    return found


def molecule_of(sample: dict[str, Any], coords: str = "molecule/coords") -> Molecule:
    """The molecule of a record of the column `molecule`, with coordinates of that place."""
    bonds = to_matrix(sample["molecule/partners"], sample["molecule/orders"])
    atoms, charges = (np.asarray(sample[f"molecule/{name}"]) for name in ("atoms", "charges"))
    return Molecule(np.asarray(sample[coords], np.float32), atoms, charges, bonds)


def check_coords(name: str, place: str) -> None:
    """ReedError unless `place` names a field of a column."""
    if not all(place.partition("/")[::2]):
        raise ReedError(f"{name}.coords is {place!r}; name a column and field: molecule/coords")
