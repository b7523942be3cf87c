"""Generated scenes: a few objects with shape, colour, texture, place and a rule that they share."""

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
GROUNDS = {"dark": (0, 60), "light": (195, 255)}  # each channel of the two tints behind
RULES = ("none", "colour", "shape", "texture")  # what all objects of a scene have in common
COUNTS = (1, 2, 3)  # objects
VERSION = "1"  # raise it with every change of what a place (split, seed, index) gives


@dataclass(frozen=True)
class Thing:
    """One object: shape, colour and texture by name; centre and radius in pixels."""

    shape: str
    colour: str
    texture: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """The objects of an image from left to right, what they have in common, and the ground."""

    things: tuple[Thing, ...]
    rule: str
    ground: str


@SOURCES.register("scenes")
@dataclass
class Scenes:
    """`samples` scenes, each a function of (split, seed, its number) and of nothing else.

    pixels: uint8 [3, 32, 32]; scene: a Scene; label: int, the ground (0 dark, 1 light), which
    says nothing of the objects. Splits share no random number: reed.experiments.train_scenes and
    the feature spaces of reed.metrics.scenes use splits of their own.
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
        """Every key with the place that its scene is a function of."""
        place = f"scenes{VERSION}/{self.split}/{self.seed}"
        return {f"scene-{index:06d}": f"{place}/{index}" for index in range(self.samples)}

    def read(self, key: str, view: int = 0) -> dict[str, Any]:
        """The entries of one scene; BadSample when there is no such key."""
        found = re.fullmatch("scene-([0-9]{6,})", key)
        if view or not found or int(found[1]) >= self.samples:
            last = f"scene-{self.samples - 1:06d}"
            raise BadSample(f"no scene {key!r} in view {view}: keys run to {last}, in view 0")
        scene, pixels = scene_at(self.split, self.seed, int(found[1]))
        return {"pixels": pixels, "scene": scene, "label": [*GROUNDS].index(scene.ground)}


def scene_at(split: str, seed: int, index: int) -> tuple[Scene, np.ndarray]:
    """The scene of a place and its image, uint8 [3, 32, 32]."""
    rng = np.random.Generator(np.random.PCG64(seed_for("scenes", split, seed, index)))
    scene = _compose(rng)
    return scene, render(scene, rng)


def _compose(rng: np.random.Generator) -> Scene:
    rule, count = _pick(rng, RULES), int(rng.choice(COUNTS))
    ground = _pick(rng, [*GROUNDS])
    kinds = {
        name: [_pick(rng, choices) for _ in range(count)]
        for name, choices in (("colour", [*COLOURS]), ("shape", SHAPES), ("texture", TEXTURES))
    }
    if rule in kinds:
        kinds[rule] = kinds[rule][:1] * count
    things = [
        Thing(kinds["shape"][i], kinds["colour"][i], kinds["texture"][i], *place)
        for i, place in enumerate(_places(rng, count))
    ]
    return Scene(tuple(sorted(things, key=lambda thing: thing.x)), rule, ground)


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _places(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """x, y and radius of objects that do not touch; starts anew when they find no room."""
    while True:
        found: list[tuple[float, float, float]] = []
        for _ in range(50):
            radius = rng.uniform(5.5, 7.5)
            x, y = rng.uniform(radius, SIDE - radius, 2)
            if all((x - a) ** 2 + (y - b) ** 2 > (radius + r + 1) ** 2 for a, b, r in found):
                found.append((float(x), float(y), float(radius)))
                if len(found) == count:
                    return found


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The image, uint8 [3, 32, 32]: objects on a slope of two tints, a little noise."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    turn = rng.uniform(0, 2 * np.pi)
    along = (np.cos(turn) * (x - SIDE / 2) + np.sin(turn) * (y - SIDE / 2)) / SIDE  # -0.7 to 0.7
    tints = rng.uniform(*GROUNDS[scene.ground], (2, 3, 1, 1))
    image = tints[0] + (tints[1] - tints[0]) * (along + 0.5)
    for thing in scene.things:
        dx, dy = x - thing.x, y - thing.y
        cover = np.clip(0.5 - _outside(thing.shape, dx, dy, thing.radius), 0, 1)
        shade = 1 - 0.6 * _dark(thing.texture, dx, dy)
        paint = np.array(COLOURS[thing.colour])[:, None, None] * shade
        image = image + cover * (paint - image)
    image = image + rng.normal(0, 2, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _outside(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """How far each pixel is outside a shape, in pixels; negative inside."""
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
    """Where a texture is dark: 1, and 0 elsewhere; its period is six pixels."""
    across, down = np.floor(dx / 3) % 2, np.floor(dy / 3) % 2
    dark = {
        "plain": 0 * dx,
        "striped": down,
        "barred": across,
    }
    return dark[texture]
