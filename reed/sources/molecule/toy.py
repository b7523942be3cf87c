"""Drug-like molecules that ship with RDKit or that it generates; nothing is downloaded."""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.chem import rdkit, rdkit_reading
from reed.errors import ReedError
from reed.seeding import seed_for
from reed.sources import SOURCES
from reed.sources.molecule.molecules import ENTRIES, embedded

# 10,000 molecules of a screening library, among the test data of RDKit's PAINS filters
SHIPPED = Path("Pains/test_data/wehi_mols.csv")
SPLITS = {"train": (0, 8), "valid": (8, 9), "test": (9, 10)}  # tenths of the molecules
VERSION = 1  # of all that follows from a seed
# what the generator takes apart: drugs and fragments of drugs
PARENTS = """
CC(=O)Nc1ccc(O)cc1 CC(C)Cc1ccc(cc1)C(C)C(=O)O CN1CCC(CC1)c1ccccc1 O=C(Nc1ccccn1)c1ccc(F)cc1
COc1ccc(CCN)cc1OC CS(=O)(=O)Nc1ccccc1 c1ccc2[nH]ccc2c1 O=C1CCCN1Cc1ccco1 CCOC(=O)c1ccncc1
N#Cc1ccc(OCC2CC2)cc1 Clc1ccc(cc1)C(=O)N1CCOCC1 CC(C)NCC(O)COc1cccc2ccccc12 Cn1cnc2c1c(=O)[nH]cn2
O=C(O)CSc1nnc(-c2ccccc2)o1 Cc1cc(C)nc(NC2CCCCC2)n1 FC(F)(F)c1cccc(N2CCNCC2)c1
CN(C)CCOC(c1ccccc1)c1ccccc1 O=S(=O)(c1ccc(Br)cc1)N1CCCC1 c1csc(-c2nccs2)c1 COC(=O)C1CCCO1
""".split()
GENERATED, HEAVY = 1000, (8, 38)  # molecules, and their atoms but hydrogens
TRIED = 20_000


@SOURCES.register("molecules-toy")
@dataclass(frozen=True)
class MoleculesToy:
    """Drug-like molecules that ship with RDKit, each with one conformer generated from a seed.

    The entries are those of the source ``molecules``.

    Attributes:
        samples: Number of molecules: at most 8,000 for training, 1,000 for each other split.
        split: ``train``, ``valid`` or ``test``.
        seed: Seed of the choice of molecules and of their conformers.
        generated: Whether to combine fragments of drugs instead of reading molecules, which also
            happens if RDKit ships none.
    """

    data: Path | None = None
    samples: int = 1024
    split: str = "train"
    seed: int = 0
    generated: bool = False

    entries = ENTRIES
    views = 1

    def __post_init__(self) -> None:
        if self.data is not None:
            raise ReedError(f"molecules-toy ships with RDKit and takes no --data, got {self.data}")
        if self.split not in SPLITS or self.samples < 1:
            raise ReedError(
                f"molecules-toy: split is {self.split!r} and samples {self.samples}; "
                f"they must be one of {tuple(SPLITS)} and at least 1"
            )

    def listing(self) -> dict[str, str]:
        """Return every key with its SMILES.

        Raises:
            ReedError: The split has fewer molecules than ``samples``.
        """
        return {f"{self.split}-{i:06d}": text for i, text in enumerate(self._chosen())}

    def computed_by(self) -> str:
        """Return the RDKit that ships the molecules and makes their conformers."""
        return f"rdkit {rdkit.version()}"

    def read(self, key: str, view: int = 0) -> dict[str, Any]:
        """Return one molecule, which depends on its key and the settings alone.

        Raises:
            BadSample: There is no such key.
        """
        split, _, row = key.rpartition("-")
        chosen = self._chosen()
        if split != self.split or not row.isdecimal() or int(row) >= len(chosen):
            raise BadSample(f"no molecule {key!r}: there are {len(chosen)} in {self.split!r}")
        mol = rdkit_reading.from_smiles(chosen[int(row)])
        if problem := rdkit.problem(mol):
            raise BadSample(f"{chosen[int(row)]!r}: {problem}")
        return embedded(mol, seed_for("molecules-toy", VERSION, self.seed, key))

    def _chosen(self) -> tuple[str, ...]:
        return _chosen(self.samples, self.split, self.seed, self.generated)


@lru_cache(maxsize=4)
def _chosen(samples: int, split: str, seed: int, generated: bool) -> tuple[str, ...]:
    known = brics() if generated else shipped() or brics()
    rng = np.random.Generator(np.random.PCG64(seed_for("molecules-toy", "order", seed)))
    order = rng.permutation(len(known))
    first, last = (len(known) * tenth // 10 for tenth in SPLITS[split])
    if samples > last - first:
        raise ReedError(f"molecules-toy has {last - first} molecules in {split!r}, not {samples}")
    return tuple(known[i] for i in order[first : first + samples])


@lru_cache(maxsize=1)
def shipped() -> tuple[str, ...]:
    """Return the SMILES that RDKit ships, sorted, without mixtures; empty if there is no file."""
    path = Path(rdkit.library("RDConfig").RDDataDir) / SHIPPED
    if not path.is_file():
        return ()
    with open(path, newline="", encoding="utf-8") as file:
        smiles = {row[0] for row in csv.reader(file) if row}
    return tuple(sorted(text for text in smiles if "." not in text))


@lru_cache(maxsize=1)
def brics() -> tuple[str, ...]:
    """Return 1,000 SMILES, sorted, that the BRICS rules make from fragments of drugs.

    They are the same in every process. Source: Degen et al., ChemMedChem 3, 1503 (2008); RDKit.
    """
    library, rules = rdkit.library(), rdkit.library("Chem.BRICS")
    parts: set[str] = set()
    for text in PARENTS:
        parts |= rules.BRICSDecompose(library.MolFromSmiles(text))
    fragments = [library.MolFromSmiles(part) for part in sorted(parts)]

    # BRICSBuild shuffles by Python's global generator.
    state, smiles = random.getstate(), set()
    random.seed(0)
    try:
        for tried, mol in enumerate(rules.BRICSBuild(fragments, maxDepth=2)):
            mol.UpdatePropertyCache(strict=False)
            if not library.SanitizeMol(mol, catchErrors=True):
                if HEAVY[0] <= mol.GetNumHeavyAtoms() <= HEAVY[1]:
                    smiles.add(library.MolToSmiles(mol))
            if len(smiles) >= GENERATED or tried >= TRIED:
                break
    finally:
        random.setstate(state)
    return tuple(sorted(smiles))
