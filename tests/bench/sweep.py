"""make bench-sweep, -align, -curriculum and -why: what variants of a recipe change, over seeds.

Every run is the pipeline `scenes`, `digits` or `fashion`; the latter needs make data-fashion. The
family `guides` is trained without alignment and with one guide that enters the condition: the
caption's vector, or for `fashion` the image's, pooled and whitened to 64 components. Rows are the
law of the time t* at which it is drawn, and where it comes from (docs/guides.md); what is denoised
beside the image starts at once, and has its lag in place of a law. The family `align` is aligned
with the image teacher to the end, and each variant has one more setting; the family `curriculum`
takes the curriculum apart; the family `why` has other teachers, data, nets, taps and weights, each
with a run of its own without alignment where that differs too (see families.py). Quality is the
Fréchet distance (FD) at the end of the run, in the features of a judge that no run saw: as in make
bench-speedup, and of digits as in make demo. The same seed gives the same batches and noise. Rerun
the command to go on where it stopped, or to make the table again.
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

import click

from reed import config
from reed.cache.files import write_atomic
from reed.evaluate.reference import Reference
from reed.experiments.command import command
from reed.experiments.demo_image import FEATURE_SPACE, OPTIONS
from reed.flows.samplers import Guidance
from reed.metrics.frechet import Gaussian, frechet_distance

sys.path.insert(0, str(Path(__file__).parent))
import dots
import judge
import judged
import paired
import report
import speedup
from families import FAMILIES, TARGETS, Cache, Family, Way
from speedup import SETTINGS, Run, Setting
from tqdm import tqdm

SPACE = "scenes-judge"
CACHES = {"scenes": "scenes", "digits": "digits", "fashion": "fashion-cpu"}
RANDOM = Path("data/weights/efficientnet-lite0-random.safetensors")


def laid(
    setting: Setting, family: Family, data: str, over: Mapping[str, int], unconditional: bool
) -> Setting:
    """Return the setting with the variants of a family, its checkpoints, and own steps or batch."""
    domain = {"domain": {"label_dropout": 1.0}} if unconditional else {}
    own = {name: config.merge(table, domain) for name, table in family.variants(data).items()}
    over = setting.over | {name: value for name, value in over.items() if value}
    return replace(setting, over=over, points=family.points, own=own, laid_over=family.laid_over)


def distances(run: Run, setting: Setting, ways: tuple[Way, ...]) -> dict[str, float]:
    """Return the FD at the end of a run by way of drawing; only what is missing is done."""
    if run.data == "scenes":
        return {"": speedup.measured(run, setting)[SPACE][-1][1]}
    found = {}
    for way in ways:
        path = run.folder / f"distance{way.name and '-'}{way.name.replace(' ', '-')}.json"
        if not path.is_file():
            value = frechet_distance(*compared(run, setting, way))
            write_atomic(path, json.dumps(value).encode())
        found[way.name] = json.loads(path.read_text())
    return found


def compared(run: Run, setting: Setting, way: Way) -> tuple[Gaussian, Gaussian]:
    """Return what is compared of samples of a run and of real images; it is trained if needed."""
    if speedup.DEVICE == "cpu":
        speedup.torch.set_num_threads(1)
    settings = speedup.settings_of(run, setting)
    steps = speedup.train(settings, progress=False)
    options = OPTIONS if run.data == "digits" else setting.options
    options = replace(options, guidance=Guidance(way.scale))
    weak = settings.every.save if way.scale > 1 else 0
    drawn = speedup.draw(
        run.folder, steps, replace(setting, drawn=1000, options=options), way.ema, weak
    )
    if run.data == "digits":
        reference = Reference(run.cache, FEATURE_SPACE)
        return reference.gaussian(drawn), reference.gaussian(reference.images)
    real = judge.Judge.load(judged_run(run).judge).gaussian
    return Gaussian.of(judge.lite2(judged.DEVICE)(drawn)), real


def chosen(own: Mapping[str, dict], family: Family, names: tuple[str, ...]) -> dict[str, dict]:
    """Return the variants that are asked for, with what they are compared with; all for none."""
    if unknown := [name for name in names if name not in own]:
        raise click.UsageError(f"no variant {unknown[0]!r}; there are {', '.join(own)}")
    kept = {*names, family.base, *map(family.like, names)}
    return {name: table for name, table in own.items() if not names or name in kept}


def judged_run(run: Run) -> judged.Run:
    """Return the run as bench-speedup on real data has it, whose real features it is judged by."""
    return judged.Run(
        run.data, run.root, run.cache.with_name(CACHES[run.data]), run.variant, run.seed
    )


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


def build_other(cache: Cache, data: str, place: Path) -> None:
    """Build the cache that some variants of a family train on, of its own images or teacher."""
    archive = cache.archive or Path(judged.DATA[data].train).name
    words = ["--data", f"data/{data}/{archive}"]
    if cache.random:
        if not RANDOM.is_file():
            write_random(RANDOM)
        words += ["--set", f"lite0.weights={RANDOM}"]
    command("reed-cache", "build", data, "--cache", place, *words)


def write_random(path: Path) -> None:
    """Write an EfficientNet-Lite0 of random weights, as timm draws them after the seed 0."""
    import timm
    from safetensors.torch import save

    speedup.torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    write_atomic(path, save(model.state_dict()))


def table(found: Mapping[str, list[float]], likes: Mapping[str, str]) -> str:
    """Return one line per variant: the median over seeds, and how it compares to its like.

    Differences and ratios are those of runs with the same seed. likes: what each variant is
    compared with; nothing, if that is itself.
    """
    lines = []
    for name, values in found.items():
        like = likes[name]
        pairs = list(zip(values, found[like], strict=True))
        spread = f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        line = f"{name:24} FD {spread:26}"
        if name != like:
            more = statistics.median(value - other for value, other in pairs)
            ratio = paired.ratio([value / other for value, other in pairs]).text(3)
            better, _, chance = paired.sign_test(values, found[like])
            line += f" {more:+.3f}, ratio {ratio} to {like}, "
            line += f"better with {better} of {len(pairs)} seeds (p = {chance:.2f})"
        lines.append(line)
    return "\n".join(lines)


@click.command()
@click.option("--setting", type=click.Choice([*SETTINGS]), default="cpu", show_default=True)
@click.option("--data", type=click.Choice([*TARGETS]), default="scenes", show_default=True)
@click.option("--family", "kind", type=click.Choice([*FAMILIES]), default="guides")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--steps", default=0, help="Steps of a run; 0: those of the setting.")
@click.option("--batch", default=0, help="Samples of a step; 0: those of the setting.")
@click.option("--unconditional", is_flag=True, help="Without labels.")
@click.option("--variant", "variants", multiple=True, help="Only these and the base; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench"))
def main(
    setting: str,
    data: str,
    kind: str,
    seeds: int,
    steps: int,
    batch: int,
    unconditional: bool,
    variants: tuple[str, ...],
    out: Path,
) -> None:
    """Train every variant from every seed, seed by seed; print and draw the distances."""
    family = FAMILIES[kind]
    if family.ways and data == "scenes":
        raise click.UsageError(f"--family {kind} is measured on digits and fashion")
    if family.caches and data != "fashion":
        raise click.UsageError(f"--family {kind} is measured on fashion")
    how = laid(SETTINGS[setting], family, data, {"steps": steps, "batch": batch}, unconditional)
    how = replace(how, own=chosen(how.own, family, variants))
    cache = CACHES[data] + (f"-{how.images}" if data == "scenes" else "")
    prefix = "sweep" if kind == "guides" else kind
    name = f"{prefix}-{data}-{setting}" + ("-unconditional" if unconditional else "")
    root = out / (f"{name}-{how.over.get('steps', 'all')}" + (f"-{batch}" if batch else ""))
    place = Path("cache") / cache
    others = {variant: family.caches[variant] for variant in how.own if variant in family.caches}
    places = {variant: place.with_name(f"{data}-{each.name}") for variant, each in others.items()}
    runs = [
        Run(root, places.get(variant, place), variant, seed, data)
        for seed in range(seeds)
        for variant in how.own
    ]
    build(Run(root, place, family.base, 0, data), how)
    for variant, each in others.items():
        build_other(each, data, places[variant])
    found: dict[str, list[float]] = {}
    with ProcessPoolExecutor(how.processes, get_context("spawn"), max_tasks_per_child=1) as pool:
        jobs = {
            pool.submit(
                distances, run, how, (Way(), *(family.ways if run.variant == family.base else ()))
            ): run
            for run in runs
        }
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="run"):
            job.result()  # the first failure ends it
    for job, run in jobs.items():
        for way, value in job.result().items():
            found.setdefault(f"{run.variant} {way}".strip(), []).append(value)
    figures = [
        report.figure(f"FD at the end, {name}", values, "FD") for name, values in found.items()
    ]
    settings = speedup.settings_of(runs[0], how)
    title = f"{seeds} seeds, {settings.steps} steps of {settings.batch}"
    report.publish(name, f"{__doc__}\n{title}", figures, out)
    (root / "distances.json").write_text(json.dumps(found, indent=1))
    show(found, family, out / f"{name}.png", title)


def show(found: Mapping[str, list[float]], family: Family, picture: Path, title: str) -> None:
    """Draw what was found, and the panels of a family that has some; print the table."""
    likes = {name: family.like(name) for name in found}
    dots.draw(found, family.base, picture, title)
    kept = {head: [n for n in row if n in found] for head, row in family.panels.items()}
    if panels := {head: row for head, row in kept.items() if len(row) > 1}:
        ratios = picture.with_name(f"{picture.stem}-ratios.png")
        dots.draw_panels(found, likes, panels, ratios)
        print(f"picture: {ratios}")
    print(f"{table(found, likes)}\n\npicture: {picture}")


if __name__ == "__main__":
    main()
