"""The evaluator of proteins: a run on structures that it was not trained on, or designs."""

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
    """Recovery, perplexity and, with ESMFold, refolding.

    Of a run: of one design for each structure of a cache that it was not trained on. Of a FASTA of
    reed-sample: of its designs, against the structure file that they are for, or a cache that has
    structures of their names.
    """

    noun = "designs"
    runs = True

    steps: int = option(500, "Sampler steps for the designs of a run.")
    esmfold: Path | None = option(
        None, "Refold the designs with the ESMFold in this folder.", metavar="DIR"
    )

    @classmethod
    def reads(cls, path: Path) -> bool:
        """A FASTA."""
        return path.is_file() and path.suffix in FASTA

    def place(self, samples: Path) -> Path:
        """Of a run: step-0001000.eval.json in its folder."""
        if not is_run(samples):
            return super().place(samples)
        step = max(checkpoint.steps(samples), default=0)
        return samples / f"step-{step:07d}.eval.json"

    def measure(self, task: Task) -> Record:
        """The numbers; ReedError for what cannot be measured."""
        record = self._of_run(task) if is_run(task.samples) else self._of_designs(task)
        record.write(task.out)
        return record

    def _of_run(self, task: Task) -> Record:
        """One design for each structure of the reference, a cache."""
        sampler = Sampler.of_run(task.samples, None, task.device)
        data = config.read(task.samples / "config.json")["data"]
        structures = structures_of(task.reference, data)
        structures.sort(key=lambda each: len(each.residue))
        task.check_num(len(structures))

        assert isinstance(sampler.net, MPNN)  # the net of the domain that this kind names
        found = perplexity(sampler.net, structures, progress=task.progress)
        options = DesignOptions(tuple(structures), steps=self.steps)
        batch = min(task.batch, len(structures))
        drawn = sampler.draw(len(structures), options, batch=batch, progress=task.progress)
        found |= self._measured(drawn["sequence"].tolist(), structures, task)

        settings = config.plain(DesignOptions(steps=self.steps)) | {"sampling": options.name}
        recipe = dict.fromkeys(RECIPE) | sampler.about | settings | {"num": len(structures)}
        about = {"kind": "run", "sha256": sampler.about["weights"]}
        return self._record(task, len(structures), about, "cache", recipe, found)

    def _of_designs(self, task: Task) -> Record:
        """Sequences in a FASTA, against the structures of their names."""
        entries = list(_entries(task.samples))
        task.check_num(len(entries))
        recipe = recipe_of(task.samples, len(entries))
        file = task.reference.is_file()
        known = self._structures(task.reference, recipe)
        pairs = [(text, _matched(task, name, text, known, file)) for name, text in entries]
        texts, structures = [text for text, _ in pairs], [each for _, each in pairs]

        found = self._measured(texts, structures, task)
        about = {"kind": "fasta", "sha256": file_sha256(task.samples)}
        kind = "structure" if file else "cache"
        return self._record(task, len(entries), about, kind, recipe, found)

    @staticmethod
    def _structures(reference: Path, recipe: dict[str, Any]) -> dict[str, Structure]:
        """Name -> structure."""
        if reference.is_file():
            found = structure_in(reference)
            return {found.name: found}
        pipeline = schema.load_manifest(reference).pipeline
        data = (recipe.get("config") or {}).get("data") or pipelines.recipe(pipeline)["data"]
        return {each.name: each for each in structures_of(reference, data)}

    def _measured(
        self, designs: list[str], structures: list[Structure], task: Task
    ) -> dict[str, Any]:
        fold = EsmFold(self.esmfold, task.device) if self.esmfold else None
        found: dict[str, Any] = dict(recovery(designs, structures))
        return found | (
            refolding(designs, structures, fold, progress=task.progress) if fold else {}
        )

    @staticmethod
    def _record(
        task: Task,
        num: int,
        about: dict[str, Any],
        kind: str,
        recipe: dict[str, Any],
        found: dict[str, Any],
    ) -> Record:
        values = {n: v for name, value in found.items() for n, v in spread(name, value).items()}
        samples = {"place": str(task.samples), "num": num} | about
        reference = {"place": str(task.reference), "kind": kind}
        evaluator = f"reed-{__version__}"
        return Record.of(task.kind, samples, reference, recipe, values, evaluator=evaluator)


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    """The first word of each header, and the letters below it without what parts the chains."""
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
    """The structure that a design is for: the only one of a file, or that of its name."""
    found = next(iter(known.values())) if file else known.get(name)
    if found is None:
        raise ReedError(
            f"{task.samples} has designs for {name!r}, which is not in {task.reference}; give the "
            "structure file that they are for"
        )
    if len(found.residue) != len(text):
        raise ReedError(
            f"{task.samples}: a design for {name!r} has {len(text)} residues, {found.name!r} in "
            f"{task.reference} has {len(found.residue)}"
        )
    return found
