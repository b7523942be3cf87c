"""The evaluator of molecules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reed import __version__
from reed.bytes import file_sha256
from reed.chem import molecule_set, rdkit, sdf_files
from reed.chem.molecule import Molecule
from reed.config import option
from reed.evaluate.base import EVALUATORS, Evaluator, Task
from reed.evaluate.provenance import recipe_of
from reed.evaluate.record import Record
from reed.metrics.molecule import measure
from reed.metrics.posebusters import busted, library

REFERENCE = 1000  # most molecules of the reference that the checks of PoseBusters are run on


@EVALUATORS.register("molecule")
@dataclass
class MoleculeEvaluator(Evaluator):
    """Metrics of the molecules in an .npz of reed.chem.molecule_set, or in an SDF.

    The reference is a cache of molecules. Molecules that it does not have are novel.

    Attributes:
        posebusters: Whether to run the checks of PoseBusters.
    """

    noun = "molecules"

    posebusters: bool = option(False, "Also run the checks of PoseBusters.")

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Return whether the path is an SDF or an .npz of molecules."""
        return path.is_file() and (molecule_set.is_set(path) or sdf_files.is_sdf(path))

    def measure(self, task: Task) -> Record:
        """Measure molecules and write the record.

        Raises:
            ReedError: The samples or the reference cannot be read.
        """
        # A missing library is reported now, and not after the other metrics.
        checker = library() if self.posebusters else None
        real: list[Molecule] = []
        scores: dict[str, float] = {}
        molecules = molecule_set.load(task.samples)
        task.check_num(len(molecules))
        recipe = recipe_of(task.samples, len(molecules))
        known = molecule_set.known(task.reference, progress=task.progress)

        values = measure(molecules, known, progress=task.progress)
        evaluator = f"reed-{__version__} rdkit-{rdkit.version()}"
        if checker:
            values |= busted(molecules, progress=task.progress)
            real = molecule_set.of_cache(task.reference, REFERENCE)
            scores = busted(real, progress=task.progress)
            evaluator += f" posebusters-{checker.__version__}"

        samples = {
            "place": str(task.samples),
            "kind": "molecules",
            "num": len(molecules),
            "sha256": file_sha256(task.samples),
        }
        # Real molecules fail some checks, so each share stands beside theirs.
        reference = {"place": str(task.reference), "kind": "cache", "num": len(known)}
        record = Record.of(task.kind, samples, reference, recipe, values, evaluator=evaluator)
        for name in scores.keys() & record.metrics.keys():
            record.metrics[name] |= {"reference": scores[name], "reference_num": len(real)}
        record.write(task.out)
        return record
