"""Trains the nets of the generated scenes: ``python -m reed.experiments.train_scenes``.

There are three nets, each with its own seed, on scenes that no run trains on. The image encoder
learns what covers each patch (shape, colour, texture) and how many objects there are. The text
encoder learns to find the image of a caption by the mean token of the image encoder (InfoNCE, as in
CLIP, arXiv 2103.00020). The judge, which only measures, learns shape with texture and colour with
shape on its own split.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import cross_entropy
from tqdm import trange

from reed.cache.files import write_atomic
from reed.cli.common import one_line_errors
from reed.encoders.toy import scenes as captions
from reed.encoders.toy import scenes_net as nets
from reed.metrics import scenes as judge
from reed.seeding import seed_for
from reed.sources.toy.scenes import COLOURS, COUNTS, SHAPES, SIDE, TEXTURES, Scene, scene_at

SCENES = 16_000  # of each split; one in sixteen is held out
BATCH = 64
IMAGE_STEPS, TEXT_STEPS, JUDGE_STEPS = 1500, 1500, 1200
RATE = 2e-3
WARMUP = 100  # steps
PATCH = SIDE // nets.GRID  # pixels
REACH = 1.0  # pixels beyond its radius at which an object still counts as covering a patch
TEMPERATURE = 0.1
COVERS = [len(SHAPES) + 1, len(COLOURS) + 1, len(TEXTURES) + 1]  # kinds; 0 is the ground
PAIRS = [len(SHAPES) * len(TEXTURES) + 1, len(COLOURS) * len(SHAPES) + 1]
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Data:
    """Scenes of one split.

    Attributes:
        images: uint8 [N, 3, 32, 32].
        covers: Shape, colour and texture over each patch as numbers, 0 for the ground, [N, 3, 64].
        counts: Index of the number of objects, [N].
        captions: Word numbers of each caption.
    """

    images: Tensor
    covers: Tensor
    counts: Tensor
    captions: list[Tensor]

    def pairs(self) -> Tensor:
        """Return the classes of the judge: shape with texture, colour with shape, [N, 2, 64]."""
        shape, colour, texture = self.covers.unbind(1)
        pairs = ((shape, texture, len(TEXTURES)), (colour, shape, len(SHAPES)))
        return torch.stack([((a - 1) * n + b) * (shape > 0) for a, b, n in pairs], 1)

    def cut(self) -> tuple[Data, Data]:
        """Split into the scenes to train on and the held-out ones, one in sixteen."""
        at = len(self.images) * 15 // 16
        return Data(*(part[:at] for part in vars(self).values())), Data(
            *(part[at:] for part in vars(self).values())
        )


def data(split: str, count: int) -> Data:
    """Generate scenes 0 to count - 1 of a split."""
    scenes = [scene_at(split, 0, index) for index in trange(count, desc=split, unit="scene")]
    return Data(
        torch.stack([torch.from_numpy(image) for _, image in scenes]),
        torch.stack([covers(scene) for scene, _ in scenes]),
        torch.tensor([COUNTS.index(len(scene.things)) for scene, _ in scenes]),
        [torch.tensor(nets.numbered(captions.describe(scene))) for scene, _ in scenes],
    )


def covers(scene: Scene) -> Tensor:
    """Return shape, colour and texture of the object over each patch, 0 for none; [3, 64]."""
    centre = torch.arange(nets.GRID) * PATCH + PATCH / 2
    down, across = torch.meshgrid(centre, centre, indexing="ij")
    beyond = torch.stack(
        [torch.hypot(across - t.x, down - t.y) - t.radius - REACH for t in scene.things]
    ).flatten(1)  # [objects, 64]

    # The object whose edge is nearest covers the patch, if the patch lies within its reach.
    distance, nearest = beyond.min(0)
    kinds = torch.tensor(
        [
            [SHAPES.index(t.shape), [*COLOURS].index(t.colour), TEXTURES.index(t.texture)]
            for t in scene.things
        ]
    )
    return torch.where(distance < 0, kinds[nearest].T + 1, 0)


def train_image(seen: Data, steps: int) -> Weights:
    """Train the image encoder; returns its weights and those of its heads."""
    heads = {"patches": (sum(COVERS), nets.WIDTH), "count": (len(COUNTS), nets.WIDTH)}
    weights = initial({n: s for n, s in nets.shapes().items() if not _is_text(n)} | heads, "image")

    def loss(rows: Tensor) -> Tensor:
        scores, pooled = told_by_image(weights, seen.images[rows])
        patches = [cross_entropy(score, seen.covers[rows, i]) for i, score in enumerate(scores)]
        return sum(patches) + 0.3 * cross_entropy(pooled @ weights["count"].T, seen.counts[rows])

    descend(weights, loss, len(seen.images), steps, "image")
    return weights


def told_by_image(weights: Weights, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return scores of shape, colour and texture, [B, kinds, 64], and the mean patch [B, WIDTH]."""
    tokens = functional.silu(nets.image_features(weights, images))
    scores = (tokens @ weights["patches"].T).transpose(1, 2).split(COVERS, 1)
    return scores, tokens.mean(1)


def train_text(seen: Data, image: Weights, steps: int) -> Weights:
    """Train the text encoder; returns its weights and the projection of images to its space."""
    shapes = {n: s for n, s in nets.shapes().items() if _is_text(n)}
    weights = initial(shapes | {"project": (nets.WIDTH, nets.WIDTH)}, "text")
    with torch.no_grad():
        pooled = torch.cat([told_by_image(image, part)[1] for part in seen.images.split(500)])

    def loss(rows: Tensor) -> Tensor:
        scores = told_by_text(weights, [seen.captions[row] for row in rows], pooled[rows])
        same = torch.arange(len(rows))
        return cross_entropy(scores, same) + cross_entropy(scores.T, same)

    descend(weights, loss, len(pooled), steps, "text")
    return weights


def told_by_text(weights: Weights, captions: list[Tensor], pooled: Tensor) -> Tensor:
    """Return how well each caption fits the mean patch of each image, [B, B]."""
    text = torch.stack([nets.text_features(weights, caption) for caption in captions])
    images = functional.normalize(pooled @ weights["project"].T, dim=-1)
    return functional.normalize(text, dim=-1) @ images.T / TEMPERATURE


def train_judge(seen: Data, steps: int) -> Weights:
    """Train the judge; returns its weights and those of its heads."""
    weights = initial(judge.shapes() | {"pairs": (sum(PAIRS), 64)}, "judge")
    images, pairs = seen.images.permute(0, 2, 3, 1), seen.pairs()

    def loss(rows: Tensor) -> Tensor:
        scores = told_by_judge(weights, images[rows])
        total = scores[0].new_zeros(())
        for i, score in enumerate(scores):
            total = total + cross_entropy(score, pairs[rows, i])
        return total

    descend(weights, loss, len(images), steps, "judge")
    return weights


def told_by_judge(weights: Weights, images: Tensor) -> tuple[Tensor, ...]:
    """Return scores of both pairs, each [B, kinds, 64], for images [B, 32, 32, 3]."""
    features = judge.patch_features(weights, images).flatten(2)  # [B, 64, patches]
    return (weights["pairs"] @ features).split(PAIRS, 1)


def initial(shapes: dict[str, tuple[int, ...]], seed: str) -> Weights:
    """Initialise norms with one, biases with zero, and the rest normally by their fan-in."""
    rng = torch.Generator().manual_seed(seed_for("scenes-train", seed))
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("bias"):
            value = torch.zeros(shape)
        elif len(shape) == 1:
            value = torch.ones(shape)
        else:
            value = torch.randn(shape, generator=rng) * math.prod(shape[1:]) ** -0.5
        weights[name] = value.requires_grad_()
    return weights


def descend(
    weights: Weights, loss: Callable[[Tensor], Tensor], rows: int, steps: int, name: str
) -> None:
    """Minimise ``loss`` on random rows with AdamW, a warm-up and a cosine decay to zero."""
    rng = torch.Generator().manual_seed(seed_for("scenes-train", name, "rows"))
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=0.01)
    for step in trange(steps, desc=name, unit="step"):
        factor = min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = RATE * factor
        optimizer.zero_grad()
        loss(torch.randint(rows, (BATCH,), generator=rng)).backward()
        optimizer.step()


def accuracy(scores: tuple[Tensor, ...], labels: Tensor) -> float:
    """Return the share of covered patches with all classes right; labels: [B, kinds, 64]."""
    right = torch.stack([score.argmax(1) for score in scores], 1) == labels
    return float(right.all(1)[labels[:, 0] > 0].double().mean())


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Folder; by default the package's.")
@click.option("--scenes", default=SCENES, show_default=True, help="Scenes of each split.")
@click.option("--steps", type=click.IntRange(min=1), help="Optimizer steps of every net.")
@one_line_errors
def main(out: Path | None, scenes: int, steps: int | None) -> None:
    """Train the three nets and write the two weights files.

    Example: python -m reed.experiments.train_scenes --out weights
    """
    # With one thread sums have one order, so that a rerun on this machine gives the same bytes.
    torch.set_num_threads(1)
    seen, held_out = data("encoders", scenes).cut()
    image = train_image(seen, steps or IMAGE_STEPS)
    text = train_text(seen, image, steps or TEXT_STEPS)
    judged, judge_held_out = data("judge", scenes).cut()
    judging = train_judge(judged, steps or JUDGE_STEPS)

    with torch.inference_mode():
        scores, pooled = told_by_image(image, held_out.images)
        batch = told_by_text(text, held_out.captions[:BATCH], pooled[:BATCH])
        pairs = told_by_judge(judging, judge_held_out.images.permute(0, 2, 3, 1))
        facts = {
            "image, patches": accuracy(scores, held_out.covers),
            f"text, one image of {len(batch)}": float(
                (batch.argmax(1) == torch.arange(len(batch))).double().mean()
            ),
            "judge, patches": accuracy(pairs, judge_held_out.pairs()),
        }

    # The heads are not part of the shapes, and so not of the files.
    _write(out or Path(nets.__file__).parent, image | text, nets.FILE, nets.shapes())
    _write(out or Path(judge.__file__).parent, judging, judge.FILE, judge.shapes())
    for name, share in facts.items():
        click.echo(f"held-out accuracy, {name}: {share:.4f}")


def _write(folder: Path, weights: Weights, name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    kept = {n: weights[n].detach().half().contiguous() for n in shapes}
    content = save(kept)
    write_atomic(folder / name, content)
    click.echo(f"{folder / name}: {len(content)} bytes")


def _is_text(name: str) -> bool:
    return name == "words" or name.startswith(("phrase.", "text."))


if __name__ == "__main__":
    main()
