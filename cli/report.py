"""reed-train report: a page about runs, or the ranges in which they stayed."""

from __future__ import annotations

from pathlib import Path

import click

from reed.cli.common import RUNS, one_line_errors


@click.command("report")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--run",
    "more",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=RUNS,
    help="Run; the same as RUNS.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File of the page. Default: report.html in the run or the folder of the sweep.",
)
@click.option(
    "--expect",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Instead of a page, write the ranges of runs that differ in their seeds to a file; "
    "NAME.expected.json beside a recipe NAME.toml is read by reed-train.",
)
@one_line_errors
def report_runs(
    runs: tuple[Path, ...], more: tuple[Path, ...], out: Path | None, expect: Path | None
) -> None:
    """Write an HTML page about a run, several runs, or a sweep.

    \b
    Examples:
      reed-train report runs/digits
      reed-train report runs/digits-sweep
      reed-train report runs/digits-sit runs/digits --out compared.html
      reed-train report runs/digits-sweep --expect pipelines/digits.expected.json
    """
    from reed.view.pages import run, run_folder

    runs = (*runs, *more)
    if not runs:
        raise click.UsageError("Missing argument 'RUNS'.")
    if expect and out:
        raise click.UsageError(
            f"--expect {expect} takes ranges in place of a page, which --out {out} names; give one "
            "of them"
        )
    if expect:
        from reed.train import expected

        written = expected.write(run_folder.expanded(runs)[0], expect)
        click.echo(f"{expect}: {len(written.ranges)} quantities of {written.runs} runs")
        return

    # The page of several runs belongs to none of their folders.
    if out is None and len(runs) > 1:
        raise click.UsageError("several runs make one page: name it with --out FILE")
    out = out or runs[0] / "report.html"
    for line in run.write(runs, out):
        click.echo(line)
    click.echo(out)
