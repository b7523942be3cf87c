"""Molecules of a file as OpenBabel reads them; run as a program, a path a line on stdin."""

from __future__ import annotations

import json
import sys


def molecules(path: str, form: str) -> list[dict]:
    """Elements, charges, hydrogens, coordinates and bonds of every molecule of a file."""
    from openbabel import openbabel

    openbabel.obErrorLog.SetOutputLevel(-1)
    conversion, mol = openbabel.OBConversion(), openbabel.OBMol()
    conversion.SetInFormat(form)
    found, is_there = [], conversion.ReadFile(mol, path)
    while is_there:
        atoms = list(openbabel.OBMolAtomIter(mol))
        found.append(
            {
                "numbers": [atom.GetAtomicNum() for atom in atoms],
                "charges": [atom.GetFormalCharge() for atom in atoms],
                "hydrogens": [atom.GetImplicitHCount() for atom in atoms],
                "coords": [[atom.GetX(), atom.GetY(), atom.GetZ()] for atom in atoms],
                "bonds": sorted(
                    [
                        *sorted((bond.GetBeginAtomIdx() - 1, bond.GetEndAtomIdx() - 1)),
                        bond.GetBondOrder(),
                    ]
                    for bond in openbabel.OBMolBondIter(mol)
                ),
            }
        )
        mol = openbabel.OBMol()
        is_there = conversion.Read(mol)
    return found


def rewrite(path: str, out: str) -> None:
    """Write the SDF of an SDF, by OpenBabel."""
    from openbabel import openbabel

    conversion = openbabel.OBConversion()
    conversion.SetInAndOutFormats("sdf", "sdf")
    conversion.OpenInAndOutFiles(path, out)
    conversion.Convert()
    conversion.CloseOutFile()


if __name__ == "__main__":
    for line in sys.stdin:
        order = json.loads(line)
        if "out" in order:
            rewrite(order["path"], order["out"])
        answer = [] if "out" in order else molecules(order["path"], order["form"])
        print(json.dumps(answer), flush=True)
