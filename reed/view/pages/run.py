"""The page of one run, or of several that are compared."""

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
from reed.view.pages import curves, page, scores
from reed.view.pages.run_folder import Picture, Run, facts, pictures, read

MANY, HEAVY = 48, 24_000_000  # pictures of one run in a page, and their bytes
SETS = 3  # the latest sample sets of one run, whose pictures are shown; one each of several
OPEN = ("data", "domain", "curriculum")  # tables that hold no default of the package


def write(places: Sequence[Path], out: Path) -> None:
    """Read run folders and write the page that shows them.

    Raises ReedError for a folder that is no run or has no log yet, and for damaged files.
    """
    names = [place.resolve().name for place in places]
    if len(set(names)) < len(names):
        names = [str(place) for place in places]
    if len({place.resolve() for place in places}) < len(places):
        raise ReedError(f"one run is named twice: {', '.join(map(str, places))}")
    runs = [read(place, name) for place, name in zip(places, names, strict=True)]
    several = len(runs) > 1
    found = [score for run in runs for score in scores.read(run.place, run.name)]
    sets, sets_said = _sets(runs)
    page.write(
        out,
        "run.html",
        command="reed-train report",
        version=reed.__version__,
        names=names,
        several=several,
        facts=_side_by_side(runs),
        warnings=[problem for run in runs for problem in run.warnings],
        groups=curves.groups(runs),
        film=_film(runs),
        sets=sets,
        sets_said=sets_said,
        scores=found,
        table=scores.table(found, several),
        ways=scores.conventions(found),
        score_charts=scores.charts(found, several),
        score_warnings=scores.warnings(found, several),
        costs=_costs(runs, found),
        differing=_differing(runs) if several else [],
        recipe=None if several else _recipe(runs[0]),
        settings=[(run.name, json.dumps(run.settings, indent=1)) for run in runs],
    )


def _side_by_side(runs: Sequence[Run]) -> list[list[Any]]:
    """A row per fact, with the value of every run; those that no run knows are named last."""
    tables = [facts(run) for run in runs]
    rows = [[name, *(table[name] for table in tables)] for name in tables[0]]
    return sorted(rows, key=lambda row: all(value is None for value in row[1:]))


def _film(runs: Sequence[Run]) -> dict[str, Any]:
    """The previews of every run, at most MANY and HEAVY, with the steps that any of them has."""
    reels, left_out = [], []
    for run in runs:
        shown = _light(run.previews)
        if len(shown) < len(run.previews):
            left_out.append(f"{len(shown)} of {len(run.previews)} pictures of {run.name}")
        reels.append({"name": run.name, "pictures": [_shown(each) for each in shown]})
    steps = sorted({each["step"] for reel in reels for each in reel["pictures"]})
    return {"steps": steps, "reels": reels, "left_out": left_out}


def _light(previews: list[Picture]) -> list[Picture]:
    """Pictures evenly over the run, the first and the last among them, that a page can hold."""
    known = [each for each in previews if each.step is not None]
    size = sum(each.path.stat().st_size for each in known) / max(len(known), 1)
    return page.thinned(known, min(MANY, max(2, int(HEAVY / max(size, 1)))))


def _shown(picture: Picture) -> dict[str, Any]:
    source = page.data_url(picture.path.read_bytes(), "image/png")
    return {"step": picture.step, "small": picture.small, "source": source}


def _sets(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """The latest sample sets that have a picture, and what is to be said of the others."""
    found, problems, most = [], [], SETS if len(runs) == 1 else 1
    for run in runs:
        paths = sorted((run.place / "samples").glob("*.png"))
        those, unread = pictures([p for p in paths if p.with_suffix(".json").is_file()])
        problems += unread
        if len(those) > most:
            problems.append(f"{run.name}: the latest {most} of {len(those)} sample sets")
        for each in those[-most:]:
            recipe = config.read(each.path.with_suffix(".json"))
            drawn = {key: recipe[key] for key in scores.DRAWN if key in recipe}
            found.append(
                _shown(each)
                | {
                    "run": run.name,
                    "name": each.path.stem,
                    "num": recipe.get("num"),
                    "drawn": scores.said(drawn | (recipe.get("versions") or {})),
                }
            )
    return found, problems


def _costs(runs: Sequence[Run], found: Sequence[scores.Score]) -> list[list[Any]]:
    """[cache, column, size, seconds, runs], as an evaluation recorded it or the cache tells."""
    rows: dict[tuple[Any, ...], list[str]] = {}
    for run in runs:
        recorded = [score.cost for score in found if score.run == run.name and score.cost]
        for name, cost in (recorded[-1] if recorded else _cost_now(run)).items():
            size = cost.get("bytes")
            row = run.settings["shards"], name, size and human(size), cost.get("seconds")
            rows.setdefault(row, []).append(run.name)
    return [[*row, ", ".join(names)] for row, names in rows.items()]


def _cost_now(run: Run) -> dict[str, dict[str, float | None]]:
    if run.data is None:
        return {}
    told = stage_one_of({"config": run.settings})
    names = dict.fromkeys(name for each in told.values() for name in each or {})
    return {name: {key: (told[key] or {}).get(name) for key in told} for name in names}


def _differing(runs: Sequence[Run]) -> list[list[Any]]:
    """The settings in which runs differ, with the value of each."""
    places = dict.fromkeys(
        place[1:]
        for run in runs[1:]
        for place, _, _ in config.differences(runs[0].settings, run.settings, "")
    )
    return [[place, *(_text(_at(run.settings, place)) for run in runs)] for place in places]


def _recipe(run: Run) -> dict[str, Any] | None:
    """The nearest recipe of the cache's pipeline, and what the run has otherwise.

    None where the pipeline is not known. A setting that the recipe leaves to the package is not
    compared.
    """
    if run.data is None or run.data.pipeline not in pipelines.names():
        return None
    name, nearest = run.data.pipeline, None
    for variant in ["", *pipelines.variants(name)]:
        theirs = config.plain(pipelines.recipe(name, variant))
        rows = [
            [place[1:], _text(old), _text(new)]
            for place, old, new in config.differences(theirs, run.settings, "")
            if old is not None or isinstance(new, dict) or place[1:].partition(".")[0] in OPEN
        ]
        if nearest is None or len(rows) < len(nearest["rows"]):
            nearest = {"name": f"{name} --variant {variant}" if variant else name, "rows": rows}
    return nearest


def _at(table: Any, place: str) -> Any:
    """The value at a dotted place, None where there is none; names may hold dots themselves."""
    if not place:
        return table
    if isinstance(table, dict):
        for key in table:
            if place == key or place.startswith(f"{key}."):
                return _at(table[key], place[len(key) + 1 :])
    return None


def _text(value: Any) -> str:
    return "absent" if value is None else value if isinstance(value, str) else json.dumps(value)
