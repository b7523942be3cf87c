"""reed-sample: draw samples from a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reed.build.engines import Share, launched_share
from reed.cli.common import RUNS, one_line_errors, pick_device
from reed.cli.kinds import SET, KindCommand, Kinds, tables
from reed.errors import ReedError
from reed.extras import DISTRIBUTION

_PUBLIC = ("convention", "heads", "scale", "shift")  # options of --checkpoint


def _kinds() -> Kinds:
    """Of every domain the options of its sampling, and of what writes its samples."""
    from reed.domains.base import DOMAINS
    from reed.sample.sample_set import output_of

    return {name: (DOMAINS.get(name).sampling, output_of(name)) for name in DOMAINS.names()}


@click.command(cls=KindCommand, kinds=_kinds)
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=RUNS,
    help="The run to draw from.",
)
@click.option("--step", type=int, help="Its checkpoint. Default: the latest.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="In place of a run: a public checkpoint of REPA, REED or SiT.",
)
@click.option(
    "--ema/--no-ema", default=True, show_default=True, help="The averaged weights, or the model's."
)
@click.option(
    "--convention", metavar="NAME", help="Whose the file is, if it cannot tell: reed, sit or dit."
)
@click.option("--heads", type=click.IntRange(1), help="Its heads of attention, likewise.")
@click.option("--scale", type=float, help="Its net saw (latent - shift) * scale. Default: 0.18215.")
@click.option("--shift", type=float, help="See --scale. Default: 0.")
@click.option(
    "--num",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="How many samples; of designs, for each structure.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "bf16", "fp32", "tf32", "fp64"]),
    default="auto",
    show_default=True,
    help="Of the net; fp32 is without TF32. auto: "
    "bf16 on a GPU that has it, else fp32; fp64 on a CPU.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    help="Samples at a time, a part of the recipe. Default: as those that are there, else 64, "
    "at most --num.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option(
    "--array", metavar="K/N", help="Draw the K-th of N shares, from 0: for the jobs of an array."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write OUT.npz, OUT.json, … Default: a name that says how they were drawn, in "
    "samples/ in the run or by the file.",
)
@SET
@click.version_option(package_name=DISTRIBUTION, prog_name="reed-sample")
@one_line_errors
def main(
    num: int,
    batch: int | None,
    array: str | None,
    out: Path | None,
    flags: dict[str, Any],
    assignments: tuple[str, ...],
    **asked: Any,
) -> None:
    """Draw samples from a run or a public checkpoint; rerun the command to resume.

    Images go to OUT.npz (arr_0 uint8 [N, H, W, 3] and the labels, arr_1), which the evaluation
    suite of ADM reads, the first hundred to OUT.png. Molecules go to OUT.sdf, with bonds, and to
    OUT.npz, designs of proteins to OUT.fasta, samples of other domains to OUT.npz. OUT.json says
    all that they depend on. Sample i follows from the seed and i alone; more samples are added
    to those in OUT.parts. reed-eval measures any of these.

    \b
    Examples:
      reed-sample --run runs/digits --num 1000
      reed-sample --run runs/imagenet --num 50000 --sampler sde --steps 250 \\
          --guidance 1.8 --interval 0 0.7
      torchrun --nproc-per-node 8 -m -- reed.cli.sample --run runs/imagenet
      reed-sample --checkpoint last.pt --vae /models/sd-vae-ft-mse
      reed-sample --run runs/pdb --structure my.pdb --num 8
      reed-sample --run runs/greys --set temperature=0.5
    """
    from reed import config
    from reed.sample.sample_set import output_of

    share = _share(array)
    sampler, folder, device = _sampler(**asked)
    own = (sampler.domain.sampling, output_of(sampler.kind))
    kinds, what = {**_kinds(), sampler.kind: own}, str(asked["run"] or asked["checkpoint"])
    given = tables(flags, assignments, sampler.kind, kinds, what)
    options, output = map(config.build, own, given)
    sets = output.sets()

    for each in sets:
        each.open(sampler, device)
        for line in each.said:
            click.echo(line, err=True)
        place = _place(out, folder, sampler, options, each, len(sets) > 1)
        _draw(sampler, options, each, place, num, batch, share)


def _place(
    out: Path | None, folder: Path, sampler: Any, options: Any, output: Any, several: bool
) -> Path:
    """OUT: where one set of samples goes, without the ending of a file."""
    if out is None:
        names = (sampler.name, options.name, sampler.precision, output.name)
        return folder / "samples" / "-".join(name for name in names if name)
    endings = {path.suffix for path in output.files(Path("x"))} - {""}
    out = out.with_suffix("") if out.suffix in endings else out
    return out.with_name(f"{out.name}-{output.name}") if several else out


def _draw(
    sampler: Any,
    options: Any,
    output: Any,
    out: Path,
    num: int,
    batch: int | None,
    share: Share,
) -> None:
    """Draw our share of one set of samples, and write its files when all are there."""
    from reed.sample.sample_set import SampleSet, batch_of, recipe_of

    recipe = recipe_of(sampler, options, output, batch or batch_of(out, num))
    shown = launched_share().rank == 0  # one bar for the processes of a launch
    samples = SampleSet(out, recipe, num, output, progress=shown)
    if not samples.is_written():
        samples.fill(sampler, output.sampling(options), share)
        if not samples.finish():
            left = len(samples.missing())
            click.echo(
                f"{out}: {left} of {samples.batches} parts are left to other processes; "
                "the last of them writes the files"
            )
            return
    click.echo(f"{num} samples of {sampler.about['checkpoint']}:")
    for path in (*output.files(out), out.with_name(f"{out.name}.json")):
        click.echo(f"  {path}")


def _share(array: str | None) -> Share:
    """The part of this process of a launch, which may be a job of an array."""
    launched = launched_share()
    job, slash, jobs = (array or "0/1").partition("/")
    if not (slash and job.isdigit() and jobs.isdigit() and int(job) < int(jobs)):
        raise ReedError(f"--array {array} is not K/N with K from 0 to N - 1, such as 0/8")
    return Share(int(job) * launched.world + launched.rank, int(jobs) * launched.world)


def _sampler(
    run: Path | None,
    checkpoint: Path | None,
    step: int | None,
    ema: bool,
    device: str,
    precision: str,
    **asked: Any,
) -> tuple[Any, Path, str]:
    """What to draw from, the folder beside which samples go, and the device."""
    if (run is None) == (checkpoint is None):
        raise click.UsageError("name what to draw from: --run DIR or --checkpoint FILE")
    other = "--checkpoint" if run else "--run"
    said = [name for name in _PUBLIC if asked[name] is not None] if run else []
    for name in said if run else ["step"] * (step is not None):
        raise click.UsageError(f"--{name} belongs to {other}")
    from reed import precision as precisions
    from reed.sample.sampler import Sampler
    from reed.train import public

    device = pick_device(device)
    precision = precisions.pick(precision, device)
    if checkpoint is None:
        assert run is not None
        return Sampler.of_run(run, step, device, ema=ema, precision=precision), run, device
    group, convention = "ema" if ema else "model", asked["convention"] or "auto"
    scale = 0.18215 if asked["scale"] is None else asked["scale"]
    sampler = Sampler.of_weights(
        public.read(checkpoint, group, convention),
        device,
        heads=asked["heads"] or 0,
        scale=scale,
        shift=asked["shift"] or 0.0,
        precision=precision,
    )
    return sampler, checkpoint.parent, device


if __name__ == "__main__":
    main()
