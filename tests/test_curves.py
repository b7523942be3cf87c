"""The arithmetic of bench-speedup, on curves whose answers are known."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCH = Path(__file__).with_name("bench")


@pytest.fixture
def curves(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("curves")


def falling(slope: float, steps=(100, 200, 400, 800)) -> list[tuple[int, float]]:
    """A distance that is linear in the binary logarithm of the step: 10 at step 100."""
    return [(step, 10 - slope * i) for i, step in enumerate(steps)]


def test_a_line_in_the_logarithm_is_interpolated_without_error(curves):
    line = falling(2.0)
    for exponent in (0.25, 1.0, 1.5, 2.75):
        wanted = 10 - 2 * exponent
        assert curves.steps_until(line, wanted) == pytest.approx(100 * 2**exponent)


def test_the_first_fall_counts(curves):
    rising = [(100, 10.0), (200, 4.0), (400, 6.0), (800, 2.0)]
    assert curves.steps_until(rising, 4.0) == pytest.approx(200)
    assert curves.steps_until(rising, 5.0) == pytest.approx(100 * 2 ** (5 / 6))


def test_a_target_outside_of_the_curve(curves):
    line = falling(1.0)
    assert curves.steps_until(line, 6.9) is None
    assert curves.steps_until(line, 10.0) == curves.steps_until(line, 20.0) == 100


def test_speedups_are_paired_by_seed_and_the_base_counts_alike(curves):
    slow, fast, noisy = (
        falling(1.0),
        falling(2.0),
        [(100, 10.0), (200, 7.0), (400, 8.0), (800, 7.0)],
    )
    found = curves.speedups({"sit": [slow, noisy], "repa": [fast, slow]}, "sit")
    assert found["sit"] == [1.0, 1.0]
    # slow ends at 7 and fast is there at 100 * 2^1.5; noisy is at its own end at step 200 already
    assert found["repa"] == pytest.approx([800 / (100 * 2**1.5), 200 / 800])
    assert curves.speedups({"sit": [fast], "flat": [slow]}, "sit")["flat"] == [None]


def test_a_spread_tells_what_was_not_reached(curves):
    assert curves.spread([2.0, 1.0, 3.0], 1) == "2.0 (1.0 to 3.0)"
    assert curves.spread([2.0, None, 3.0], 0) == "2 (2 to 3, not reached in 1)"
    assert curves.spread([None, None], 2) == "not reached"


def test_a_picture_with_a_panel_per_space(curves, tmp_path):
    runs = {"sit": [falling(1.0), falling(1.1)], "repa": [falling(2.0), falling(2.1)]}
    curves.draw({"one": runs, "other": runs}, tmp_path / "new" / "curves.png", "a title")
    content = (tmp_path / "new" / "curves.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) < 200_000
