"""The HTML page of a run, or of several runs that are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import reed
from reed import config, pipelines
from reed.bytes import human
from reed.errors import ReedError
from reed.evaluate.provenance import stage_one_of
from reed.view.pages import comparison, curves, page, run_folder, scores
from reed.view.pages.run_folder import Picture, Run, facts, pictures, read

MANY, HEAVY = 48, 24_000_000  # pictures per run, and their bytes, at most
FULL = 4  # runs with so many pictures; of more runs, each has fewer
SETS = 3  # latest sample sets shown of a single run; of several runs one each
OPEN = ("data", "domain", "curriculum")  # tables of a recipe without defaults of the package


def write(places: Sequence[Path], out: Path) -> list[str]:
    """Read run folders and write a page about them.

    Args:
        places: Folders of the runs, or of sweeps.
        out: File of the page.

    Returns:
        Lines that compare the runs; none for a single run.

    Raises:
        ReedError: A folder is not a run, has no log yet, has damaged files, or is named twice.
    """
    places, left_out = run_folder.expanded(places)
    names = [place.resolve().name for place in places]
    # Runs of one name in different folders are told apart by their whole paths.
    if len(set(names)) < len(names):
        names = [str(place) for place in places]
    if len({place.resolve() for place in places}) < len(places):
        raise ReedError(f"one run is named twice: {', '.join(map(str, places))}")
    runs = [read(place, name) for place, name in zip(places, names, strict=True)]

    several = len(runs) > 1
    records = [score for run in runs for score in scores.read(run.place, run.name)]
    sets, notes = _sets(runs)
    compared = comparison.tables(runs, records) if several else []
    page.write(
        out,
        "run.html",
        command="reed-train report",
        version=reed.__version__,
        names=names,
        several=several,
        facts=_side_by_side(runs),
        warnings=left_out + [problem for run in runs for problem in run.warnings],
        compared=compared,
        groups=curves.groups(runs),
        film=_film(runs),
        sets=sets,
        sets_said=notes,
        scores=records,
        table=scores.table(records, several),
        ways=scores.conventions(records),
        score_charts=scores.charts(records, several, _references(runs)),
        score_warnings=scores.warnings(records, several),
        costs=_costs(runs, records),
        differing=_differing(runs) if several else [],
        recipe=None if several else _recipe(runs[0]),
        settings=[(run.name, json.dumps(run.settings, indent=1)) for run in runs],
    )
    return left_out + [line for table in compared for line in [*table.lines, table.caption, ""]]


def _side_by_side(runs: Sequence[Run]) -> list[list[Any]]:
    """Return a row per fact with the value of every run; facts that no run knows come last."""
    tables = [facts(run) for run in runs]
    rows = [[name, *(table[name] for table in tables)] for name in tables[0]]
    return sorted(rows, key=lambda row: all(value is None for value in row[1:]))


def _film(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the previews of every run, within MANY and HEAVY, and all steps that have one."""
    reels, left_out = [], []
    for run in runs:
        shown = _light(run.previews, len(runs))
        if len(shown) < len(run.previews):
            left_out.append(f"{len(shown)} of {len(run.previews)} pictures of {run.name}")
        reels.append({"name": run.name, "pictures": [_shown(picture) for picture in shown]})
    steps = sorted({picture["step"] for reel in reels for picture in reel["pictures"]})
    return {"steps": steps, "reels": reels, "left_out": left_out}


def _light(previews: list[Picture], runs: int = 1) -> list[Picture]:
    """Return as many pictures as a page can hold, evenly spaced, with the first and the last.

    Args:
        previews: The pictures of a run.
        runs: Number of runs on the page.
    """
    known = [picture for picture in previews if picture.step is not None]
    size = sum(picture.path.stat().st_size for picture in known) / max(len(known), 1)
    return page.thinned(known, min(MANY, max(2, int(HEAVY / max(size, 1) / max(runs / FULL, 1)))))


def _shown(picture: Picture) -> dict[str, Any]:
    source = page.data_url(picture.path.read_bytes(), "image/png")
    return {"step": picture.step, "small": picture.small, "source": source}


def _sets(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the latest sample sets with a picture, and notes on the others."""
    sets, notes, most = [], [], SETS if len(runs) == 1 else 1
    for run in runs:
        paths = sorted((run.place / "samples").glob("*.png"))
        # A picture without a recipe beside it was not written by reed-sample.
        drawn, unread = pictures([p for p in paths if p.with_suffix(".json").is_file()])
        notes += unread
        if len(drawn) > most:
            notes.append(f"{run.name}: the latest {most} of {len(drawn)} sample sets")

        for picture in drawn[-most:]:
            recipe = config.read(picture.path.with_suffix(".json"))
            settings = {key: recipe[key] for key in scores.DRAWN if key in recipe}
            sets.append(
                _shown(picture)
                | {
                    "run": run.name,
                    "name": picture.path.stem,
                    "num": recipe.get("num"),
                    "drawn": scores.said(settings | (recipe.get("versions") or {})),
                }
            )
    return sets, notes


def _references(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the reference points of all recipes by name."""
    tables = [run.settings.get("reference", {}) for run in runs]
    return {name: table[name] for table in tables for name in table}


def _costs(runs: Sequence[Run], records: Sequence[scores.Score]) -> list[list[Any]]:
    """Return rows [cache, column, size, seconds, runs], from evaluations or else from the cache."""
    rows: dict[tuple[Any, ...], list[str]] = {}
    for run in runs:
        recorded = [score.cost for score in records if score.run == run.name and score.cost]
        for name, cost in (recorded[-1] if recorded else _cost_now(run)).items():
            size = cost.get("bytes")
            row = run.settings["shards"], name, size and human(size), cost.get("seconds")
            rows.setdefault(row, []).append(run.name)
    return [[*row, ", ".join(names)] for row, names in rows.items()]


def _cost_now(run: Run) -> dict[str, dict[str, float | None]]:
    if run.data is None:
        return {}
    costs = stage_one_of({"config": run.settings})
    names = dict.fromkeys(name for by_column in costs.values() for name in by_column or {})
    return {name: {key: (costs[key] or {}).get(name) for key in costs} for name in names}


def _differing(runs: Sequence[Run]) -> list[list[Any]]:
    """Return rows of the settings in which runs differ, with the value of each run."""
    found = config.differing([run.settings for run in runs])
    return [[name, *map(config.shown, values)] for name, values in found.items()]


def _recipe(run: Run) -> dict[str, Any] | None:
    """Return the most similar recipe of the pipeline, and the settings in which the run differs.

    Settings that the recipe leaves to the package's defaults are not compared. The result is None
    if the pipeline is not known.
    """
    if run.data is None or run.data.pipeline not in pipelines.names():
        return None
    name, nearest = run.data.pipeline, None
    for variant in ["", *pipelines.variants(name)]:
        recipe = config.plain(pipelines.recipe(name, variant))
        rows = [
            [setting[1:], config.shown(old), config.shown(new)]
            for setting, old, new in config.differences(recipe, run.settings, "")
            if old is not None or isinstance(new, dict) or setting[1:].partition(".")[0] in OPEN
        ]
        if nearest is None or len(rows) < len(nearest["rows"]):
            nearest = {"name": f"{name} --variant {variant}" if variant else name, "rows": rows}
    return nearest
