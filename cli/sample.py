"""reed-sample: draw samples from a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reed.build.engines import Share, launched_share
from reed.cli.common import RUNS, one_line_errors, pick_device
from reed.errors import ReedError
from reed.extras import DISTRIBUTION

# what is given of these goes to the options of the domain, to its output and to public weights
_OPTIONS = (
    "sampler",
    "steps",
    "guidance",
    "interval",
    "labels",
    "temperature",
    "order",
    "seed",
    "grid",
    "noise",
    "atoms",
)
_OUTPUT = ("vae", "rounding", "png", "shards")
_PUBLIC = ("convention", "heads", "scale", "shift")


@click.command()
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
    "--num", type=click.IntRange(1), default=100, show_default=True, help="How many samples."
)
@click.option(
    "--sampler",
    metavar="NAME",
    help="euler or heun (ODE), or sde (Euler-Maruyama, last step 0.04). Default: euler.",
)
@click.option("--steps", type=int, help="Steps. Default: 50; of designs 500, of molecules 100.")
@click.option(
    "--guidance", type=float, help="Scale of classifier-free guidance. Default: 1, which is off."
)
@click.option(
    "--interval",
    nargs=2,
    type=float,
    metavar="LOW HIGH",
    help="Times at which guidance acts; 0 is data, 1 is noise. Default: 0 1.",
)
@click.option(
    "--labels",
    metavar="NAME",
    help="balanced (sample i has label i mod classes) or random. Default: balanced.",
)
@click.option(
    "--structure",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Of a run on proteins: the .pdb or .cif to design sequences for.",
)
@click.option("--temperature", type=float, help="Of its letters. Default: 0.1.")
@click.option(
    "--order",
    metavar="NAME",
    help="Which residues come first: purity (the most certain) or random. Default: purity.",
)
@click.option(
    "--grid",
    metavar="NAME",
    help="Of molecules: steps that get shorter (log) or are equal (linear). Default: log.",
)
@click.option(
    "--noise",
    type=float,
    help="Of molecules: how often atoms and bonds are drawn anew. Default: 1.",
)
@click.option(
    "--atoms", type=int, help="Of molecules: how many each has. Default: numbers of the cache."
)
@click.option("--seed", type=int, help="Of all that is random. Default: 0.")
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
    help="Samples at a time, a part of the recipe. Default: 64, at most --num.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option(
    "--array", metavar="K/N", help="Draw the K-th of N shares, from 0: for the jobs of an array."
)
@click.option(
    "--vae",
    metavar="PATH",
    help="Weights to decode latents with, in place of those that the cache names; none "
    "keeps the latents.",
)
@click.option(
    "--rounding",
    metavar="NAME",
    help="Of pixels: nearest, as SiT does, or down, as ADM, REPA and REED do. Default: nearest.",
)
@click.option("--png", is_flag=True, default=None, help="Write a folder of PNGs, too.")
@click.option("--shards", is_flag=True, default=None, help="Write WebDataset tars, too.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write OUT.npz, OUT.json, … Default: a name that says how they were drawn, in "
    "samples/ in the run or by the file.",
)
@click.version_option(package_name=DISTRIBUTION, prog_name="reed-sample")
@one_line_errors
def main(num: int, batch: int | None, array: str | None, out: Path | None, **asked: Any) -> None:
    """Draw samples from a run or a public checkpoint; rerun the command to resume.

    Molecules go to OUT.sdf, with bonds, and to OUT.npz, which reed-eval reads.
    Images go to OUT.npz (arr_0 uint8 [N, H, W, 3] and the labels, arr_1), which the evaluation
    suite of ADM reads, the first hundred to OUT.png, and all that they depend on to OUT.json.
    Sample i follows from the seed and i alone; more samples are added to those in OUT.parts.

    \b
    Examples:
      reed-sample --run runs/digits --num 1000
      reed-sample --run runs/imagenet --num 50000 --sampler sde --steps 250 \\
          --guidance 1.8 --interval 0 0.7
      torchrun --nproc-per-node 8 -m -- reed.cli.sample --run runs/imagenet
      reed-sample --checkpoint last.pt --vae /models/sd-vae-ft-mse
      reed-sample --run runs/pdb --structure my.pdb --num 8
    """
    from reed.sample.sample_set import SampleSet, recipe_of
    from reed.sample.sampler import BATCH

    share = _share(array)
    sampler, folder, device = _sampler(**asked)
    if sampler.kind == "protein" or asked["structure"]:
        from reed.evaluate.protein import design

        out, structure = out or folder / "samples", asked["structure"]
        size = batch or min(BATCH, num)
        out = design(sampler, _options(sampler, asked), structure, num, size, out)
        click.echo(f"{out}: {num} sequences for {structure}")
        return
    options, output = _options(sampler, asked), _output(sampler, asked, device)
    for line in output.said:
        click.echo(line, err=True)
    names = (sampler.name, options.name, sampler.precision, output.name)
    out = out or folder / "samples" / "-".join(name for name in names if name)
    out = out.with_suffix("") if out.suffix == ".npz" else out
    recipe = recipe_of(sampler, options, output, batch or min(BATCH, num))
    shown = launched_share().rank == 0  # one bar for the processes of a launch
    samples = SampleSet(out, recipe, num, output, progress=shown)
    if not samples.is_written():
        samples.fill(sampler, options, share)
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
    if run:
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


def _options(sampler: Any, asked: dict[str, Any]) -> Any:
    """The options of the domain; what is not given is its default."""
    from reed import config

    given = {name: asked[name] for name in _OPTIONS if asked[name] is not None}
    scale, interval = given.pop("guidance", None), given.pop("interval", None)
    guidance = {} if scale is None else {"scale": scale}
    guidance |= {"low": interval[0], "high": interval[1]} if interval else {}
    table = given | ({"guidance": guidance} if guidance else {})
    return config.build(sampler.domain.sampling, table)


def _output(sampler: Any, asked: dict[str, Any], device: str) -> Any:
    """What writes the samples of the domain."""
    from reed import config
    from reed.sample.sample_set import OUTPUTS

    given = {name: asked[name] for name in _OUTPUT if asked[name] is not None}
    kind = sampler.kind if sampler.kind in OUTPUTS.names() else "arrays"
    output = config.build(OUTPUTS.get(kind), given)
    output.open(sampler, device)
    return output


if __name__ == "__main__":
    main()
