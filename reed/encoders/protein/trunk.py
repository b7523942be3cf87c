"""Import of the embeddings that Boltz or OpenFold3 saved for a sequence.

As those of AlphaFold 3 they are a synthetic modality: they come from the sequence and from a
predicted structure, not from the sample's own structure. docs/proteins.md says how to make them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import Values
from reed.cache.schema import Field
from reed.chem.protein import NEIGHBOURS
from reed.encoders import ENCODERS
from reed.encoders.protein import trunk_files
from reed.encoders.protein.af3 import job_name
from reed.encoders.protein.chain import at_neighbours, segments
from reed.errors import ReedError
from reed.hub import require


@dataclass(frozen=True)
class Card:
    """One program.

    Attributes:
        name: Name in the registry.
        program: The layout of its output.
        licence: Licence of the weights, which does not restrict the output.
    """

    name: str
    program: trunk_files.Program
    licence: str


@dataclass
class Trunk:
    """Representations from the trunk of a structure predictor, imported for each sample.

    Its fields; their codec standardises each channel over the data set:

    - ``single`` [L, 384].
    - ``pair`` [L, 48, 128], at ``chain/neighbours``.

    The chains of a sample must equal the proteins of its job, letter for letter. The job keeps a
    predicted structure, which says which tokens are whose; a residue of several tokens has their
    mean.

    Attributes:
        card: The program.
        folder: Its output folder.
        job: Name of a sample's job, in which {key} and {cluster} stand for those of the sample;
            "/" becomes "_".
        seed: Seed to read, for jobs that have several.
        pair: Whether to import the pair embeddings, [L, L, 128] in the file.
        batch_size: Samples per call of ``encode``.
    """

    libraries, extra = ("gemmi",), "proteins"

    card: Card
    folder: Path = Path()
    job: str = "{key}"
    seed: int | None = None
    pair: bool = True
    batch_size: int = 8

    def __post_init__(self) -> None:
        unknown = set(re.findall(r"\{(.*?)\}", self.job)) - {"key", "cluster"}
        if unknown or "/" in self.job:
            raise ReedError(
                f"{self.name}.job is {self.job!r}; use a name with {{key}} or {{cluster}}"
            )
        if self.folder == Path():
            self.folder = Path(self.name)

    @property
    def name(self) -> str:
        """Name of the encoder, from its card."""
        return self.card.name

    @property
    def licence(self) -> str:
        """Licence of the output."""
        return self.card.licence

    @property
    def reads(self) -> tuple[str, ...]:
        """The entries that name the job and verify it, and the graph if pairs are imported."""
        graph = ["chain/neighbours"] if self.pair else []
        return ("key", "cluster", "sequence", "chain", *graph)

    @property
    def _names(self) -> list[str]:
        return ["single", *["pair"] * self.pair]

    @property
    def fields(self) -> tuple[Field, ...]:
        """One field per imported array."""
        single, pair = (trunk_files.CHANNELS[name] for name in ("single", "pair"))
        fields = [Field("single", "token", (None, single), "standard+int8")]
        if self.pair:
            fields.append(Field("pair", "pair", (None, NEIGHBOURS, pair), "standard+int8"))
        return tuple(fields)

    def revision(self) -> str:
        """Return the job and the seed.

        The files are not part of the revision, so that missing ones can be added later.
        """
        return f"imported1 job={self.job} seed={'the only one' if self.seed is None else self.seed}"

    def load(self, device: str) -> None:
        """Check the settings; there are no weights to load."""
        self.check_files()

    def check_files(self) -> None:
        """Raise ReedError if the library is missing, or the folder does not exist."""
        require(self.name, self.libraries, self.extra)
        if not self.folder.is_dir():
            option = f"--set {self.name}.folder=DIR"
            raise ReedError(f"there is no folder {self.folder}; name it with {option}")

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one array per field and sample.

        Raises:
            BadSample: A job is missing, or its residues differ from those of the sample.
        """
        program = self.card.program
        embeddings: dict[str, list[np.ndarray]] = {name: [] for name in self._names}
        for sample in samples:
            job = job_name(self.job.format(key=sample["key"], cluster=sample["cluster"]))
            path = trunk_files.find(program, self.folder, job, self.seed)

            # The structure beside the file names the residues: nothing is cut to fit.
            where = trunk_files.residues(program, path, self.folder, job)
            chains = [sample["sequence"][part] for part in segments(sample)]
            trunk_files.compare(program, where, chains)
            values = trunk_files.load(program, path, self._names, where)
            if self.pair:
                graph = np.asarray(sample["chain/neighbours"])
                values["pair"] = at_neighbours(values["pair"], graph)
            for name, value in values.items():
                embeddings[name].append(value)
        return embeddings


for _card in (
    Card("boltz", trunk_files.BOLTZ, "MIT"),
    Card("openfold3", trunk_files.OPENFOLD3, "Apache-2.0"),
):
    ENCODERS.register(_card.name)(partial(Trunk, card=_card))
