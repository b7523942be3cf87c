"""The source ``scenes``: generated pictures of a few objects that may share a property."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.errors import ReedError, at_least
from reed.seeding import seed_for
from reed.sources import SOURCES

SIDE = 32  # pixels
SHAPES = ("disc", "square", "triangle", "cross", "ring")
TEXTURES = ("plain", "striped", "barred")
COLOURS = {
    "red": (255, 0, 0),
    "yellow": (255, 220, 0),
    "green": (0, 190, 0),
    "cyan": (0, 220, 255),
    "blue": (30, 30, 255),
    "purple": (200, 0, 220),
}
GROUNDS = {"dark": (0, 60), "light": (195, 255)}  # range of each channel of the two tints
RULES = ("none", "colour", "shape", "texture")  # the property that all objects of a scene share
COUNTS = (1, 2, 3)  # objects
VERSION = "1"  # raise it when the scene of any (split, seed, index) changes


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Attributes:
        shape: Name of its shape.
        colour: Name of its colour.
        texture: Name of its texture.
        x: Horizontal position of its centre in pixels.
        y: Vertical position of its centre in pixels, downwards.
        radius: Its radius in pixels.
    """

    shape: str
    colour: str
    texture: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """The description of one picture.

    Attributes:
        things: The objects from left to right.
        rule: The property that all objects share, or ``none``.
        ground: ``dark`` or ``light``.
    """

    things: tuple[Thing, ...]
    rule: str
    ground: str


@SOURCES.register("scenes")
@dataclass
class Scenes:
    """Generated scenes, each determined by the split, the seed and its index.

    Its entries:

    - ``pixels``: uint8 [3, 32, 32].
    - ``scene``: a Scene.
    - ``label``: int, the ground (0 dark, 1 light), which is independent of the objects.

    Attributes:
        samples: Number of scenes.
        seed: Seed of the scenes.
        split: Name of the split. Splits share no random numbers; reed.experiments.train_scenes and
            reed.metrics.scenes use their own.
        data: Must be None, because nothing is read from disk.
    """

    samples: int = 16_000
    seed: int = 0
    split: str = "train"
    data: Path | None = None

    entries = ("pixels", "scene", "label")
    views = 1

    def __post_init__(self) -> None:
        if self.data is not None:
            raise ReedError(f"scenes are generated and take no --data, got {self.data}")
        at_least(1, "source.", samples=self.samples)

    def listing(self) -> dict[str, str]:
        """Return every key with the version, split, seed and index that determine its scene."""
        prefix = f"scenes{VERSION}/{self.split}/{self.seed}"
        return {f"scene-{index:06d}": f"{prefix}/{index}" for index in range(self.samples)}

    def read(self, key: str, view: int = 0) -> dict[str, Any]:
        """Return the entries of one scene.

        Raises:
            BadSample: There is no such key or view.
        """
        match = re.fullmatch("scene-([0-9]{6,})", key)
        if view or not match or int(match[1]) >= self.samples:
            last = f"scene-{self.samples - 1:06d}"
            raise BadSample(f"no scene {key!r} in view {view}: keys run to {last}, in view 0")
        scene, pixels = scene_at(self.split, self.seed, int(match[1]))
        return {"pixels": pixels, "scene": scene, "label": [*GROUNDS].index(scene.ground)}


def scene_at(split: str, seed: int, index: int) -> tuple[Scene, np.ndarray]:
    """Return the scene of a split, seed and index, and its picture, uint8 [3, 32, 32]."""
    rng = np.random.Generator(np.random.PCG64(seed_for("scenes", split, seed, index)))
    scene = _compose(rng)
    return scene, render(scene, rng)


def _compose(rng: np.random.Generator) -> Scene:
    """Draw the objects, rule and ground of a scene."""
    # The order of the draws is part of the data set: VERSION changes with it.
    rule, count = _pick(rng, RULES), int(rng.choice(COUNTS))
    ground = _pick(rng, [*GROUNDS])
    kinds = {
        name: [_pick(rng, choices) for _ in range(count)]
        for name, choices in (("colour", [*COLOURS]), ("shape", SHAPES), ("texture", TEXTURES))
    }

    if rule in kinds:
        kinds[rule] = kinds[rule][:1] * count
    things = [
        Thing(kinds["shape"][i], kinds["colour"][i], kinds["texture"][i], *circle)
        for i, circle in enumerate(_circles(rng, count))
    ]
    return Scene(tuple(sorted(things, key=lambda thing: thing.x)), rule, ground)


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _circles(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """Draw (x, y, radius) of objects that do not touch; start again if there is no room."""
    while True:
        circles: list[tuple[float, float, float]] = []
        for _ in range(50):
            radius = rng.uniform(5.5, 7.5)
            x, y = rng.uniform(radius, SIDE - radius, 2)
            if all((x - a) ** 2 + (y - b) ** 2 > (radius + r + 1) ** 2 for a, b, r in circles):
                circles.append((float(x), float(y), float(radius)))
                if len(circles) == count:
                    return circles


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw the picture of a scene, uint8 [3, 32, 32].

    The objects lie on a gradient between two tints of the ground, with a little noise on top.
    """
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5  # centres of the pixels
    angle = rng.uniform(0, 2 * np.pi)
    along = (np.cos(angle) * (x - SIDE / 2) + np.sin(angle) * (y - SIDE / 2)) / SIDE  # -0.7 to 0.7
    tints = rng.uniform(*GROUNDS[scene.ground], (2, 3, 1, 1))
    image = tints[0] + (tints[1] - tints[0]) * (along + 0.5)

    # An edge pixel is covered in part, so that the outline is smooth.
    for thing in scene.things:
        dx, dy = x - thing.x, y - thing.y
        cover = np.clip(0.5 - _outside(thing.shape, dx, dy, thing.radius), 0, 1)
        shade = 1 - 0.6 * _dark(thing.texture, dx, dy)
        paint = np.array(COLOURS[thing.colour])[:, None, None] * shade
        image = image + cover * (paint - image)

    image = image + rng.normal(0, 2, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _outside(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """Return how far each pixel lies outside a shape, in pixels; negative inside."""
    away, square = np.hypot(dx, dy), np.maximum(np.abs(dx), np.abs(dy))
    bar = np.minimum(np.abs(dx), np.abs(dy)) - radius / 3
    return {
        "disc": away - radius,
        "square": square - 0.85 * radius,
        "triangle": np.maximum(0.866 * abs(dx) - 0.5 * dy, dy) - radius / 2,
        "cross": np.maximum(bar, square - radius),
        "ring": abs(away - 0.75 * radius) - 0.25 * radius,
        "diamond": (abs(dx) + abs(dy) - radius) * 0.7071,
    }[shape]


def _dark(texture: str, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Return 1 where a texture is dark and 0 elsewhere; its period is six pixels."""
    across, down = np.floor(dx / 3) % 2, np.floor(dy / 3) % 2
    dark = {
        "plain": 0 * dx,
        "striped": down,
        "barred": across,
    }
    return dark[texture]
