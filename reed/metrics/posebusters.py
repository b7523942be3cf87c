"""PoseBusters' checks of generated molecules, if the package is installed."""

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

CONFIG = "mol"  # checks of a molecule alone, without a protein


def library() -> Any:
    """Import the package.

    Raises:
        ReedError: It cannot be imported.
    """
    try:
        return import_module("posebusters")
    except ImportError as error:
        raise ReedError(
            f"--posebusters needs PoseBusters, which cannot be imported ({error}); "
            f"install it with: {pip_install('posebusters')}"
        ) from error


def busted(molecules: Sequence[Molecule], *, progress: bool = False) -> dict[str, float]:
    """Compute the shares of molecules that pass each check of PoseBusters.

    A molecule that RDKit rejects, or whose coordinates are not finite, passes no check. A molecule
    that a check cannot judge, such as the energy if UFF lacks parameters, does not pass that check.

    Source: Buttenschoen, Morris and Deane, Chemical Science 15, 3130 (2024), configuration
    ``mol``.

    Args:
        molecules: The molecules.
        progress: Whether to show a progress bar.

    Returns:
        The share that passes all checks (``posebusters``), and one share per check. If no molecule
        can be checked, there is only ``posebusters``, which is 0.

    Raises:
        ReedError: The package is not installed.
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
