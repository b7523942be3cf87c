"""Sequences for a user's own structure, as FASTA: a part of reed-sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from reed.cache import files
from reed.errors import ReedError


def design(
    sampler: Any, options: Any, structure: Path | None, num: int, batch: int, out: Path
) -> None:
    """Draw `num` sequences for all chains of a structure together, and write them.

    out: a .fasta, or the folder that it goes to. A sequence's chains are separated by "/".
    Raises ReedError for a run on anything but proteins, and for a file that holds no structure.
    """
    from reed import design as designs

    if sampler.kind != "protein":
        raise ReedError(f"--structure is for a run on proteins, this one is on {sampler.kind!r}")
    if structure is None:
        raise ReedError("a run on proteins designs for a structure: name one with --structure")
    native = read(structure)
    options = replace(options, structures=(native,), each=num)
    drawn = sampler.draw(num, options, batch=batch)["sequence"].tolist()
    if out.suffix not in (".fasta", ".fa"):
        out = out / f"{native.name}-step{sampler.step}-{options.name}.fasta"
    names, texts = [], []
    for number, text in enumerate(drawn):
        share = designs.recovery([text], [native])["recovery"] if native.counts.any() else None
        known = f" recovery={share:.4f}" if share is not None else ""
        names.append(f"{native.name} design={number} step={sampler.step} {options.name}{known}")
        ends = [i for i in range(1, len(text)) if native.chain[i] != native.chain[i - 1]]
        pairs = zip([0, *ends], [*ends, len(text)], strict=True)
        texts.append("/".join(text[first:last] for first, last in pairs))
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(out, designs.fasta(names, texts).encode())
    click.echo(f"{out}: {num} sequences for {structure}")


def read(path: Path) -> Any:
    """The structure in a .pdb, .cif or .mmcif file (also .gz): all chains of its first model."""
    from reed.cache.build import BadSample
    from reed.domains.protein import Structure
    from reed.protein import ALPHABET
    from reed.sources.proteins import Proteins

    if not path.is_file():
        raise ReedError(f"no structure at {path}")
    try:
        found = Proteins(path.parent, assembly=True).read(path.name)
    except BadSample as error:
        raise ReedError(f"cannot design for {path}: {error}") from error
    import numpy as np

    residue = np.array([ALPHABET.index(letter) for letter in found["sequence"]])
    name = path.name.partition(".")[0]
    return Structure(name, found["coords"], residue, found["number"], found["chain"])
