"""Files of molecules: an SDF with bonds, arrays for evaluation, and a picture of the first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reed.cache import files
from reed.chem import rdkit, rdkit_writing
from reed.chem.molecule import Molecule
from reed.chem.molecule_set import write
from reed.picture import save_png
from reed.sample.outputs.arrays import ArrayOutput, representations
from reed.sample.sample_set import OUTPUTS, SampleSet, Writer, beside
from reed.sample.sampler import Sampler

SHOWN = 25  # molecules in the picture


@OUTPUTS.register("molecule")
@dataclass
class MoleculeOutput(ArrayOutput):
    """Molecules as OUT.npz (reed.chem.molecule_set), OUT.sdf and OUT.png.

    The SDF has every molecule whose coordinates are finite, also those that RDKit does not accept;
    OUT.json names the others. Bonds are kekulised if RDKit can do so; else aromatic bonds stay.
    """

    def open(self, sampler: Sampler, device: str) -> None:
        """Import RDKit before the samples are drawn, so that its absence is reported early."""
        rdkit.library()
        super().open(sampler, device)

    def files(self, out: Path) -> Mapping[Path, Writer]:
        """Return the writers of the files, the arrays first: they are all that was drawn."""
        return {
            beside(out, ".npz"): lambda path, samples: write(path, molecules(samples)),
            beside(out, ".sdf"): write_sdf,
            beside(out, ".png"): self._write_picture,
            **representations(out, self._sampler),
        }

    def _write_picture(self, path: Path, samples: SampleSet) -> None:
        with files.new_file(path) as temp:
            save_png(self._drawn(samples, SHOWN), temp)


def write_sdf(path: Path, samples: SampleSet) -> dict[int, str]:
    """Write the molecules in order, named by their numbers; return why others are not in it."""
    refused = {}
    with files.open_new(path) as file:
        for number, molecule in enumerate(molecules(samples)):
            try:
                file.write(_entry(f"{number:06d}", molecule).encode())
            except (ValueError, RuntimeError, IndexError) as error:  # those of RDKit
                refused[number] = f"not in {path.name}: {' '.join(str(error).split())}"
    return refused


def _entry(name: str, molecule: Molecule) -> str:
    """Return a molecule as an entry of an SDF; ValueError if a reader could not read it."""
    if not np.isfinite(molecule.coords).all():
        raise ValueError("coordinates are not finite")
    sanitised = rdkit.sanitised(molecule)
    return rdkit_writing.sdf([(name, rdkit.to_mol(molecule) if sanitised is None else sanitised)])


def molecules(samples: SampleSet) -> Iterator[Molecule]:
    """Return the molecules of a set, without padding."""
    return itertools.chain.from_iterable(map(unpadded, samples.parts()))


def unpadded(part: Mapping[str, np.ndarray]) -> Iterator[Molecule]:
    """Yield the molecules of a padded batch.

    Args:
        part: Arrays coords [B, N, 3], atoms and charges [B, N] and bonds [B, N, N]; atoms is 0
            after the last atom of a molecule.
    """
    for row, count in enumerate((part["atoms"] > 0).sum(1)):
        coords, atoms, charges = (
            part[name][row, :count] for name in ("coords", "atoms", "charges")
        )
        yield Molecule(coords, atoms, charges, part["bonds"][row, :count, :count])
