"""A molecule of SemlaFlow's .smol files: tensors in a pickle, read without running it.

Names as in https://github.com/rssrwn/semla-flow, semlaflow/util/molrepr.py.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.chem import rdkit, rdkit_reading
from reed.chem.molecule import AROMATIC, ATOMS, ELEMENTS, Molecule
from reed.sources.molecule import pickles


def molecule(content: bytes) -> Any:
    """The molecule of an entry, of RDKit and sanitised; BadSample with the reason."""
    found = pickles.read(io.BytesIO(content), "an entry of a .smol file", _names())
    try:
        coords, numbers, charges = (found[n].numpy() for n in ("coords", "atomics", "charges"))
        if "bond_types" in found:
            parts = (found["bond_indices"].numpy(), found["bond_types"].numpy())
            bonds = np.column_stack(parts).astype(int)
        else:  # as older files have it
            bonds = found["bonds"].numpy().astype(int)
    except (TypeError, KeyError, AttributeError, ValueError, RuntimeError) as error:
        raise BadSample(f"is no molecule of a .smol file: {error!r}") from error
    size = len(coords)
    fit = coords.shape == (size, 3) and numbers.shape == charges.shape == (size,)
    fit = fit and bonds.ndim == 2 and bonds.shape[1] == 3
    if not fit or ((bonds < 0) | (bonds > (size - 1, size - 1, AROMATIC))).any():
        raise BadSample("is no molecule of a .smol file: its arrays do not fit together")
    places = _places()
    if odd := sorted(set(numbers.tolist()) - set(places)):
        raise BadSample(f"has an atom of the number {odd[0]}, which is none of {ELEMENTS}")
    matrix = np.zeros((size, size), np.uint8)
    a, b, kinds = bonds.T
    matrix[a, b] = matrix[b, a] = kinds * (a != b)
    atoms = np.array([places[number] for number in numbers.tolist()], np.uint8)
    plain = Molecule(coords.astype(np.float32), atoms, charges.astype(int), matrix)
    made = rdkit.sanitised(plain)
    if made is None:
        reason = rdkit_reading.why_unsound(plain)
        raise BadSample(f"is no molecule that RDKit accepts: {reason}")
    return made


@lru_cache(maxsize=1)
def _places() -> dict[int, int]:
    """Atomic numbers, and where their symbols stand in ATOMS."""
    table = rdkit.library().GetPeriodicTable()
    return {table.GetAtomicNumber(symbol): ATOMS.index(symbol) for symbol in ELEMENTS}


@lru_cache(maxsize=1)
def _names() -> pickles.Names:
    """What a pickled tensor asks for; its numbers are read by torch, which runs nothing either."""
    import torch

    def storage(content: bytes) -> Any:
        return torch.load(io.BytesIO(content), weights_only=True)

    def tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
        return torch._utils._rebuild_tensor(storage, offset, size, stride)

    return {
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch.storage", "_load_from_bytes"): storage,
        ("collections", "OrderedDict"): dict,
    }
