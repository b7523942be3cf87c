"""make bench-sweep: when and how a representation enters: alpha times read.

Every run is the pipeline `scenes`, `digits` or `fashion` without alignment and with one guide that
enters the condition: the caption's vector, or for `fashion`, after make data-fashion, the image's,
pooled and whitened to 64 components. Rows are the law of the time t* at which it is drawn, columns
where it comes from (docs/guides.md); what is denoised beside the image starts at once, and has its
lag in place of a law. Quality is the Fréchet distance (FD) at the end of the run, in the features
of a judge that no run saw: as in make bench-speedup, and of digits as in make demo. The same seed
gives the same batches and noise. Rerun the command to go on where it stopped.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from reed.cache.files import write_atomic
from reed.evaluate.reference import Reference
from reed.experiments.command import command
from reed.experiments.demo_image import FEATURE_SPACE, OPTIONS
from reed.metrics.frechet import Gaussian, frechet_distance

sys.path.insert(0, str(Path(__file__).parent))
import judge
import judged
import report
import speedup
from speedup import SETTINGS, Run, Setting
from tqdm import tqdm

TARGETS = {
    "scenes": "scenes-text/embedding",
    "digits": "caption-ngrams/embedding",
    "fashion": "lite0-z/pooled",
}
LAWS: dict[str, Any] = {
    "constant": "constant",
    "cosine": "cosine",
    "cutoff": {"kind": "cutoff", "low": 0.2, "high": 0.7},
    "start": "start",
}
LAGS = (0.0, 0.3, 1.0)
SPACE = "scenes-judge"


def variants(data: str) -> dict[str, dict[str, Any]]:
    """Return the guide of every variant but "never", which has none, by name."""
    found: dict[str, dict[str, Any]] = {}
    target = {"target": TARGETS[data], "hidden": 128, "depth": 3}
    for law, when in LAWS.items():
        for read in ("prior", "mean"):
            found[f"{read}-{law}"] = target | {"when": when, "read": read}
    for lag in LAGS:
        found[f"joint-lag{lag:g}"] = target | {"when": "start", "read": "joint", "lag": lag}
    return found


def laid(setting: Setting, data: str, steps: int, unconditional: bool) -> Setting:
    """Return the setting with the variants of the sweep, one checkpoint, and so many steps."""
    domain = {"domain": {"label_dropout": 1.0}} if unconditional else {}
    own: dict[str, dict[str, Any]] = {
        name: {"guide": {"z": g}} for name, g in variants(data).items()
    }
    own = {"never": domain} | {name: table | domain for name, table in own.items()}
    over = setting.over | ({"steps": steps} if steps else {})
    return replace(setting, over=over, points=1, own=own)


def distance(run: Run, setting: Setting) -> float:
    """Return the FD at the end of a run; it is trained only if that is missing."""
    if run.data == "scenes":
        return speedup.measured(run, setting)[SPACE][-1][1]
    path = run.folder / "distance.json"
    if not path.is_file():
        speedup.torch.set_num_threads(1)
        steps = speedup.train(speedup.settings_of(run, setting), progress=False)
        options = OPTIONS if run.data == "digits" else setting.options
        drawn = speedup.draw(run.folder, steps, replace(setting, drawn=1000, options=options))
        if run.data == "digits":
            reference = Reference(run.cache, FEATURE_SPACE)
            found, real = reference.gaussian(drawn), reference.gaussian(reference.images)
        else:
            found = Gaussian.of(judge.lite2(judged.DEVICE)(drawn))
            real = judge.Judge.load(judged_run(run).judge).gaussian
        write_atomic(path, json.dumps(frechet_distance(found, real)).encode())
    return json.loads(path.read_text())


def judged_run(run: Run) -> judged.Run:
    """Return the run as bench-speedup on real data has it, whose real features it is judged by."""
    return judged.Run(run.data, run.root, run.cache, run.variant, run.seed)


def build(run: Run, setting: Setting) -> None:
    """Build the cache of a run, with what the guide reads, and what judges it."""
    if run.data == "scenes":
        speedup.build(run.cache, setting.images)
    elif run.data == "digits":
        command("reed-cache", "build", run.data, "--cache", run.cache)
    else:
        judged.prepare(judged_run(run), judged.setting_of(run.data, "cpu"))
        codec = ("--codec", "lite0/pooled=pca:64+int8", "--name", "lite0-z")
        command("reed-cache", "convert", run.cache, *codec)


def table(found: Mapping[str, list[float]]) -> str:
    """Return one line per variant: the median over seeds, and its difference to never, in pairs."""
    lines, never = [], found["never"]
    for name, values in found.items():
        pairs = [value - base for value, base in zip(values, never, strict=True)]
        spread = f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        better = sum(pair < 0 for pair in pairs)
        lines.append(
            f"{name:16} FD {spread:26} {statistics.median(pairs):+.3f} against never, "
            f"better with {better} of {len(pairs)} seeds"
        )
    return "\n".join(lines)


@click.command()
@click.option("--setting", type=click.Choice([*SETTINGS]), default="cpu", show_default=True)
@click.option("--data", type=click.Choice([*TARGETS]), default="scenes", show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--steps", default=0, help="Steps of a run; 0: those of the setting.")
@click.option("--unconditional", is_flag=True, help="Without labels.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench"))
def main(setting: str, data: str, seeds: int, steps: int, unconditional: bool, out: Path) -> None:
    """Train every variant from every seed, seed by seed; print and draw the distances."""
    how = laid(SETTINGS[setting], data, steps, unconditional)
    cache = {"scenes": f"scenes-{how.images}", "digits": "digits", "fashion": "fashion-cpu"}[data]
    name = f"sweep-{data}-{setting}" + ("-unconditional" if unconditional else "")
    root = out / f"{name}-{how.over.get('steps', 'all')}"
    place = Path("cache") / cache
    runs = [Run(root, place, variant, seed, data) for seed in range(seeds) for variant in how.own]
    build(runs[0], how)
    found: dict[str, list[float]] = {}
    with ProcessPoolExecutor(how.processes, get_context("spawn"), max_tasks_per_child=1) as pool:
        jobs = {pool.submit(distance, run, how): run for run in runs}
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="run"):
            job.result()  # the first failure ends it
    for job, run in jobs.items():
        found.setdefault(run.variant, []).append(job.result())
    figures = [
        report.figure(f"FD at the end, {name}", values, "FD") for name, values in found.items()
    ]
    total = speedup.settings_of(runs[0], how).steps
    report.publish(name, f"{__doc__}\n{seeds} seeds, {total} steps", figures, out)
    (root / "distances.json").write_text(json.dumps(found, indent=1))
    draw(found, out / f"{name}.png", f"{seeds} seeds, {total} steps")
    print(f"{table(found)}\n\npicture: {out / f'{name}.png'}")


def draw(found: Mapping[str, list[float]], path: Path, title: str) -> None:
    """Draw every seed as a dot and the median as a bar, a row per variant."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 0.35 * len(found) + 1.2), layout="constrained")
    for row, values in enumerate(found.values()):
        axes.plot(values, [row] * len(values), "o", color="C0", alpha=0.5)
        axes.plot([statistics.median(values)] * 2, [row - 0.3, row + 0.3], color="C3")
    axes.axvline(statistics.median(found["never"]), color="0.7", linestyle=":")
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("Fréchet distance in the judge's features, at the end")
    axes.set_title(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
