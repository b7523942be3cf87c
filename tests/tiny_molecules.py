"""A few molecules, and files of them in the true formats; for runpy."""

from __future__ import annotations

import gzip
import json
import pickle
from functools import cache
from pathlib import Path

SMILES = (
    "CC(=O)Nc1ccc(O)cc1", "c1ccccc1", "C[N+](C)(C)CC([O-])=O", "c1cc[nH]c1", "CS(=O)(=O)N",
    "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "F/C=C/Cl", "F/C=C\\Cl", "C#N", "OP(=O)(O)O",
    "c1ccc2ncccc2c1", "BrC1CC1", "[O-][n+]1ccccc1", "C[Si](C)(C)I", "OB(O)c1ccccc1",
    "CSC", "N#[N+][N-]C", "O=[N+]([O-])c1ccsc1", "c1cnc[nH]1",
)  # fmt: skip


@cache
def mol(smiles: str, seed: int = 0):
    """A molecule with hydrogens and a conformer."""
    from reed import chem

    made = chem.library().AddHs(chem.library().MolFromSmiles(smiles))
    assert chem.conformer(made, seed) == ""
    return made


def block(smiles: str) -> str:
    """The entry of an SDF."""
    from reed import chem

    return chem.sdf([(smiles, mol(smiles))])


def sdf(path: Path, texts=SMILES, *, extra: str = "") -> Path:
    """An SDF of molecules, packed if its name says so; extra: put behind the first."""
    entries = [block(text) for text in texts]
    content = (entries[0] + extra + "".join(entries[1:])).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def geom(folder: Path, texts=SMILES[:4], protocol: int = 4) -> Path:
    """An rdkit_folder of GEOM: two conformers of each molecule, the worse one first."""
    table = {}
    (folder / "drugs").mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        rows = [
            {"geom_id": seed, "totalenergy": -float(seed), "boltzmannweight": 0.5,
             "conformerweights": [0.5, 0.5], "rd_mol": mol(text, seed)}
            for seed in range(2)
        ]  # fmt: skip
        place = f"drugs/{number:04d}.pickle"
        with open(folder / place, "wb") as file:
            pickle.dump({"conformers": rows, "totalconfs": 2, "smiles": text}, file, protocol)
        table[text] = {"pickle_path": place, "uniqueconfs": 2, "charge": 0}
    table["not in the data set"] = {"charge": 0}
    (folder / "summary_drugs.json").write_text(json.dumps(table))
    return folder
