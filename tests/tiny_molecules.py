"""A few molecules, and files of them in the true formats; for runpy."""

from __future__ import annotations

import gzip
import json
import pickle
from functools import cache
from pathlib import Path

SMILES = (
    "CC(=O)Nc1ccc(O)cc1",
    "c1ccccc1",
    "C[N+](C)(C)CC([O-])=O",
    "c1cc[nH]c1",
    "CS(=O)(=O)N",
    "C[C@H](N)C(=O)O",
    "C[C@@H](N)C(=O)O",
    "F/C=C/Cl",
    "F/C=C\\Cl",
    "C#N",
    "OP(=O)(O)O",
    "c1ccc2ncccc2c1",
    "BrC1CC1",
    "[O-][n+]1ccccc1",
    "C[Si](C)(C)I",
    "OB(O)c1ccccc1",
    "CSC",
    "N#[N+][N-]C",
    "O=[N+]([O-])c1ccsc1",
    "c1cnc[nH]1",
)


@cache
def mol(smiles: str, seed: int = 0):
    """A molecule with hydrogens and a conformer."""
    from reed.chem import rdkit

    made = rdkit.library().AddHs(rdkit.library().MolFromSmiles(smiles))
    assert rdkit.conformer(made, seed) == ""
    return made


def block(smiles: str) -> str:
    """The entry of an SDF."""
    from reed.chem import rdkit_writing

    return rdkit_writing.sdf([(smiles, mol(smiles))])


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
            {
                "geom_id": seed,
                "totalenergy": -float(seed),
                "boltzmannweight": 0.5,
                "conformerweights": [0.5, 0.5],
                "rd_mol": mol(text, seed),
            }
            for seed in range(2)
        ]
        place = f"drugs/{number:04d}.pickle"
        with open(folder / place, "wb") as file:
            pickle.dump({"conformers": rows, "totalconfs": 2, "smiles": text}, file, protocol)
        table[text] = {"pickle_path": place, "uniqueconfs": 2, "charge": 0}
    table["not in the data set"] = {"charge": 0}
    (folder / "summary_drugs.json").write_text(json.dumps(table))
    return folder


def midi(folder: Path, protocol: int = 4, **splits) -> Path:
    """MiDi's pickles: by split, the texts of molecules, of which each has two conformers."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, texts in splits.items():
        rows = [(text, [mol(text, seed) for seed in range(2)]) for text in texts]
        with open(folder / f"{split}_data.pickle", "wb") as file:
            pickle.dump(rows, file, protocol)
    return folder


def smol_entry(smiles: str, **other) -> dict:
    """What SemlaFlow keeps of a molecule; other: in place of what would be there."""
    import torch

    made = mol(smiles)
    kinds = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "AROMATIC": 4}
    bonds = torch.tensor(
        [
            [b.GetBeginAtomIdx(), b.GetEndAtomIdx(), kinds[str(b.GetBondType())]]
            for b in made.GetBonds()
        ]
    )
    return {
        "coords": torch.tensor(made.GetConformer().GetPositions()).float(),
        "atomics": torch.tensor([atom.GetAtomicNum() for atom in made.GetAtoms()]),
        "bond_indices": bonds[:, :2],
        "bond_types": bonds[:, 2],
        "charges": torch.tensor([atom.GetFormalCharge() for atom in made.GetAtoms()]),
        "device": "cpu",
        "id": smiles,
    } | other


def smol(folder: Path, **splits) -> Path:
    """SemlaFlow's files: by split, entries."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, found in splits.items():
        content = pickle.dumps([pickle.dumps(entry, 4) for entry in found])
        (folder / f"{split}.smol").write_bytes(content)
    return folder


DATA = {name: f"molecule/{name}" for name in ("coords", "atoms", "charges", "partners", "orders")}
NET = {
    "width": 16,
    "layers": 3,
    "heads": 2,
    "sets": 4,
    "message": 8,
    "hidden": 8,
    "edge": 8,
    "size_emb": 4,
    "max_atoms": 64,
}
TABLE = {
    "tokens": 96,
    "ema_decay": 0.9,
    "precision": "fp32",
    "data": DATA,
    "domain": {"net_settings": NET},
    "align": {
        "molecule": {"target": "teacher/sample", "tap": 1, "hidden": 16},
        "atom": {"target": "teacher/token", "tap": 2, "hidden": 16},
    },
    "curriculum": {
        "position": {"kind": "linear", "start": 0.0, "end": 1.0, "ends": 4},
        "molecule": 0.2,
        "atom": 0.2,
    },
    "optim": {"lr": 3e-3},
    "every": {"log": 5, "save": 0},
}


def sample(text: str) -> dict:
    """The entries of a molecule, and a teacher that knows the atoms and their degrees."""
    import numpy as np

    from reed.sources.molecule.molecules import with_conformer

    found = with_conformer(mol(text))
    kinds = np.eye(18, dtype=np.float32)[found["atoms"]]
    degree = (found["partners"] >= 0).sum(1, keepdims=True).astype(np.float32)
    token = np.concatenate([kinds, degree - 2], 1)
    return found | {"token": token, "sample": token.mean(0)}


class Source:
    """The molecules by number."""

    entries = (*DATA, "smiles", "token", "sample")
    views = 1

    def listing(self) -> dict[str, str]:
        return {f"m{i:02d}": "1" for i in range(len(SMILES))}

    def read(self, key: str, view: int = 0) -> dict:
        return sample(SMILES[int(key[1:])])


class Teacher:
    """An encoder that stores what the source knows."""

    reads, licence, batch_size = ("token", "sample"), "", 8

    def __init__(self) -> None:
        from reed.cache.schema import Field

        self.fields = (Field("token", "token", (None, 19)), Field("sample", "sample", (19,)))

    def revision(self) -> str:
        return "1"

    def encode(self, samples):
        return {name: [sample[name] for sample in samples] for name in self.reads}


def build(cache: Path) -> Path:
    """The whole cache, in two shards."""
    from reed.build import column, engines
    from reed.cache import plan
    from reed.encoders.molecule.molecule import Copied

    source = Source()
    frozen = plan.freeze(
        cache, source.listing(), pipeline="geom", domain="molecule", source="tiny", shard_size=12
    )
    for name, encoder in {"molecule": Copied(), "teacher": Teacher()}.items():
        job = column.open_job(cache, frozen, name, encoder, source)
        engines.run(job, engines.Share(), progress=False)
    return cache


def settings(cache: Path, run: Path, **over):
    """The recipe with tables laid over TABLE; twenty steps unless said otherwise."""
    from reed import config
    from reed.train.recipe import TrainConfig

    places = {"shards": str(cache), "run": str(run), "steps": 20}
    return config.build(TrainConfig, config.merge(TABLE | places, over))
