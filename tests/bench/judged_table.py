"""The table and the picture of bench-speedup DATA=NAME, from the records of its runs alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import curves
import paired

from reed.cache.files import write_atomic
from reed.wording import counted

BASE = "sit"
Record = dict[int, dict[str, float]]  # step -> measure -> value


def publish(root: Path, places: Mapping[tuple[str, int], Path], what: str) -> None:
    """Print the table, and write it, its numbers and the picture into the folder of the runs.

    places: the record of each variant and seed; those without a record are left out, and so are
    seeds that not all variants have, because the comparison is by pairs.
    """
    records = {key: _record(path) for key, path in places.items() if path.is_file()}
    variants = list(dict.fromkeys(variant for variant, _ in places))
    last = max((max(record) for record in records.values()), default=0)
    seeds = [
        seed
        for seed in dict.fromkeys(seed for _, seed in places)
        if all(last in records.get((variant, seed), {}) for variant in variants)
    ]
    if not seeds:
        raise click.ClickException(f"{root}: no seed has all of {', '.join(variants)} yet")
    runs = {v: [records[v, seed] for seed in seeds] for v in variants}
    floor = json.loads((root / "floor.json").read_text())
    title = f"{what}: {counted(len(seeds), 'seed')}, {last} steps"
    counts = ""
    if "samples" in floor:  # older files lack the numbers
        counts = f", {floor['samples']} samples against {floor['reference']} held-out images"
    lines = [title + counts, "", *table(runs, floor)]
    write_atomic(root / "table.md", ("\n".join(lines) + "\n").encode())
    fds = {v: [curve(record, "fd") for record in each] for v, each in runs.items()}
    curves.draw({"FD in the judge's features": fds}, root / "curves.png", title)
    print("\n".join(lines) + f"\n\n{root / 'table.md'}, {root / 'curves.png'}")


def curve(record: Record, measure: str) -> list[tuple[int, float]]:
    """One measure of a run by step."""
    return [(step, record[step][measure]) for step in sorted(record)]


def table(runs: Mapping[str, list[Record]], floor: Mapping[str, Any]) -> list[str]:
    """Lines of a Markdown table: means over seeds, 95 % bootstrap intervals in brackets.

    Of images that are trained on only FD and KID are shown: the classifier was fitted to them.
    """
    head = (
        "variant",
        "FD at the end",
        "FD / FD of sit",
        "lower than sit (sign test)",
        "steps of sit / own steps",
        "KID x 1000",
        "label accuracy",
        "nearest training image",
        "copies",
    )
    real = ("real images", f"{floor['fd']:.1f}", "", "", "", f"{1000 * floor['kid']:.2f}")
    accuracy = f"{floor['accuracy']:.3f}"
    if "largest" in floor:
        accuracy += f" ({floor['largest']:.3f} are of the largest class)"
    real += (accuracy, f"{floor['nearest']:.2f}", f"{floor['copies']:.3f}")
    rows = [head, tuple("---" for _ in head)]
    rows += [_row(name, each, runs.get(BASE, [])) for name, each in runs.items()]
    rows += [real]
    if known := floor.get("training"):
        means = (f"{known['fd']:.1f}", "", "", "", f"{1000 * known['kid']:.2f}", "", "", "")
        rows += [("training images", *means)]
    return ["| " + " | ".join(row) + " |" for row in rows]


def _row(name: str, each: list[Record], base: list[Record]) -> tuple[str, ...]:
    ends = [record[max(record)] for record in each]
    means = {m: paired.bootstrap([end[m] for end in ends]) for m in ends[0]}
    compared = ("", "", "")
    if base and name != BASE:
        own, other = ([r[max(r)]["fd"] for r in records] for records in (each, base))
        wins, total, p = paired.sign_test(own, other)
        ratio = paired.ratio([a / b for a, b in zip(own, other, strict=True)])
        compared = (ratio.text(3), f"{wins} of {total}, p = {p:.3f}", speedup(each, base))
    return (
        name,
        means["fd"].text(1),
        *compared,
        paired.Interval(*(1000 * v for v in vars(means["kid"]).values())).text(2),
        means["accuracy"].text(3),
        means["nearest"].text(2),
        means["copies"].text(3),
    )


def speedup(each: list[Record], base: list[Record]) -> str:
    """Steps that the base needs to its own final FD, by those of a variant, over seeds.

    A run that does not get there counts as if it did at its end, and the ratio is "at most".
    """
    ratios, missed = [], 0
    for own, other in zip(each, base, strict=True):
        lines = [
            [(step, math.log(fd)) for step, fd in curve(record, "fd")] for record in (own, other)
        ]
        target = lines[1][-1][1]
        reached, needed = (curves.steps_until(line, target) for line in lines)
        assert needed is not None
        missed += reached is None
        ratios.append(needed / (reached or lines[0][-1][0]))
    text = paired.ratio(ratios).text(2)
    return f"at most {text}, not reached in {missed}" if missed else text


def _record(path: Path) -> Record:
    return {int(step): values for step, values in json.loads(path.read_text()).items()}
