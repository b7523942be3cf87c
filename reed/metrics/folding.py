"""Folding of designed sequences by ESMFold, and comparison with the backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reed.chem.geometry import rmsd
from reed.errors import ReedError
from reed.extras import pip_install
from reed.finite import check_finite
from reed.metrics.structure import lddt, tm_score


@dataclass(frozen=True)
class Folded:
    """A predicted structure.

    Attributes:
        coords: N, CA and C in angstroms, [L, 3, 3].
        plddt: Confidence in the CA, from 0 to 100, [L].
    """

    coords: np.ndarray
    plddt: np.ndarray


class EsmFold:
    """ESMFold from a local transformers folder (config.json, vocabulary, weights).

    Sequences are folded one by one, so that padding cannot matter. The weights have several GB and
    are never downloaded here.

    Source: Lin et al. (Science 2023); facebook/esmfold_v1.

    Args:
        folder: Folder with the files of the model.
        device: Device of the computation.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        if not (folder / "config.json").is_file():
            raise ReedError(
                f"no ESMFold at {folder} (no config.json); put the files of facebook/esmfold_v1 "
                "there"
            )

        try:
            from transformers import EsmForProteinFolding
        except ImportError as error:
            raise ReedError(
                f"folding needs transformers: {error}; {pip_install('proteins')}"
            ) from error

        try:
            loaded: Any = EsmForProteinFolding.from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
            model, report = loaded  # the annotation of transformers leaves the report out
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise ReedError(f"cannot read ESMFold from {folder}: {reason}") from error

        # The released file has no contact head, which folding does not use.
        lacking = sorted(name for name in report["missing_keys"] if "contact_head" not in name)
        if lacking:
            raise ReedError(
                f"{folder} is not a complete ESMFold: it lacks {', '.join(lacking[:3])}, …"
            )
        check_finite(model.state_dict(), str(folder))
        self._model = model.eval().to(device)

    def __call__(self, sequence: str) -> Folded:
        """Fold one chain."""
        output = self._model.infer([sequence])
        coords = output["positions"][-1, 0, :, :3].float().cpu().numpy()  # N, CA, C of 14 atoms
        return Folded(coords, 100 * output["plddt"][0, :, 1].float().cpu().numpy())


def agreement(folded: Folded, coords: np.ndarray) -> dict[str, float]:
    """Measure how well a fold agrees with its backbone, over the resolved residues.

    Args:
        folded: The predicted structure.
        coords: N, CA, C and O of the backbone in angstroms, [L, 4, 3], NaN where missing.

    Returns:
        ``sc_rmsd`` of N, CA and C in angstroms; ``sc_tm`` and ``sc_lddt`` of CA; ``plddt``, the
        mean over all residues.

    Raises:
        ReedError: The lengths differ.
    """
    if len(coords) != len(folded.coords):
        raise ReedError(f"the fold has {len(folded.coords)} residues, the backbone {len(coords)}")
    kept = np.isfinite(coords).all((1, 2))
    model, backbone = folded.coords[kept].astype(np.float64), coords[kept, :3].astype(np.float64)
    return {
        "sc_rmsd": rmsd(model.reshape(-1, 3), backbone.reshape(-1, 3)),
        "sc_tm": tm_score(model[:, 1], backbone[:, 1]),
        "sc_lddt": lddt(model[:, 1], backbone[:, 1]),
        "plddt": float(folded.plddt.mean()),
    }
