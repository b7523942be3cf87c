"""reed-sample: draw samples from a trained run."""

from __future__ import annotations

from pathlib import Path

import click

import reed
from reed.cli.common import one_line_errors, pick_device


@click.command(context_settings={"max_content_width": 80})
@click.option("--run", type=click.Path(path_type=Path), metavar="DIR",
              help="The run to draw from.")  # fmt: skip
@click.option("--step", type=int, help="Its checkpoint. Default: the latest.")
@click.option("--checkpoint", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="In place of a run: a public checkpoint of REPA, REED or SiT.")  # fmt: skip
@click.option("--ema/--no-ema", default=True, show_default=True,
              help="Its averaged weights, or the model's.")  # fmt: skip
@click.option("--convention", default="auto", show_default=True,
              help="Whose it is, if it cannot tell: reed, sit or dit.")  # fmt: skip
@click.option("--heads", type=click.IntRange(1), help="Its heads of attention, likewise.")
@click.option("--scale", default=0.18215, show_default=True,
              help="Its net saw (latent - shift) * scale.")  # fmt: skip
@click.option("--shift", default=0.0, show_default=True, help="See --scale.")
@click.option("--num", type=click.IntRange(1), default=100, show_default=True,
              help="How many samples.")  # fmt: skip
@click.option("--sampler", default="euler", show_default=True, help="euler, heun or sde.")
@click.option("--steps", default=50, show_default=True, help="Integration steps.")
@click.option("--guidance", default=1.0, show_default=True, help="Guidance scale; 1 is off.")
@click.option("--interval", nargs=2, type=float, default=(0.0, 1.0), show_default=True,
              help="Times between which guidance acts; 0 is data.")  # fmt: skip
@click.option("--labels", default="balanced", show_default=True, help="balanced or random.")
@click.option("--seed", default=0, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=256, show_default=True,
              help="Samples at a time.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Where samples go. Default: samples/ in the run or by the file.")  # fmt: skip
@click.version_option(reed.__version__)
@one_line_errors
def main(
    run: Path | None, step: int | None, checkpoint: Path | None, ema: bool, convention: str,
    heads: int | None, scale: float, shift: float, num: int, sampler: str, steps: int,
    guidance: float, interval: tuple[float, float], labels: str, seed: int, batch: int,
    device: str, out: Path | None,
) -> None:  # fmt: skip
    """Draw samples from a run (a picture grid and an .npz), or from a public checkpoint.

    A checkpoint, and a run on latents, give an .npz of latents, arr_0 [N, C, H, W], and labels,
    arr_1; the latents are for the decoder of the VAE that it was trained with.

    \b
    Examples:
      reed-sample --run runs/digits --num 100
      reed-sample --checkpoint last.pt --sampler sde --steps 250 --guidance 1.8
    """
    from reed import public
    from reed.domains.image import SampleOptions
    from reed.picture import grid, save_png, to_uint8
    from reed.sample import Sampler, write_npz
    from reed.samplers import Guidance

    if (run is None) == (checkpoint is None):
        raise click.UsageError("name what to draw from: --run DIR or --checkpoint FILE")
    options = SampleOptions(sampler, steps, Guidance(guidance, *interval), labels, seed)
    device = pick_device(device)
    if checkpoint:
        weights = public.read(checkpoint, "ema" if ema else "model", convention)
        drawn = Sampler.of_weights(weights, device, heads=heads or 0, scale=scale, shift=shift)
        name = (out or checkpoint.parent / "samples") / checkpoint.stem
    else:
        drawn = Sampler.of_run(run, step, device)
        name = (out or run / "samples") / f"step-{drawn.step:07d}"
    samples = drawn.draw(num, options, batch=batch)
    if checkpoint or drawn.fields["x"].kind == "moments":
        write_npz(name.with_suffix(".npz"), arr_0=samples["x"], arr_1=samples["label"])
        click.echo(f"{name}.npz: {num} latents" + (f" by {weights.kind}" if checkpoint else ""))
        return
    images = to_uint8(samples["x"], drawn.fields["x"])
    write_npz(name.with_suffix(".npz"), arr_0=images, arr_1=samples["label"])
    save_png(grid(images[:100], 10), name.with_suffix(".png"), max(1, 32 // images.shape[1]))
    click.echo(f"{name}.npz: {num} samples of step {drawn.step}; picture: {name}.png")


if __name__ == "__main__":
    main()
