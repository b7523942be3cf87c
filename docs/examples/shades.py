"""Sampling options and an evaluator for greys.py; it compares the share of each grey."""

from dataclasses import dataclass

import numpy as np

from reed.evaluate.base import EVALUATORS, Evaluator
from reed.evaluate.provenance import recipe_of
from reed.evaluate.record import Record
from reed.metrics.image_set import open_images


@dataclass(frozen=True)
class Options:
    steps: int = 64
    temperature: float = 1.0
    seed: int = 0

    @property
    def name(self):
        return f"steps{self.steps}-T{self.temperature:g}-seed{self.seed}"


@EVALUATORS.register("greys:Greys")
@dataclass
class Shades(Evaluator):
    noun = "drawings"

    power: float = 1.0

    def measure(self, task):
        drawn = np.load(task.samples)["x"]
        task.check_num(len(drawn))
        real = open_images(task.reference).all() // 80  # 255 is ink 16, the darkest letter is 3
        ours, theirs = (np.bincount(x.flat, minlength=4)[:4] / x.size for x in (drawn, real))
        values = {"difference": float((abs(ours - theirs) ** self.power).sum() / 2)}
        values |= {f"share_{letter}": float(share) for letter, share in enumerate(ours)}
        samples, reference = (
            {"place": str(place), "num": len(rows)}
            for place, rows in ((task.samples, drawn), (task.reference, real))
        )
        recipe = recipe_of(task.samples, len(drawn))
        record = Record.of(task.kind, samples, reference, recipe, values, power=self.power)
        record.write(task.out)
        return record
