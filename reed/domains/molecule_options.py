"""Options of drawing molecules, and the times of the steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from reed.config import option
from reed.errors import ReedError, at_least
from reed.guides.steer import Steer

GRIDS = ("log", "linear")
LAST = 0.01  # distance from the data at which the logarithmic grid ends


@dataclass(frozen=True)
class MoleculeOptions:
    """Options of drawing molecules from a trained net.

    Attributes:
        steps: Steps of the integration.
        grid: Lengths of the steps: log (shorter towards the data) or linear (equal).
        noise: Rate at which atoms and bonds are resampled (see reed.flows.categorical).
        atoms: Number of atoms in each molecule; 0 to draw it from the numbers in the cache.
        z: Guidance on the representations of guides (see reed.guides).
        seed: Seed; sample i depends only on (seed, i).
    """

    steps: int = option(100, "Number of integration steps.")
    grid: str = option(
        "log",
        "Step lengths: log (shorter towards the data) or linear (equal).",
        metavar="NAME",
        choices=GRIDS,
    )
    noise: float = option(1.0, "Rate at which atoms and bonds are resampled.")
    atoms: int = option(0, "Atoms per molecule; 0 draws their number from the cache.")
    z: Steer = field(default_factory=Steer)
    seed: int = option(0, "Random seed.")

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)
        if self.grid not in GRIDS:
            raise ReedError(f"grid is {self.grid!r}, it must be one of {GRIDS}")
        if not self.noise >= 0 or self.atoms < 0:
            raise ReedError(
                f"noise is {self.noise} and atoms is {self.atoms}; both must be at least 0"
            )

    @property
    def name(self) -> str:
        """Short form without defaults, for file names: "100-linear-seed1"."""
        parts = [f"{self.steps}", *([self.grid] if self.grid != "log" else [])]
        parts += [f"noise{self.noise:g}"] if self.noise != 1 else []
        parts += [f"atoms{self.atoms}"] if self.atoms else []
        parts += [self.z.name] if self.z.name else []
        parts += [f"seed{self.seed}"] if self.seed else []
        return "-".join(parts)

    def times(self) -> list[float]:
        """Return the times of the steps and of the end, ascending; 0 is noise and 1 is data."""
        if self.grid == "linear":
            return np.linspace(0, 1, self.steps + 1).tolist()
        return (1 - np.geomspace(LAST, 1, self.steps + 1))[::-1].tolist()
