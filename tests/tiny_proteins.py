"""Structure files with everything that is odd in them, and ProteinMPNN's folder; for runpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

STANDARD = ["GLY", "ALA", "SER", "LEU", "LYS", "VAL", "THR", "ASP", "PHE", "HIS"]


def atom(serial, name, residue, chain, number, xyz, *, alt=" ", icode=" ", occ=1.0, het=False):
    """One ATOM or HETATM line of the PDB format."""
    kind = "HETATM" if het else "ATOM  "
    x, y, z = xyz
    return (
        f"{kind}{serial:5d}  {name:<3s}{alt}{residue:>3s} {chain}{number:4d}{icode}   "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occ:6.2f}{10.0:6.2f}          {name[0]:>2s}"
    )


def place(row, name):
    """Where an atom of the row-th residue is: residues 3.8 apart on a line, atoms beside it."""
    offset = {
        "N": (-1.2, 0.5, 0.0),
        "CA": (0.0, 0.0, 0.0),
        "C": (1.2, 0.6, 0.0),
        "O": (1.3, 1.8, 0),
    }
    return tuple(np.array([3.8 * row, 0.0, 0.0]) + offset[name])


def residue(row, name, chain="A", number=None, atoms=("N", "CA", "C", "O"), **more):
    """The lines of one residue; number: that of the author, row + 1 unless given."""
    number = row + 1 if number is None else number
    return [atom(1, a, name, chain, number, place(row, a), **more) for a in atoms]


def seqres(names, chain="A"):
    """SEQRES lines."""
    rows = [names[i : i + 13] for i in range(0, len(names), 13)]
    return [
        f"SEQRES {i + 1:3d} {chain} {len(names):4d}  {' '.join(row)}" for i, row in enumerate(rows)
    ]


def write(path: Path, *groups, head=("REMARK   2 RESOLUTION.    2.10 ANGSTROMS.",)) -> Path:
    """A PDB file of these lines."""
    lines = [*head, *(line for group in groups for line in group), "END"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def straight(path: Path, count: int = 40, chains: str = "A", head=None, residues=None) -> Path:
    """A plain file: `count` residues per chain, all observed."""
    names = residues or [STANDARD[i % len(STANDARD)] for i in range(count)]
    body = [[*sum((residue(i, n, c) for i, n in enumerate(names)), []), "TER"] for c in chains]
    top = ["REMARK   2 RESOLUTION.    2.10 ANGSTROMS."] if head is None else head
    return write(path, *[seqres(names, c) for c in chains], *body, head=top)


def mpnn(folder: Path, chains, valid=(), test=(), length: int = 40) -> Path:
    """ProteinMPNN's folder. chains: {CHAINID: (cluster, resolution or "")}."""
    lines = ["CHAINID,DEPOSITION,RESOLUTION,HASH,CLUSTER,SEQUENCE"]
    for key, (cluster, resolution) in chains.items():
        rng = np.random.default_rng(cluster)
        sequence = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), length))
        lines.append(f"{key},2020-01-01,{resolution},{cluster:06d},{cluster},{sequence}")
        place = folder / "pdb" / key[1:3] / f"{key}.pt"
        place.parent.mkdir(parents=True, exist_ok=True)
        xyz = torch.from_numpy(rng.normal(size=(length, 14, 3)).astype(np.float32))
        xyz[3, 1:] = torch.nan  # its N alone was observed
        xyz[:, 5:] = torch.nan
        chain = {"seq": sequence, "xyz": xyz, "mask": torch.ones(length, 14), "bfac": xyz[..., 0]}
        torch.save(chain | {"occ": torch.ones(length, 14)}, place)
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    for name, clusters in (("valid", valid), ("test", test)):
        (folder / f"{name}_clusters.txt").write_text("".join(f"{c}\n" for c in clusters))
    return folder
