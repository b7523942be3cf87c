"""Teachers of generated proteins: exact descriptors of structure, and the Bayes-optimal guess.

Nothing here has weights. The descriptors are what a net has to work out from the coordinates:
secondary structure, burial, hydrogen bonds, and the properties of nearby residues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless
from reed.encoders.protein.chain import backbone, residues
from reed.encoders.protein.descriptors import TOKEN
from reed.encoders.protein.structure import Structure


@ENCODERS.register("toy-structure")
class ToyStructure(Structure):
    """Descriptors of residues, of pairs of neighbours, and of the whole chain.

    They are those of `Structure`, for chains without gaps. Its fields; their codec whitens each
    over the data set and keeps fewer channels:

    - ``token`` [L, 33].
    - ``pair`` [L, 48, 22], at ``chain/neighbours``.
    - ``sample`` [66]: mean and standard deviation of the tokens.
    """

    fields = (*Structure.fields[:2], Field("sample", "sample", (2 * TOKEN,), "pca:8+int8"))
    batch_size = 64

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one array per field and sample.

        Raises:
            BadSample: An atom is missing, or a residue is X.
        """
        for sample in samples:
            letters = residues(sample["sequence"])
            if not np.isfinite(backbone(sample)).all() or (letters == 20).any():
                raise BadSample("has a missing atom or an X, which generated proteins never have")
        return super().encode(samples)


@ENCODERS.register("toy-bayes")
class ToyBayes(Weightless):
    """The best possible prediction for each residue of a generated protein.

    Its fields:

    - ``bayes`` [L]: the probability that the best guess of a residue is right. Its mean over
      residues is the highest possible recovery.
    - ``distribution`` [L, 20]: the probability of each letter.
    """

    reads = ("distribution",)
    fields = (Field("bayes", "data", (None,)), Field("distribution", "data", (None, 20)))
    licence = "MIT"

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``bayes`` and ``distribution`` of each sample."""
        odds = [np.asarray(sample["distribution"], np.float32) for sample in samples]
        return {"bayes": [chances.max(1) for chances in odds], "distribution": odds}
