"""The evaluator of proteins: it measures designs, or a run on structures unseen in training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reed import __version__, config, pipelines
from reed.bytes import file_sha256
from reed.cache import schema
from reed.chem.protein import ALPHABET
from reed.config import option
from reed.domains.protein import DesignOptions, Structure
from reed.errors import ReedError
from reed.evaluate.base import EVALUATORS, Evaluator, Task, is_run
from reed.evaluate.protein import perplexity, recovery, refolding, structures_of
from reed.evaluate.provenance import RECIPE, recipe_of
from reed.evaluate.record import Record, spread
from reed.metrics.folding import EsmFold
from reed.nets.mpnn import MPNN
from reed.sample.outputs.protein import structure_in
from reed.sample.sampler import Sampler
from reed.train import checkpoint

FASTA = (".fasta", ".fa")


@EVALUATORS.register("protein")
@dataclass
class ProteinEvaluator(Evaluator):
    """Sequence recovery, perplexity (of runs) and, with ESMFold, refolding of designs.

    For a run, one design is drawn for each structure of the reference, a cache that the run was
    not trained on. The designs in a FASTA of reed-sample are compared with the structure file that
    they are for, or with the structures of a cache that have their names.

    Attributes:
        steps: Sampler steps for the designs of a run.
        esmfold: Folder of ESMFold; None to leave out refolding.
    """

    noun = "designs"
    runs = True

    steps: int = option(500, "Sampler steps for the designs of a run.")
    esmfold: Path | None = option(
        None, "Refold the designs with the ESMFold weights in this folder.", metavar="DIR"
    )

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Return whether the path is a FASTA file."""
        return path.is_file() and path.suffix in FASTA

    def place(self, samples: Path) -> Path:
        """Return the default file of the record; for a run, step-0001000.eval.json in it."""
        if not is_run(samples):
            return super().place(samples)
        step = max(checkpoint.steps(samples), default=0)
        return samples / f"step-{step:07d}.eval.json"

    def measure(self, task: Task) -> Record:
        """Measure a run or designs and write the record.

        Raises:
            ReedError: The run or the designs cannot be measured.
        """
        record = self._of_run(task) if is_run(task.samples) else self._of_designs(task)
        record.write(task.out)
        return record

    def _of_run(self, task: Task) -> Record:
        """Draw and measure one design for each structure of the reference, a cache."""
        sampler = Sampler.of_run(task.samples, None, task.device, ema=task.average)
        data = config.read(task.samples / "config.json")["data"]
        structures = structures_of(task.reference, data)
        structures.sort(key=lambda structure: len(structure.residue))
        task.check_num(len(structures))

        assert isinstance(sampler.net, MPNN)  # the net of the domain that this kind names
        values = perplexity(sampler.net, structures, progress=task.progress)
        options = DesignOptions(tuple(structures), steps=self.steps)
        # What would fill up the last batch are designs for the longest structure, which take long.
        drawn = sampler.draw(
            len(structures), options, batch=task.batch, whole=False, progress=task.progress
        )
        values |= self._measured(drawn["sequence"].tolist(), structures, task)

        settings = config.plain(DesignOptions(steps=self.steps)) | {"sampling": options.name}
        recipe = dict.fromkeys(RECIPE) | sampler.about | settings | {"num": len(structures)}
        about = {"kind": "run", "sha256": sampler.about["weights"]}
        return self._record(task, len(structures), about, "cache", recipe, values)

    def _of_designs(self, task: Task) -> Record:
        """Compare the sequences in a FASTA with the structures of their names."""
        entries = list(_entries(task.samples))
        task.check_num(len(entries))
        recipe = recipe_of(task.samples, len(entries))

        # A structure file holds one structure, so all designs are for it, whatever their names.
        file = task.reference.is_file()
        known = self._structures(task.reference, recipe)
        pairs = [(text, _matched(task, name, text, known, file)) for name, text in entries]
        texts, structures = [text for text, _ in pairs], [structure for _, structure in pairs]

        values = self._measured(texts, structures, task)
        about = {"kind": "fasta", "sha256": file_sha256(task.samples)}
        kind = "structure" if file else "cache"
        return self._record(task, len(entries), about, kind, recipe, values)

    @staticmethod
    def _structures(reference: Path, recipe: dict[str, Any]) -> dict[str, Structure]:
        """Return the structures of the reference by name."""
        if reference.is_file():
            structure = structure_in(reference)
            return {structure.name: structure}
        pipeline = schema.load_manifest(reference).pipeline
        data = (recipe.get("config") or {}).get("data") or pipelines.recipe(pipeline)["data"]
        return {structure.name: structure for structure in structures_of(reference, data)}

    def _measured(
        self, designs: list[str], structures: list[Structure], task: Task
    ) -> dict[str, Any]:
        fold = EsmFold(self.esmfold, task.device) if self.esmfold else None
        values: dict[str, Any] = dict(recovery(designs, structures))
        return values | (
            refolding(designs, structures, fold, progress=task.progress) if fold else {}
        )

    @staticmethod
    def _record(
        task: Task,
        num: int,
        about: dict[str, Any],
        kind: str,
        recipe: dict[str, Any],
        values: dict[str, Any],
    ) -> Record:
        flat = {n: v for name, value in values.items() for n, v in spread(name, value).items()}
        samples = {"place": str(task.samples), "num": num} | about
        reference = {"place": str(task.reference), "kind": kind}
        evaluator = f"reed-{__version__}"
        return Record.of(task.kind, samples, reference, recipe, flat, evaluator=evaluator)


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the first word of each header, and the letters below it without chain separators."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReedError(f"cannot read designs from {path}: {error}") from error
    if not text.startswith(">"):
        raise ReedError(f"cannot read designs from {path}: a FASTA begins with '>'")
    for entry in text.removeprefix(">").split("\n>"):
        header, _, letters = entry.partition("\n")
        letters = "".join(letters.split()).replace("/", "")
        if odd := set(letters) - set(ALPHABET):
            raise ReedError(f"{path}: {header!r} has {min(odd)!r}, which is no residue")
        yield (header.split() or [""])[0], letters


def _matched(
    task: Task, name: str, text: str, known: dict[str, Structure], file: bool
) -> Structure:
    """Return the structure that a design is for: that of the file, or the one with its name."""
    structure = next(iter(known.values())) if file else known.get(name)
    if structure is None:
        raise ReedError(
            f"{task.samples} has designs for {name!r}, which is not in {task.reference}; give the "
            "structure file that they are for"
        )
    if len(structure.residue) != len(text):
        raise ReedError(
            f"{task.samples}: a design for {name!r} has {len(text)} residues, {structure.name!r} "
            f"in {task.reference} has {len(structure.residue)}"
        )
    return structure
