"""What the demos share: which checkpoints are measured, what is kept, the table and the curves."""

import json
import subprocess
import sys

import pytest

from reed.errors import ReedError
from reed.experiments import command
from reed.experiments.demo import Demo, by_step, figure, table


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Two runs of which one was stopped and resumed; reed-train does nothing."""
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(command.subprocess, "run", lambda words, check: done)
    made = Demo(
        tmp_path / "cache", tmp_path / "out", {"plain": "nothing", "reed": "b"}, "No proof."
    )
    for run, saved in (("plain", [2, 3, 4, 5]), ("reed", [2, 4, 5])):
        lines = []
        for step in saved:
            (made.out / run / f"step-{step:07d}").mkdir(parents=True)
            cosine = {"cos/b": step / 10} if run == "reed" else {}
            lines.append(json.dumps({"step": step, "loss": 1.0} | cosine))
        (made.out / run / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    return made


def test_the_same_steps_are_measured_in_every_run_and_once(demo, capsys):
    steps, calls = demo.train(5, 2), []
    assert steps == [2, 4, 5]
    assert "--set steps=5 --set every.save=2" in capsys.readouterr().err

    def measured(run, step):
        calls.append((run.name, step))
        return {"error": 1 / step}

    rows = demo.measure(steps, measured)
    assert calls == [(run, step) for run in ("plain", "reed") for step in steps]
    assert rows["plain"][1] == {"step": 4, "error": 0.25}
    assert rows["reed"][1] == {"step": 4, "error": 0.25, "cos/b": 0.4}
    assert demo.measure(steps, measured) == rows and len(calls) == 6
    demo.measure(steps, measured, "measured-otherwise")
    assert len(calls) == 12


def test_the_table_and_the_curves_show_every_run(demo, capsys):
    rows = demo.measure([2, 4], lambda run, step: {"error": step / 4})
    columns = [("E plain", "plain", "error", ".2f"), ("cos", "plain", "cos/b", ".1f")]
    lines = by_step(rows, [*columns, ("cos reed", "reed", "cos/b", ".1f")])
    assert table(lines).splitlines() == [
        "step  E plain  cos  cos reed",
        "   2     0.50  nan       0.2",
        "   4     1.00  nan       0.4",
    ]
    drawn = figure(4, 3)
    axes = drawn.subplots()
    demo.plot(axes, rows, "error", "Error")
    demo.plot_logged(axes, "cos/", "{run}, {what}: {name}", "Cosines")
    curves = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert curves == {
        "plain (nothing)": [[2, 0.5], [4, 1]],
        "reed (b)": [[2, 0.5], [4, 1]],
        "reed, b: b": [[2, 0.2], [4, 0.4], [5, 0.5]],
    }
    demo.report({"runs": rows}, lines, "E: error.", drawn)
    said = capsys.readouterr().out
    assert f"{table(lines)}\n\nE: error.\nplain: nothing\nreed: b\n\nNo proof." in said
    assert json.loads((demo.out / "demo.json").read_text()) == {"runs": rows}
    assert (demo.out / "demo.png").stat().st_size > 1000


def test_what_draws_is_missed_before_the_training(demo, monkeypatch):
    monkeypatch.setattr(command.subprocess, "run", None)  # nothing is started
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ReedError, match=r"\.\[plot\]"):
        demo.train(5, 2)
