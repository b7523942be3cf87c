"""The molecule itself (atoms, charges, bonds, coordinates), and new conformers of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.chem import rdkit, rdkit_reading
from reed.chem.molecule import AROMATIC, ATOMS, CHARGES, DEGREE, Molecule, to_matrix
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless
from reed.errors import ReedError
from reed.seeding import seed_for

READS = tuple(f"molecule/{name}" for name in ("coords", "atoms", "charges", "partners", "orders"))


@ENCODERS.register("molecule")
class Copied(Weightless):
    """The molecule as the source provides it.

    Its fields:

    - ``coords`` [N, 3]: coordinates in angstroms.
    - ``atoms`` [N]: indices into ``reed.chem.molecule.ATOMS``.
    - ``charges`` [N]: formal charges.
    - ``partners`` [N, 8]: bonded neighbours of each atom, padded with -1.
    - ``orders`` [N, 8]: kinds of the bonds to them: 1, 2, 3, or 4 for aromatic bonds.
    - ``smiles``: canonical SMILES.
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
    symbols: ClassVar = {
        "atoms": dict(enumerate(ATOMS)),
        "charges": {charge: f"{charge:+d}" if charge else "0" for charge in CHARGES},
        "orders": {1: "single", 2: "double", 3: "triple", AROMATIC: "aromatic"},
    }

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one value per field and sample."""
        return {name: [sample[name] for sample in samples] for name in self.reads}


@ENCODERS.register("conformer")
@dataclass(frozen=True)
class NewConformer(Weightless):
    """Another conformer of each molecule, with the same atom order and stereochemistry.

    The field ``coords`` [N, 3] is in angstroms. Other encoders can read it instead of the data
    set's own coordinates (``--set rdkit3d.coords=conformer/coords``), which makes it a synthetic
    modality of a list of SMILES.

    Attributes:
        seed: Seed of the embedding. The coordinates depend on it and on the sample's key alone.
    """

    seed: int = 1

    reads = ("key", *READS)
    fields = (Field("coords", "data", (None, 3)),)
    batch_size = 16

    def revision(self) -> str:
        """Return the seed and the version of RDKit."""
        return f"1-{self.seed}-rdkit{rdkit.version()}"

    def load(self, device: str) -> None:
        """Import RDKit."""
        rdkit.library()

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return the ``coords`` of each sample.

        Raises:
            BadSample: RDKit rejects the molecule or finds no conformer of it.
        """
        return {"coords": [self._coords(sample) for sample in samples]}

    def _coords(self, sample: dict[str, Any]) -> np.ndarray:
        mol = rdkit_mol(sample, "molecule/coords")
        if problem := rdkit.conformer(mol, seed_for("conformer", self.seed, sample["key"])):
            raise BadSample(problem)
        return mol.GetConformer().GetPositions().astype(np.float32)


def rdkit_mol(sample: dict[str, Any], coords: str) -> Any:
    """Return the RDKit molecule of a record.

    Args:
        sample: A record that holds the column ``molecule``.
        coords: Field of the coordinates to use.

    Raises:
        BadSample: RDKit rejects the molecule.
    """
    molecule = molecule_of(sample, coords)
    mol = rdkit.sanitised(molecule)
    if mol is None:
        reason = rdkit_reading.why_unsound(molecule)
        raise BadSample(f"is no molecule that RDKit accepts: {reason}")
    return mol


def molecule_of(sample: dict[str, Any], coords: str = "molecule/coords") -> Molecule:
    """Return the molecule of a record of the column ``molecule``.

    Args:
        sample: A record that holds the column.
        coords: Field of the coordinates to use.
    """
    bonds = to_matrix(sample["molecule/partners"], sample["molecule/orders"])
    atoms, charges = (np.asarray(sample[f"molecule/{name}"]) for name in ("atoms", "charges"))
    return Molecule(np.asarray(sample[coords], np.float32), atoms, charges, bonds)


def check_coords(name: str, address: str) -> None:
    """Raise ReedError unless ``address`` names a field of a column, COLUMN/FIELD."""
    if not all(address.partition("/")[::2]):
        raise ReedError(f"{name}.coords is {address!r}; name a column and field: molecule/coords")
