"""Small pictures of molecules for previews: discs and lines, without a chemistry library."""

from __future__ import annotations

import math

import numpy as np

from reed.chem.molecule import ATOMS, HYDROGEN
from reed.picture import grid

SIDE, MARGIN = 96, 8  # pixels
GREY = (120, 120, 120)
COLOURS = {
    "H": (200, 200, 200),
    "C": (60, 60, 60),
    "N": (50, 80, 220),
    "O": (220, 40, 40),
    "F": (80, 190, 80),
    "Cl": (40, 150, 40),
    "S": (210, 180, 30),
    "P": (240, 140, 20),
    "Br": (150, 60, 30),
}


def drawn(coords: np.ndarray, atoms: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Draw molecules in a grid, uint8 [H, W, 3].

    Args:
        coords: Coordinates, [B, N, 3].
        atoms: Indices into reed.chem.molecule.ATOMS, [B, N]; 0 for no atom.
        bonds: Kinds of bonds, [B, N, N]; 0 for no bond.
    """
    images = []
    for x, numbers, kinds in zip(coords, atoms, bonds, strict=True):
        real = numbers > 0
        images.append(_molecule(x[real], numbers[real], kinds[real][:, real]))
    return grid(np.stack(images), columns=math.ceil(math.sqrt(len(images))))


def _molecule(x: np.ndarray, numbers: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Draw one molecule, [SIDE, SIDE, 3]."""
    canvas = np.full((SIDE, SIDE, 3), 255, np.uint8)
    if not np.isfinite(x).all():  # it has no place to be drawn at
        return canvas

    # Look along the axis of least variance, so that as few atoms as possible hide others.
    x = x - x.mean(0)
    axes = np.linalg.svd(x, full_matrices=False)[2]
    rotated = x @ np.pad(axes, ((0, 3 - len(axes)), (0, 0))).T
    reach = np.abs(rotated[:, :2]).max() or 1.0
    pixels = SIDE / 2 + rotated[:, :2] / reach * (SIDE / 2 - MARGIN)

    for a, b in np.argwhere(np.triu(kinds, 1)):
        for part in np.linspace(0, 1, SIDE):
            column, row = (pixels[a] * (1 - part) + pixels[b] * part).astype(int)
            canvas[row, column] = GREY

    rows, columns = np.mgrid[:SIDE, :SIDE]
    for i in np.argsort(rotated[:, 2]):  # the nearest last
        radius = 2 if numbers[i] == HYDROGEN else 4
        disc = (columns - pixels[i, 0]) ** 2 + (rows - pixels[i, 1]) ** 2 <= radius**2
        canvas[disc] = COLOURS.get(ATOMS[numbers[i]], (150, 60, 200))
    return canvas
