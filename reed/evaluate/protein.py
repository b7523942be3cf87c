"""Metrics of designed sequences: recovery, perplexity on fixed masks, refolding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from reed.cache.opened import open_cache
from reed.chem.protein import ALPHABET
from reed.domains.protein import (
    SHAPES,
    Structure,
    collated,
    denoiser,
)
from reed.errors import ReedError
from reed.flows import masked
from reed.metrics.folding import Folded, agreement
from reed.nets.mpnn import MASK, MPNN
from reed.seeding import seed_for

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # of the perplexity; at 1 every residue is masked
_TOKENS = 4000  # most padded residues in a batch


def structures_of(cache: Path, data: Mapping[str, str]) -> list[Structure]:
    """Return every structure of a cache, in cache order.

    Args:
        cache: Folder of the cache.
        data: "column/field" by role, as in a recipe.

    Raises:
        ReedError: The roles of a structure are not in one column.
    """
    with open_cache(cache) as opened:
        fields = {role: opened.column_and_field(data[role]) for role in SHAPES}
        columns = {column.name for column, _ in fields.values()}
        if len(columns) > 1:
            problem = f"coords, residue, number and chain lie in {columns}"
            raise ReedError(f"{problem}, not in one column")
        return [
            Structure(key, **{role: values[field.name] for role, (_, field) in fields.items()})
            for key, values in opened.records(columns.pop())
        ]


def recovery(designs: Sequence[str], structures: Sequence[Structure]) -> dict[str, float]:
    """Return the share of native residues that designs recover; one design per structure.

    Residues that are missing or X do not count.

    Returns:
        recovery: share over all residues; recovery_median: median of the shares of the structures;
        residues: number of residues that count.

    Raises:
        ReedError: No residue counts.
    """
    shares, hits, total = [], 0, 0
    for design, structure in zip(designs, structures, strict=True):
        letters = np.array([ALPHABET.index(letter) for letter in design])
        same = (letters == structure.residue)[structure.counts]
        hits, total = hits + int(same.sum()), total + same.size
        if same.size:
            shares.append(float(same.mean()))
    if not total:
        raise ReedError("no residue of these structures counts: all are missing or X")
    return {
        "recovery": hits / total,
        "recovery_median": float(np.median(shares)),
        "residues": total,
    }


@torch.no_grad()
def perplexity(
    net: MPNN, structures: Sequence[Structure], *, seed: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Return the perplexity of masked residues, on masks that never change.

    Perplexity is exp of the mean negative log-likelihood. The mask at time t is a function of
    (seed, the structure's name, t), so that checkpoints, runs and batch sizes can be compared.
    Residues that are missing or X do not count.

    Returns:
        perplexity: over all TIMES; perplexity_at: by time; one_shot_recovery: recovery by the most
        likely residues when all are masked.

    Raises:
        ReedError: At one of the TIMES no residue counts.
    """
    net.eval()
    nll, count, hits = torch.zeros(len(TIMES)), torch.zeros(len(TIMES)), 0
    device = next(net.parameters()).device
    bar = tqdm(total=len(structures), unit="structure", disable=not progress, dynamic_ncols=True)
    with bar:
        for batch in batches(structures):
            inputs, residue = collated(batch, device)
            logits_of = denoiser(net, net.encode(**inputs))
            u, counts = _fixed(batch, seed, residue)
            for i, t in enumerate(TIMES):
                hidden = masked.mask_tokens(residue, u.new_full((len(batch),), t), u, MASK)
                log_p = logits_of(hidden).float().log_softmax(-1)
                judged = counts & (hidden == MASK)
                truth = residue.clamp(max=log_p.shape[-1] - 1).unsqueeze(-1)
                nll[i] -= (log_p.gather(-1, truth).squeeze(-1) * judged).sum().cpu()
                count[i] += judged.sum().cpu()
                if t == 1:  # all residues are masked
                    hits += int(((log_p.argmax(-1) == residue) & counts).sum())
            bar.update(len(batch))

    # Each time needs a residue of its own, or its perplexity would be 0 / 0.
    if not count.all():
        raise ReedError("too few residues of these structures count to take a perplexity")
    by_time = (nll / count).exp().tolist()
    return {
        "perplexity": float((nll.sum() / count.sum()).exp()),
        "perplexity_at": {f"{t:g}": value for t, value in zip(TIMES, by_time, strict=True)},
        "one_shot_recovery": hits / int(count[-1]),
    }


def refolding(
    designs: Sequence[str],
    structures: Sequence[Structure],
    fold: Callable[[str], Folded],
    *,
    progress: bool = False,
) -> dict[str, float]:
    """Return means, medians and success rates of refolded designs, one per structure.

    As in REED's protein evaluation, an sc_rmsd below 2 Å and a plddt above 80 count as success.

    Args:
        designs: Sequences.
        structures: Structures that they were designed for.
        fold: Function that predicts the structure of a sequence.
        progress: Whether to show a progress bar.

    Raises:
        ReedError: A structure has several chains, which ESMFold does not accept.
    """
    rows = []
    pairs = list(zip(designs, structures, strict=True))
    for design, structure in tqdm(pairs, unit="fold", disable=not progress, dynamic_ncols=True):
        if len(np.unique(structure.chain)) > 1:
            raise ReedError(f"{structure.name} has several chains; refold one chain at a time")
        rows.append(agreement(fold(design), structure.coords))
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    results = {f"{name}_mean": float(values.mean()) for name, values in table.items()}
    results |= {f"{name}_median": float(np.median(values)) for name, values in table.items()}
    results["share_sc_rmsd_below_2"] = float((table["sc_rmsd"] < 2).mean())
    return results | {"share_plddt_above_80": float((table["plddt"] > 80).mean())}


def batches(structures: Sequence[Structure]) -> Iterator[tuple[Structure, ...]]:
    """Yield batches of structures of similar length, within a budget of padded residues."""
    ordered = sorted(structures, key=lambda structure: len(structure.residue))
    batch: list[Structure] = []
    for structure in ordered:
        if batch and (len(batch) + 1) * len(structure.residue) > _TOKENS:
            yield tuple(batch)
            batch = []
        batch.append(structure)
    if batch:
        yield tuple(batch)


def _fixed(batch: Sequence[Structure], seed: int, residue: Tensor) -> tuple[Tensor, Tensor]:
    """Return uniform numbers and which residues count, both [B, L].

    The numbers of a structure depend on the seed and its name alone.
    """
    u, counts = np.ones(residue.shape, np.float32), np.zeros(residue.shape, bool)
    for row, structure in enumerate(batch):
        length = len(structure.residue)
        rng = np.random.default_rng(seed_for(seed, "mask", structure.name))
        u[row, :length] = rng.random(length, np.float32)
        counts[row, :length] = structure.counts
    return torch.from_numpy(u).to(residue.device), torch.from_numpy(counts).to(residue.device)
