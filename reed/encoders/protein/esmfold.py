"""ESMFold: the predicted structure of a sequence, and the representations behind it.

This is a synthetic modality that needs nothing but the sequence. Another encoder can read its
coordinates (``--set esm-if1.coords=esmfold/coords``).

Source: Lin et al., 2023, Science 379:1123.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.chem.protein import NEIGHBOURS
from reed.encoders import ENCODERS
from reed.encoders import pretrained as pre
from reed.encoders.base import PublicWeights
from reed.encoders.image.batches import check_precision
from reed.encoders.protein.chain import at_neighbours
from reed.errors import ReedError
from reed.precision import computing
from reed.weights import Origin

ATOMS = [0, 1, 2, 3]  # N, CA, C and O among the model's 14 atoms per residue
ORIGIN = Origin("facebook/esmfold_v1", files=("config.json", "pytorch_model.bin"))


@ENCODERS.register("esmfold")
@dataclass
class EsmFold(PublicWeights):
    """The structure that ESMFold predicts for a chain, and its trunk's representations.

    Its fields:

    - ``coords`` [L, 4, 3]: predicted N, CA, C and O in angstroms.
    - ``plddt`` [L]: confidence in the CA, from 0 to 100.
    - ``single`` [L, 1024]: the single representation of the trunk.
    - ``structure`` [L, 384]: the last state of the structure module.
    - ``pair`` [L, 48, 128]: the pair representation at ``chain/neighbours``, which are the
      neighbours in the true structure.

    Attributes:
        weights: A transformers folder; None for the public weights.
        pair: Whether to store the pair representation.
        recycles: Recycles of the trunk; -1 for the model's own number.
        chunk: Residues that the trunk's attention takes at a time; 0 takes all, a smaller number
            needs less memory.
        single_dim: Channels of ``single``.
        pair_dim: Channels of ``pair``.
        structure_dim: Channels of ``structure``.
        precision: ``fp32``, ``tf32`` or ``bf16``.
        batch_size: Samples per call of ``encode``.
    """

    libraries, extra = ("transformers",), "proteins"

    weights: str | None = None
    pair: bool = True
    recycles: int = -1
    chunk: int = 0
    single_dim: int = 1024
    pair_dim: int = 128
    structure_dim: int = 384
    precision: str = "fp32"
    batch_size: int = 1

    name = "esmfold"
    licence = "MIT"
    origin = ORIGIN

    def __post_init__(self) -> None:
        check_precision("esmfold", self.precision)
        if self.recycles < -1 or self.chunk < 0:
            problem = f"esmfold.recycles is {self.recycles} and chunk {self.chunk}"
            raise ReedError(f"{problem}; they must be at least -1 and 0")

    @property
    def reads(self) -> tuple[str, ...]:
        """The sequence, and the graph if pairs are stored."""
        return ("sequence", "chain", *(["chain/neighbours"] if self.pair else []))

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields ``coords``, ``plddt``, ``single``, ``structure`` and, if stored, ``pair``."""
        shape = (None, NEIGHBOURS, self.pair_dim)
        return (
            Field("coords", "data", (None, len(ATOMS), 3)),
            Field("plddt", "data", (None,)),
            Field("single", "token", (None, self.single_dim), "int8"),
            Field("structure", "token", (None, self.structure_dim), "int8"),
            *([Field("pair", "pair", shape, "int8")] if self.pair else []),
        )

    def revision(self) -> str:
        """Return the weights, the library, the precision and the number of recycles."""
        found = self._find()
        recycles = "own" if self.recycles < 0 else self.recycles
        version = pre.version("transformers", "proteins")
        return f"{pre.fingerprint(found)} {version} {self.precision} ESM too recycles {recycles}"

    def load(self, device: str) -> None:
        """Load the model onto ``device``.

        Raises:
            ReedError: The model has other channels than the settings.
        """
        found = self._find()
        # The released configuration halves its ESM-2, which would round weights and the frequencies
        # of positions to float16, whatever the precision of this column.
        config = pre.open_part("AutoConfig", found.folder)
        config.esmfold_config.fp16_esm = False
        model = pre.open_model("EsmForProteinFolding", found, "fp32", config=config)
        trunk = model.config.esmfold_config.trunk
        module = trunk.structure_module
        have = (trunk.sequence_state_dim, trunk.pairwise_state_dim, module.sequence_dim)
        want = (self.single_dim, self.pair_dim, self.structure_dim)
        if have != want:
            names = "single_dim, pair_dim and structure_dim"
            raise ReedError(f"{found.folder} has {have} channels, {names} are {want}; set them")

        model.trunk.set_chunk_size(self.chunk or None)
        if self.recycles >= 0:
            model.trunk.config.max_recycles = self.recycles + 1  # max_recycles counts every pass
        self._model, self._device = model.to(device), device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one array per field and sample.

        Raises:
            BadSample: A sample has several chains.
        """
        columns: dict[str, list[np.ndarray]] = {field.name: [] for field in self.fields}

        # One by one, so that padding cannot change a result.
        for sample in samples:
            if len(np.unique(sample["chain"])) > 1:
                raise BadSample("ESMFold folds one chain; leave out source.assembly")

            with computing(self._device, self.precision):
                output = self._model.infer([sample["sequence"]])
            values = {
                "coords": output.positions[-1, 0][:, ATOMS],
                "plddt": 100 * output.plddt[0, :, 1],  # from 0 to 1; atom 1 of atom37 is CA
                "single": output.s_s[0],
                "structure": output.states[-1, 0],
            }
            arrays = {name: value.float().cpu().numpy() for name, value in values.items()}
            if self.pair:
                pairs = output.s_z[0].float().cpu().numpy()
                arrays["pair"] = at_neighbours(pairs, np.asarray(sample["chain/neighbours"]))

            for name, array in arrays.items():
                columns[name].append(array)
        return columns
