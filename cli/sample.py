"""reed-sample: draw samples from a run or a public checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from reed.cli import typos
from reed.cli.averages import NO_EMA, ema_option, names, wanted
from reed.cli.common import DEVICE, either, importing, one_line_errors, pick_device
from reed.cli.drawing import draw, path_of, share_of, with_compiled
from reed.cli.kinds import SET, KindCommand, Kinds, tables
from reed.cli.run_options import STEP, naming_run
from reed.cli.weak import weak_options, with_weak
from reed.errors import ReedError
from reed.extras import DISTRIBUTION

_PUBLIC = ("convention", "heads", "scale", "shift")  # options that need --checkpoint


def _kinds() -> Kinds:
    """Return the dataclasses of every domain: options of its sampling and of its output."""
    with importing():
        from reed.domains.base import DOMAINS
        from reed.sample.sample_set import output_of

    return {name: (DOMAINS.get(name).sampling, output_of(name)) for name in DOMAINS.names()}


@click.command(cls=KindCommand, kinds=_kinds, early=typos.check_sample, flags=typos.SAMPLE)
@naming_run("Run to draw from; the same as RUN.", "[RUN]")
@STEP
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Public checkpoint of REPA, REED or SiT to draw from, instead of a run.",
)
@ema_option(
    "Average of the weights, by its name in the recipe, such as 0.999; all draws a set for each. "
    "Default: the first."
)
@NO_EMA
@click.option(
    "--convention",
    type=click.Choice("auto reed sit dit".split()),
    help="Convention of the checkpoint, if it cannot be detected.",
)
@click.option(
    "--heads",
    type=click.IntRange(1),
    metavar="N",
    help="Attention heads of the checkpoint's net, if they cannot be detected.",
)
@click.option(
    "--scale",
    type=float,
    help="Scale of the latents: the checkpoint's net was trained on (latent - shift) * scale. "
    "Default: 0.18215.",
)
@click.option("--shift", type=float, help="Shift of the latents, see --scale. Default: 0.")
@click.option(
    "--num",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    metavar="N",
    help="Number of samples; for designs, per structure.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "bf16", "fp32", "tf32", "fp64"]),
    default="auto",
    show_default=True,
    help="Precision of the net; fp32 does not use TF32. auto: bf16 on a GPU that supports it, else "
    "fp32. fp64 takes two to three times as long on a CPU, and hides the size of the batch.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    metavar="N",
    help="Samples per batch; recorded, because rounding depends on it. Default: the batch size of "
    "the samples already drawn, else 64 or --num, whichever is smaller.",
)
@DEVICE
@click.option(
    "--array",
    metavar="K/N",
    help="Draw only share K (0 to N - 1) of N, for the jobs of an array. Shares are whole batches: "
    "to divide a few samples, give every job the same small --batch.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Path of the files without an ending: OUT.npz, OUT.json, … Default: a name that says how "
    "the samples were drawn, in samples/ in the run or beside the checkpoint.",
)
@click.option(
    "--keep-parts/--no-keep-parts",
    default=True,
    show_default=True,
    help="Keep OUT.parts, from which a larger --num or further files start; without it, they draw "
    "all samples again.",
)
@weak_options
@click.option(
    "--compile",
    "is_compiled",
    is_flag=True,
    help="Compile the net by torch.compile, for images. It takes a C++ compiler and up to minutes, "
    "so it pays for many samples; a message says after how many batches.",
)
@SET
@click.version_option(package_name=DISTRIBUTION, prog_name="reed-sample")
@one_line_errors
def main(
    num: int,
    batch: int | None,
    array: str | None,
    out: Path | None,
    keep_parts: bool,
    flags: dict[str, Any],
    assignments: tuple[str, ...],
    ema: str | None,
    no_ema: bool,
    **requested: Any,
) -> None:
    """Draw samples from a run or a public checkpoint; rerun the command to resume.

    Images are written to OUT.npz (arr_0: uint8 [N, H, W, 3]; arr_1: labels), which the evaluation
    suite of ADM reads, and the first hundred to OUT.png. Molecules are written to OUT.sdf, with
    bonds, and OUT.npz; designs of proteins to OUT.fasta; samples of other domains to OUT.npz.
    reed-eval measures any of these.

    OUT.json records everything that the samples depend on. Sample i depends only on the seed and
    on i. With a larger --num, samples are added to those in OUT.parts.

    \b
    Examples:
      reed-sample --run runs/digits --out runs/digits/samples/final
      reed-sample --run runs/imagenet --num 50000 --sampler sde --steps 250 \\
          --guidance 1.8 --interval 0 0.7
      torchrun --nproc-per-node 8 -m -- reed.cli.sample --run runs/imagenet
      reed-sample --checkpoint last.pt --vae /models/sd-vae-ft-mse
      reed-sample --run runs/pdb --structure my.pdb --num 8
      reed-sample --run runs/greys --set temperature=0.5
      reed-sample runs/digits --ema 0.999
    """
    share, average = share_of(array), wanted(ema, no_ema)
    run = either(requested["place"], requested["run"])
    asked = [average]
    if run is not None and isinstance(average, str):
        asked = names(run, requested["step"], (average,))
    drawing = partial(draw, num=num, batch=batch, share=share, keep_parts=keep_parts)

    # A set that cannot be drawn, such as that of a damaged structure, does not keep others back.
    refused: list[str] = []
    for each in asked:
        place = out.with_name(f"{out.name}-ema-{each}") if out and len(asked) > 1 else out
        refused += _draw_sets(place, flags, assignments, requested | {"ema": each}, drawing)
    if refused:
        raise ReedError("; ".join(refused))


def _draw_sets(
    out: Path | None,
    flags: dict[str, Any],
    assignments: tuple[str, ...],
    requested: dict[str, Any],
    drawing: Callable[..., None],
) -> list[str]:
    """Draw the sets of samples of some weights, and return what is wrong with those that fail."""
    from reed import config
    from reed.sample.sample_set import output_of

    sampler, folder, device = _sampler(**requested)
    # Flags of every kind parse; only the sampler tells which kind they must belong to.
    own = (sampler.domain.sampling, output_of(sampler.kind))
    kinds = {**_kinds(), sampler.kind: own}
    source = str(requested["run"] or requested["place"] or requested["checkpoint"])
    given = tables(flags, assignments, sampler.kind, kinds, source)
    options, output = map(config.build, own, given)
    options = sampler.completed(options)
    sets = output.sets()

    refused = []
    for part in sets:
        try:
            part.open(sampler, device)
        except ReedError as error:
            refused.append(str(error))
            continue
        for line in part.said:
            click.echo(line, err=True)
        path = path_of(out, folder, sampler, options, part, len(sets) > 1)
        drawing(sampler, options, part, path)
    return refused


def _sampler(
    place: Path | None,
    run: Path | None,
    checkpoint: Path | None,
    step: int | None,
    ema: bool | str,
    device: str,
    precision: str,
    is_compiled: bool,
    **requested: Any,
) -> tuple[Any, Path, str]:
    """Return the sampler, the folder that holds samples/, and the device.

    Raises:
        click.UsageError: Not exactly one source is named, or an option needs the other one.
    """
    run = either(place, run)
    if (run is None) == (checkpoint is None):
        raise click.UsageError("name what to draw from: --run DIR or --checkpoint FILE")
    other = "--checkpoint" if run else "--run"
    if checkpoint and isinstance(ema, str):
        raise click.UsageError(f"--ema {ema} names an average of a run, and {checkpoint} has one")
    public_only = [name for name in _PUBLIC if requested[name] is not None]
    for name in public_only if run else ["step"] * (step is not None):
        raise click.UsageError(f"--{name} belongs to {other}")

    # Imported here, because they import torch and a usage error should not wait for it.
    from reed import precision as precisions
    from reed.sample.sampler import Sampler
    from reed.train import public

    device = pick_device(device)
    precision = precisions.pick(precision, device)
    if checkpoint is None:
        assert run is not None
        sampler = Sampler.of_run(run, step, device, ema=ema, precision=precision)
        sampler = with_compiled(with_weak(sampler, ema, requested), is_compiled)
        return sampler, run, device

    group, convention = "ema" if ema else "model", requested["convention"] or "auto"
    scale = 0.18215 if requested["scale"] is None else requested["scale"]
    found = public.read(checkpoint, group, convention)
    if found.args.get("fields") and (requested["scale"], requested["shift"]) != (None, None):
        raise ReedError(f"{checkpoint} states its scale and shift; leave out --scale and --shift")
    heads, shift = requested["heads"] or 0, requested["shift"] or 0.0
    sampler = Sampler.of_weights(
        found, device, heads=heads, scale=scale, shift=shift, precision=precision
    )
    sampler = with_compiled(with_weak(sampler, ema, requested), is_compiled)
    return sampler, checkpoint.parent, device


if __name__ == "__main__":
    main()
