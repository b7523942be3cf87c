"""A teacher of real protein chains without weights: what their backbone says, gaps included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.chem.protein import NEIGHBOURS
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless
from reed.encoders.protein.chain import at_neighbours, backbone, residues
from reed.encoders.protein.descriptors import PAIR, TOKEN, Described

BOND = 2.0  # angstroms between C and the next N, above which the chain is broken; it is 1.33


@ENCODERS.register("structure")
class Structure(Weightless):
    """Descriptors of residues, of pairs of neighbours, and of the whole chain, of real structures.

    They are torsions, secondary structure, burial, hydrogen bonds, distances and directions, and
    the hydropathy and charge of residues. Residues with a missing atom are left out of all of them:
    their tokens are the mean of the chain and their pairs zero, and training compares neither.

    Its fields; their codec whitens each over the data set:

    - ``token`` [L, 33].
    - ``pair`` [L, 48, 22], at ``chain/neighbours``.
    - ``sample`` [66]: mean and standard deviation of the tokens.
    """

    reads = ("coords", "sequence", "chain/neighbours")
    fields = (
        Field("token", "token", (None, TOKEN), "pca:24+int8"),
        Field("pair", "pair", (None, NEIGHBOURS, PAIR), "pca:16+int8"),
        Field("sample", "sample", (2 * TOKEN,), "standard+int8"),
    )
    licence = "MIT"
    batch_size = 16
    version = "1"  # raise it when a descriptor changes

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one array per field and sample.

        Raises:
            BadSample: No residue has all atoms, or atoms lie in one place.
        """
        columns: dict[str, list[np.ndarray]] = {field.name: [] for field in self.fields}
        for sample in samples:
            for name, values in _described(sample).items():
                if not np.isfinite(values).all():
                    raise BadSample("has atoms of one residue in one place")
                columns[name].append(values)
        return columns


def _described(sample: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the value of each field of one sample, float32."""
    coords, letters = backbone(sample).astype(np.float64), residues(sample["sequence"])
    seen = np.flatnonzero(np.isfinite(coords).all((1, 2)))
    if not len(seen):
        raise BadSample("has no residue with N, CA, C and O")

    # Computed in float64 on the residues that are seen, stored in float32.
    kept = coords[seen]
    apart = np.linalg.norm(kept[1:, 0] - kept[:-1, 2], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):  # the caller refuses what comes of it
        chain = Described(kept, letters[seen], np.flatnonzero(apart > BOND) + 1)
        tokens, pairs = chain.tokens(), chain.pairs()

    # Neighbours are counted among all residues; those that are not seen count as none.
    position = np.full(len(coords) + 1, -1)
    position[seen] = np.arange(len(seen))
    graph = position[np.asarray(sample["chain/neighbours"])[seen]]  # -1 finds the last entry
    token = np.repeat(tokens.mean(0, keepdims=True), len(coords), 0)
    token[seen] = tokens
    pair = np.zeros((len(coords), NEIGHBOURS, PAIR))
    pair[seen] = at_neighbours(pairs, graph)

    whole = np.concatenate([tokens.mean(0), tokens.std(0)])
    found = {"token": token, "pair": pair, "sample": whole}
    return {name: values.astype(np.float32) for name, values in found.items()}
