"""RDKit as a teacher: descriptors of a conformer and of the graph, per molecule and per atom.

There are no weights. The descriptors do not change when the molecule is rotated or translated, or
when its atoms are renumbered; the descriptors of atoms then follow the numbering.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.chem import rdkit
from reed.chem.molecule import ATOMS
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless
from reed.encoders.molecule.molecule import READS, check_coords, rdkit_mol

SHAPES = {"AUTOCORR3D": 80, "RDF": 210, "MORSE": 224, "WHIM": 114, "GETAWAY": 273}
USRCAT, MORGAN, PROJECTED = 60, 1024, 256
SAMPLE = sum(SHAPES.values()) + USRCAT + PROJECTED
RADIUS = 3  # radius of Morgan environments in bonds
HASHED = 512  # hash buckets for the environments of one atom
CLASSES = ("H", "C", "N", "O", "F", "P", "S", "Cl")  # all other elements form one more class
CENTRES, WIDTH = np.linspace(0.9, 5.4, 16), 0.3  # of the radial functions, in angstroms
SHELLS, SHELL_WIDTH = np.linspace(1.0, 5.0, 5), 0.6  # of the directional functions, in angstroms
CUTOFF = 6.0
LOCAL = (len(CENTRES) + 2 * len(SHELLS) + 1) * (len(CLASSES) + 1)
TOKEN = LOCAL + HASHED


@ENCODERS.register("rdkit3d")
@dataclass(frozen=True)
class RDKit3D(Weightless):
    """RDKit descriptors of a molecule and its conformer.

    Its fields:

    - ``sample`` [1217]: 3D descriptors (AUTOCORR3D, RDF, MORSE, WHIM, GETAWAY, USRCAT), and a
      fixed random projection of the counts of Morgan environments up to three bonds, all as
      ``sign(x) log(1 + |x|)``.
    - ``token`` [N, 755]: ``surroundings`` of each atom, and the hashed Morgan environments that it
      is the centre of.

    Their codec keeps the first principal components over the data set, whitened. Without it the
    size of a molecule alone would decide a cosine.

    Attributes:
        coords: Field of the coordinates to describe, such as ``conformer/coords``.
    """

    coords: str = "molecule/coords"

    fields = (
        Field("sample", "sample", (SAMPLE,), "pca:64+int8"),
        Field("token", "token", (None, TOKEN), "pca:128+int8"),
    )
    licence = "BSD-3-Clause"
    batch_size = 16

    def __post_init__(self) -> None:
        check_coords("rdkit3d", self.coords)

    @property
    def reads(self) -> tuple[str, ...]:
        """The fields of the molecule, and the coordinates to describe."""
        return tuple(dict.fromkeys((self.coords, *READS)))

    def revision(self) -> str:
        """Return the version of these descriptors and of RDKit."""
        return f"1-rdkit{rdkit.version()}"  # raise the 1 when a descriptor changes

    def load(self, device: str) -> None:
        """Import RDKit."""
        rdkit.library("Chem.rdMolDescriptors")

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one array per field and sample.

        Raises:
            BadSample: RDKit rejects the molecule, or a descriptor is not finite.
        """
        mols = [rdkit_mol(sample, self.coords) for sample in samples]
        columns = {"sample": [whole(mol) for mol in mols], "token": [atoms(mol) for mol in mols]}
        if not all(np.isfinite(value).all() for values in columns.values() for value in values):
            raise BadSample("a descriptor is not finite")
        return columns


def whole(mol: Any) -> np.ndarray:
    """Return the descriptors of a molecule, float32 [1217]."""
    descriptors = rdkit.library("Chem.rdMolDescriptors")
    parts: list[Any] = [getattr(descriptors, f"Calc{name}")(mol) for name in SHAPES]
    parts.append(descriptors.GetUSRCAT(mol))
    counts = _morgan(chiral=True, size=MORGAN).GetCountFingerprintAsNumPy(mol)
    parts.append(np.log1p(counts) @ _projection())
    values = np.concatenate([np.asarray(part, np.float64) for part in parts])
    return (np.sign(values) * np.log1p(np.abs(values))).astype(np.float32)


def atoms(mol: Any) -> np.ndarray:
    """Return the descriptors of each atom, float32 [N, 755]."""
    # RDKit reports, for each hash bucket, the atoms at the centre of its environments.
    extra = rdkit.library("Chem.rdFingerprintGenerator").AdditionalOutput()
    extra.AllocateBitInfoMap()
    _morgan(chiral=False, size=HASHED).GetCountFingerprint(mol, additionalOutput=extra)
    hashed = np.zeros((mol.GetNumAtoms(), HASHED))
    for bucket, centres in extra.GetBitInfoMap().items():
        for atom, _ in centres:
            hashed[atom, bucket] += 1

    near = surroundings(
        np.array([ATOMS.index(atom.GetSymbol()) for atom in mol.GetAtoms()]),
        mol.GetConformer().GetPositions(),
    )
    return np.concatenate([near, hashed], 1).astype(np.float32)


def surroundings(numbers: np.ndarray, coords: np.ndarray) -> np.ndarray:
    """Describe what lies within 6 angstroms of each atom, by element: float64 [N, 243].

    For each of nine classes of elements there are 16 Gaussians of the distance, summed over the
    atoms of the class, and the lengths of five sums of directions (l = 1) and of five sums of
    their traceless products (l = 2). The atom's own class follows.

    Args:
        numbers: Indices into ATOMS, [N].
        coords: Coordinates in angstroms, [N, 3].
    """
    classes = [CLASSES.index(symbol) if symbol in CLASSES else len(CLASSES) for symbol in ATOMS]
    kinds = np.eye(len(CLASSES) + 1)[np.array(classes)[numbers]]  # [N, 9]

    # A smooth fade to zero at the cutoff, so that no descriptor jumps when an atom crosses it.
    lines = coords[None] - coords[:, None]  # [N, N, 3], from each atom to all others
    distances = np.linalg.norm(lines, axis=-1)
    fades = np.where(distances < CUTOFF, 0.5 + 0.5 * np.cos(np.pi * distances / CUTOFF), 0.0)
    np.fill_diagonal(fades, 0.0)

    units = lines / np.maximum(distances, 1e-6)[..., None]
    radial = np.exp(-np.square((distances[..., None] - CENTRES) / WIDTH)) * fades[..., None]
    shells = np.exp(-np.square((distances[..., None] - SHELLS) / SHELL_WIDTH)) * fades[..., None]
    products = units[..., :, None] * units[..., None, :] - np.eye(3) / 3

    # Only the lengths of the sums enter: they do not change when the molecule is rotated.
    sums = [np.einsum("ijr,jc->irc", radial, kinds)]
    for directions in (units, products.reshape(*distances.shape, 9)):
        summed = np.einsum("ijr,ijd,jc->ircd", shells, directions, kinds, optimize=True)
        sums.append(np.linalg.norm(summed, axis=-1))
    return np.concatenate([*(part.reshape(len(kinds), -1) for part in sums), kinds], 1)


@lru_cache(maxsize=2)
def _morgan(*, chiral: bool, size: int) -> Any:
    make: Callable[..., Any] = rdkit.library("Chem.rdFingerprintGenerator").GetMorganGenerator
    return make(radius=RADIUS, fpSize=size, includeChirality=chiral)


@lru_cache(maxsize=1)
def _projection() -> np.ndarray:
    """Return a fixed Gaussian matrix, [1024, 256], that keeps lengths on average."""
    rng = np.random.Generator(np.random.PCG64(0))
    return rng.standard_normal((MORGAN, PROJECTED)) / np.sqrt(PROJECTED)
