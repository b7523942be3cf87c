"""Import of the embeddings that AlphaFold 3 saved for a sequence.

They are a synthetic modality: they come from the sequence and from a predicted structure, not from
the sample's own structure. docs/proteins.md says how to make them.

Source of the layouts: google-deepmind/alphafold3 (``--save_embeddings``), and REED's branch of it,
which adds structure_embeddings (arXiv 2507.08980).
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
    """Representations from AlphaFold 3's trunk, imported for the residues of each sample.

    Its fields; their codec standardises each channel over the data set:

    - ``single`` [L, 384].
    - ``pair`` [L, 48, 128], at ``chain/neighbours``.
    - ``structure`` [L, 768].

    The chains of a sample must equal the proteins of its job, letter for letter.

    Attributes:
        folder: Folder that holds one folder per job.
        job: Name of a sample's job, in which {key} and {cluster} stand for those of the sample.
            Characters that AlphaFold 3 removes from names are removed, and "/" becomes "_".
        seed: Seed to read, for jobs that have several.
        pair: Whether to import the pair embeddings, [L, L, 128] in the file.
        structure: Whether to import the embeddings of the diffusion that REED's branch saves.
        accept_terms: Whether you accept the terms of use of the output.
        batch_size: Samples per call of ``encode``.
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
        """The entries that name the job and verify it, and the graph if pairs are imported."""
        graph = ["chain/neighbours"] if self.pair else []
        return ("key", "cluster", "sequence", "chain", *graph)

    @property
    def _names(self) -> list[str]:
        return ["single", *["pair"] * self.pair, *["structure"] * self.structure]

    @property
    def fields(self) -> tuple[Field, ...]:
        """One field per imported array."""

        def of(name: str) -> Field:
            channels = af3_files.CHANNELS[name]
            if name == "pair":
                return Field(name, "pair", (None, NEIGHBOURS, channels), "standard+int8")
            return Field(name, "token", (None, channels), "standard+int8")

        return tuple(of(name) for name in self._names)

    def revision(self) -> str:
        """Return the job and the seed.

        The files are not part of the revision, so that missing ones can be added later.
        """
        return f"imported1 job={self.job} seed={'the only one' if self.seed is None else self.seed}"

    def load(self, device: str) -> None:
        """Check the settings; there are no weights to load."""
        self.check_files()

    def check_files(self) -> None:
        """Check the settings before anything is encoded.

        Raises:
            ReedError: The terms are not accepted, or the folder does not exist.
        """
        if not self.accept_terms:
            raise ReedError(f"{TERMS}. If you accept this: --set af3.accept_terms=true")
        if not self.folder.is_dir():
            raise ReedError(f"there is no folder {self.folder}; name it with --set af3.folder=DIR")

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one array per field and sample.

        Raises:
            BadSample: A job is missing, or its residues differ from those of the sample.
        """
        embeddings: dict[str, list[np.ndarray]] = {name: [] for name in self._names}
        for sample in samples:
            job = job_name(self.job.format(key=sample["key"], cluster=sample["cluster"]))
            path = af3_files.find(self.folder, job, self.seed)
            chains = [sample["sequence"][part] for part in segments(sample)]
            values = af3_files.load(path, self._names, af3_files.starts_of(path, chains))
            if self.pair:
                graph = np.asarray(sample["chain/neighbours"])
                values["pair"] = at_neighbours(values["pair"], graph)
            for name, value in values.items():
                embeddings[name].append(value)
        return embeddings


def job_name(text: str) -> str:
    """Return the folder that AlphaFold 3 makes for the job ``text``, after "/" became "_"."""
    return re.sub(r"[^A-Za-z0-9_.-]", "", text.replace("/", "_").replace(" ", "_"))
