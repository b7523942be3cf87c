"""What PoseBusters says of generated molecules, if it is installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from tqdm import tqdm

from reed.chem import rdkit
from reed.chem.molecule import Molecule
from reed.errors import ReedError
from reed.extras import pip_install

CONFIG = "mol"  # its checks of a molecule alone, without a protein


def library() -> Any:
    """The package; ReedError where it is not installed."""
    try:
        return import_module("posebusters")
    except ImportError as error:
        raise ReedError(
            f"--posebusters needs PoseBusters, which cannot be imported ({error}); "
            f"install it with: {pip_install('posebusters')}"
        ) from error


def busted(molecules: Sequence[Molecule], *, progress: bool = False) -> dict[str, float]:
    """Shares of molecules that pass each check of PoseBusters, and all of them (`posebusters`).

    What RDKit does not accept and what has coordinates that are not finite passes none; what a
    check cannot judge, as the energy without UFF's parameters, does not pass it. Where none can be
    checked, `posebusters` alone is there, 0. ReedError where the package is not installed. Source:
    Buttenschoen, Morris and Deane, Chemical Science 15, 3130 (2024), configuration `mol`.
    """
    buster = library().PoseBusters(config=CONFIG)
    passed: Counter[str] = Counter()
    bar = tqdm(molecules, "posebusters", unit="molecule", disable=not progress, dynamic_ncols=True)
    for molecule in bar:
        mol = rdkit.sanitised(molecule)
        if mol is None or not np.isfinite(molecule.coords).all():
            continue
        good = buster.bust(mol).iloc[0].eq(True)
        passed["posebusters"] += int(good.all())
        passed.update({f"posebusters_{name}": int(value) for name, value in good.items()})
    return {"posebusters": 0.0} | {name: n / len(molecules) for name, n in passed.items()}
