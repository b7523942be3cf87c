"""Sequences for structures, and their measures: recovery, perplexity on fixed masks, refolding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from reed import config
from reed.build.shard import BadSample
from reed.cache import files
from reed.cache.opened import open_cache
from reed.chem.protein import ALPHABET
from reed.domains.protein import (
    SHAPES,
    DesignOptions,
    ProteinDomain,
    Structure,
    collated,
    denoiser,
)
from reed.errors import ReedError
from reed.flows import masked
from reed.metrics.folding import Folded, agreement
from reed.nets.mpnn import MASK, MPNN
from reed.sample.sampler import Sampler
from reed.seeding import seed_for
from reed.sources.protein.proteins import Proteins

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # at which perplexity is taken; 1: nothing is shown
_TOKENS = 4000  # padded residues of one batch


def structures_of(cache: Path, data: Mapping[str, str]) -> list[Structure]:
    """Every structure of a cache, in its order; data: role -> "column/field", as in a recipe."""
    with open_cache(cache) as opened:
        places = {role: opened.column_and_field(data[role]) for role in SHAPES}
        columns = {column.name for column, _ in places.values()}
        if len(columns) > 1:
            problem = f"coords, residue, number and chain lie in {columns}"
            raise ReedError(f"{problem}, not in one column")
        return [
            Structure(key, **{role: values[field.name] for role, (_, field) in places.items()})
            for key, values in opened.records(columns.pop())
        ]


def recovery(designs: Sequence[str], structures: Sequence[Structure]) -> dict[str, float]:
    """The share of letters that designs recover, of those that count; one design per structure.

    recovery: over all residues; recovery_median: of the proteins' own shares.
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
    """exp of the mean negative log-likelihood of masked residues, on masks that never change.

    The mask at time t is a function of (seed, the structure's name, t), so checkpoints, runs and
    batches can be compared. perplexity: over all TIMES; perplexity_at: by time; one_shot_recovery:
    of the likeliest letters when nothing is shown. X and missing residues do not count.
    """
    net.eval()
    nll, count, hits = torch.zeros(len(TIMES)), torch.zeros(len(TIMES)), 0
    device = next(net.parameters()).device
    bar = tqdm(total=len(structures), unit="structure", disable=not progress, dynamic_ncols=True)
    with bar:
        for some in batches(structures):
            inputs, residue = collated(some, device)
            logits_of = denoiser(net, net.encode(**inputs))
            u, counts = _fixed(some, seed, residue)
            for place, t in enumerate(TIMES):
                hidden = masked.mask_tokens(residue, u.new_full((len(some),), t), u, MASK)
                log_p = logits_of(hidden).float().log_softmax(-1)
                judged = counts & (hidden == MASK)
                truth = residue.clamp(max=log_p.shape[-1] - 1).unsqueeze(-1)
                nll[place] -= (log_p.gather(-1, truth).squeeze(-1) * judged).sum().cpu()
                count[place] += judged.sum().cpu()
            hits += int(((log_p.argmax(-1) == residue) & counts).sum())  # the last time is 1
            bar.update(len(some))
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
    """Means, medians and success rates of refolded designs, one per structure.

    sc_rmsd below 2 A and plddt above 80 count as success, as in REED's protein evaluation.
    Raises ReedError for a structure of several chains, which ESMFold does not take.
    """
    rows = []
    pairs = list(zip(designs, structures, strict=True))
    for design, structure in tqdm(pairs, unit="fold", disable=not progress, dynamic_ncols=True):
        if len(np.unique(structure.chain)) > 1:
            raise ReedError(f"{structure.name} has several chains; refold one chain at a time")
        rows.append(agreement(fold(design), structure.coords))
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    found = {f"{name}_mean": float(values.mean()) for name, values in table.items()}
    found |= {f"{name}_median": float(np.median(values)) for name, values in table.items()}
    found["share_sc_rmsd_below_2"] = float((table["sc_rmsd"] < 2).mean())
    return found | {"share_plddt_above_80": float((table["plddt"] > 80).mean())}


def measure(
    run: Path,
    cache: Path,
    *,
    step: int | None = None,
    device: str = "cpu",
    fold: Callable[[str], Folded] | None = None,
    batch: int = 16,
    progress: bool = False,
    **sampling: Any,
) -> dict[str, Any]:
    """A run on the structures of a cache that it was not trained on, one design for each.

    fold: of reed.metrics.folding; without it nothing is refolded; sampling: of DesignOptions.
    Raises ReedError for a run on anything but proteins.
    """
    sampler = Sampler.of_run(run, step, device)
    if not isinstance(sampler.domain, ProteinDomain):
        raise ReedError(f"{run} is a run on {sampler.kind!r}, not on proteins")
    data = config.read(run / "config.json")["data"]
    structures = sorted(structures_of(cache, data), key=lambda each: len(each.residue))
    found = perplexity(sampler.net, structures, progress=progress)
    options = DesignOptions(tuple(structures), **sampling)
    batch = min(batch, len(structures))
    drawn = sampler.draw(len(structures), options, batch=batch, progress=progress)
    designs = drawn["sequence"].tolist()
    found |= recovery(designs, structures)
    found |= refolding(designs, structures, fold, progress=progress) if fold else {}
    about = {"step": sampler.step, "cache": str(cache), "structures": len(structures)}
    return about | {"sampling": options.name} | found


def structure_in(path: Path) -> Structure:
    """The structure of a .pdb, .cif or .mmcif file (also .gz): all chains of its first model.

    Raises ReedError when there is no such file, or no protein in it.
    """
    if not path.is_file():
        raise ReedError(f"no structure at {path}")
    try:
        found = Proteins(path.parent, assembly=True).read(path.name)
    except BadSample as error:
        raise ReedError(f"cannot design for {path}: {error}") from error
    residue = np.array([ALPHABET.index(letter) for letter in found["sequence"]])
    name = path.name.partition(".")[0]
    return Structure(name, found["coords"], residue, found["number"], found["chain"])


def design(
    sampler: Sampler, options: DesignOptions, path: Path | None, num: int, batch: int, out: Path
) -> Path:
    """Draw sequences for all chains of a structure file together; returns the FASTA written.

    out: a .fasta, or the folder that it goes to. A sequence's chains are separated by "/"; its
    name tells how it was drawn and what it recovers of the letters that the file has.
    """
    if not isinstance(sampler.domain, ProteinDomain):
        raise ReedError(f"--structure is for a run on proteins, this one is on {sampler.kind!r}")
    if path is None:
        raise ReedError("a run on proteins designs for a structure: name one with --structure")
    native = structure_in(path)
    options = replace(options, structures=(native,), each=num)
    drawn = sampler.draw(num, options, batch=batch)["sequence"].tolist()
    if out.suffix not in (".fasta", ".fa"):
        out = out / f"{native.name}-step{sampler.step}-{options.name}.fasta"
    names = []
    for number, text in enumerate(drawn):
        name = f"{native.name} design={number} step={sampler.step} {options.name}"
        if native.counts.any():
            name += f" recovery={recovery([text], [native])['recovery']:.4f}"
        names.append(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(out, fasta(names, [_by_chain(text, native) for text in drawn]).encode())
    return out


def _by_chain(text: str, structure: Structure) -> str:
    ends = np.flatnonzero(np.diff(structure.chain)) + 1
    pairs = zip([0, *ends], [*ends, len(text)], strict=True)
    return "/".join(text[first:last] for first, last in pairs)


def batches(structures: Sequence[Structure]) -> Iterator[tuple[Structure, ...]]:
    """All structures, those of like length together, under a budget of padded residues."""
    ordered = sorted(structures, key=lambda each: len(each.residue))
    some: list[Structure] = []
    for each in ordered:
        if some and (len(some) + 1) * len(each.residue) > _TOKENS:
            yield tuple(some)
            some = []
        some.append(each)
    if some:
        yield tuple(some)


def fasta(names: Sequence[str], sequences: Sequence[str]) -> str:
    """Sequences under their names, sixty letters to a line."""
    lines = []
    for name, sequence in zip(names, sequences, strict=True):
        lines += [f">{name}", *(sequence[i : i + 60] for i in range(0, len(sequence), 60))]
    return "\n".join(lines) + "\n"


def _fixed(some: Sequence[Structure], seed: int, residue: Tensor) -> tuple[Tensor, Tensor]:
    """Uniform numbers that are each structure's own, and which residues count: [B, L] twice."""
    u, counts = np.ones(residue.shape, np.float32), np.zeros(residue.shape, bool)
    for row, each in enumerate(some):
        length = len(each.residue)
        rng = np.random.default_rng(seed_for(seed, "mask", each.name))
        u[row, :length] = rng.random(length, np.float32)
        counts[row, :length] = each.counts
    return torch.from_numpy(u).to(residue.device), torch.from_numpy(counts).to(residue.device)
