"""reed-sample: draw samples from a trained run."""

from __future__ import annotations

from pathlib import Path

import click

import reed
from reed.cli.common import one_line_errors, pick_device


@click.command(context_settings={"max_content_width": 80})
@click.option("--run", required=True, type=click.Path(path_type=Path), metavar="DIR",
              help="The run to draw from.")  # fmt: skip
@click.option("--step", type=int, help="Its checkpoint. Default: the latest.")
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
              help="Where samples go. Default: RUN/samples.")  # fmt: skip
@click.version_option(reed.__version__)
@one_line_errors
def main(
    run: Path, step: int | None, num: int, sampler: str, steps: int, guidance: float,
    interval: tuple[float, float], labels: str, seed: int, batch: int, device: str,
    out: Path | None,
) -> None:  # fmt: skip
    """Draw samples with the averaged weights: a picture grid and an .npz.

    \b
    Example:
      reed-sample --run runs/digits --num 100
    """
    from reed.domains.image import SampleOptions
    from reed.picture import grid, save_png, to_uint8
    from reed.sample import Sampler, write_npz
    from reed.samplers import Guidance

    options = SampleOptions(sampler, steps, Guidance(guidance, *interval), labels, seed)
    drawn = Sampler(run, step, pick_device(device))
    samples = drawn.draw(num, options, batch=batch)
    images = to_uint8(samples["x"], drawn.fields["x"])
    name = (out or run / "samples") / f"step-{drawn.step:07d}"
    write_npz(name.with_suffix(".npz"), arr_0=images, arr_1=samples["label"])
    save_png(grid(images[:100], 10), name.with_suffix(".png"), max(1, 32 // images.shape[1]))
    click.echo(f"{name}.npz: {num} samples of step {drawn.step}; picture: {name}.png")


if __name__ == "__main__":
    main()
