"""Embeddings that AlphaFold 3 saved, imported: of a sequence, so of a structure it predicts.

They are a synthetic modality: nothing of the sample's own structure went into them. How to make
them is in docs/proteins.md. Source of the layouts: google-deepmind/alphafold3 (--save_embeddings),
and REED's branch of it, which adds structure_embeddings (arXiv 2507.08980).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import Values
from reed.cache.schema import Field
from reed.chem.protein import NEIGHBOURS
from reed.encoders import ENCODERS
from reed.encoders.protein import af3_files
from reed.encoders.protein.chain import at_neighbours, segments
from reed.errors import ReedError

URL = "https://github.com/google-deepmind/alphafold3/blob/main/OUTPUT_TERMS_OF_USE.md"
TERMS = (
    "AlphaFold 3 output: for non-commercial use by non-commercial organisations only, and not to "
    f"train models that predict the structure of biomolecules as it does; {URL}"
)


@ENCODERS.register("af3")
@dataclass
class Af3:
    """The representations of AlphaFold 3's trunk, cut to the residues of each sample.

    folder: with one folder per job; job: its name, in which {key} and {cluster} stand for those of
    the sample (characters that AlphaFold 3 leaves out of names are left out, "/" becomes "_");
    seed: which, where a job has several; pair: also the pairs, [L, L, 128] in the file; structure:
    also what REED's branch saves of the diffusion; accept_terms: that the terms are accepted.

    single: [L, 384]; pair: [L, 48, 128] at chain/neighbours; structure: [L, 768]; each channel is
    standardised by its codec, over the data set. The chains of a sample must be the proteins of its
    job, letter for letter.
    """

    folder: Path = Path("af3")
    job: str = "{key}"
    seed: int | None = None
    pair: bool = True
    structure: bool = False
    accept_terms: bool = False
    batch_size: int = 8

    licence = TERMS
    terms = TERMS

    def __post_init__(self) -> None:
        unknown = set(re.findall(r"\{(.*?)\}", self.job)) - {"key", "cluster"}
        if unknown or "/" in self.job:
            raise ReedError(f"af3.job is {self.job!r}; use a name with {{key}} or {{cluster}}")

    @property
    def reads(self) -> tuple[str, ...]:
        """What names the job, what it is checked against, and the graph."""
        graph = ["chain/neighbours"] if self.pair else []
        return ("key", "cluster", "sequence", "chain", *graph)

    @property
    def _names(self) -> list[str]:
        return ["single", *["pair"] * self.pair, *["structure"] * self.structure]

    @property
    def fields(self) -> tuple[Field, ...]:
        """One for each of the arrays that are imported."""

        def of(name: str) -> Field:
            channels = af3_files.CHANNELS[name]
            if name == "pair":
                return Field(name, "pair", (None, NEIGHBOURS, channels), "standard+int8")
            return Field(name, "token", (None, channels), "standard+int8")

        return tuple(of(name) for name in self._names)

    def revision(self) -> str:
        """Which job and seed; the files are not part of it, so that missing ones can be added."""
        return f"imported1 job={self.job} seed={'the only one' if self.seed is None else self.seed}"

    def load(self, device: str) -> None:
        """Nothing to load; ReedError for what `check_files` refuses."""
        self.check_files()

    def check_files(self) -> None:
        """ReedError where the terms are not accepted or there is no folder."""
        if not self.accept_terms:
            raise ReedError(f"{TERMS}. If you accept this: --set af3.accept_terms=true")
        if not self.folder.is_dir():
            raise ReedError(f"there is no folder {self.folder}; name it with --set af3.folder=DIR")

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """One array per field and sample; BadSample where a job is absent or of other residues."""
        found: dict[str, list[np.ndarray]] = {name: [] for name in self._names}
        for sample in samples:
            job = job_name(self.job.format(key=sample["key"], cluster=sample["cluster"]))
            path = af3_files.find(self.folder, job, self.seed)
            chains = [sample["sequence"][part] for part in segments(sample)]
            values = af3_files.load(path, self._names, af3_files.starts_of(path, chains))
            if self.pair:
                graph = np.asarray(sample["chain/neighbours"])
                values["pair"] = at_neighbours(values["pair"], graph)
            for name, value in values.items():
                found[name].append(value)
        return found


def job_name(text: str) -> str:
    """The folder of the job called `text`, as AlphaFold 3 names it, with "/" as "_"."""
    return re.sub(r"[^A-Za-z0-9_.-]", "", text.replace("/", "_").replace(" ", "_"))
