"""Real protein chains as packages hold them, split by family."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from reed.errors import ReedError
from reed.experiments.real_layouts import Archives
from reed.experiments.real_packages import members

# Families of which no chain is trained on; a target of dockstring is named by its gene.
HELD_OUT = {
    "nuclear receptors": "AR ESR1 ESR2 NR3C1 PGR PPARA PPARD PPARG THRB",
    "metalloproteases": "ADAM17 MMP13",
    "carbonic anhydrases": "CA2",
    "caspases": "CASP3",
    "dihydrofolate reductases": "DHFR",
    "heat shock proteins": "HSP90AA1",
    "phosphatases": "PTPN1",
}
TARGET = re.compile(r"resources/targets/(\w+)_target\.pdbqt$")
ATOMS = re.compile(r"ATOM|HETATM|TER|END$")  # lines of a .pdbqt that a .pdb has, too
# Entries of the PDB among biopython's test files that are whole and of one model.
ENTRIES = "1A7G 1A8O 1LCD 2BEG 2OFG 2XHE 3JQH 4CUP 4ZHL 6WQA 7CFN"


def chains(archives: Archives, out: Path) -> None:
    """Write structures as files of the PDB, into folders train/ and test/.

    Whole families are held out, by the names of the targets. The entries of biopython are all
    trained on.

    Args:
        archives: The files of ``dockstring`` and ``python-biopython-doc``.
        out: Folder for both.

    Raises:
        ReedError: A package lacks a structure.
    """
    held = {name for names in HELD_OUT.values() for name in names.split()}
    wanted, entries = set(held), set(ENTRIES.split())
    for split in ("train", "test"):
        (out / split).mkdir(parents=True)

    # A .pdbqt is a .pdb with charges, and with a tree of bonds that can turn.
    for name, content in members(archives["dockstring"]):
        if found := TARGET.search(name):
            lines = [line for line in content.decode().splitlines() if ATOMS.match(line)]
            split = "test" if found[1] in held else "train"
            (out / split / f"{found[1]}.pdb").write_text("\n".join(lines) + "\n")
            wanted.discard(found[1])

    for name, content in members(archives["python-biopython-doc"]):
        path = PurePosixPath(name)
        entry = path.name.removesuffix(".cif.gz")
        if path.parent.name == "PDB" and path.name.endswith(".cif.gz") and entry in entries:
            (out / "train" / path.name).write_bytes(content)
            entries.discard(entry)
    for package, lacking in {"dockstring": wanted, "python-biopython-doc": entries}.items():
        if lacking:
            raise ReedError(f"{package} lacks the structures {', '.join(sorted(lacking))}")
