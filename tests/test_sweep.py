"""reed-train --sweep: which runs it makes, what it refuses, skips, resumes and survives."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from reed import config
from reed.cache.files import only_writer
from reed.cli import train as cli_train
from reed.errors import ReedError
from reed.train import checkpoint, sweep, sweep_runs
from reed.train.request import Request

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a cache of digits and the settings that make the recipe fit it."""
    folder = tmp_path_factory.mktemp("sweep")
    TINY.build(folder / "cache" / "digits")
    (folder / "tiny.json").write_text(json.dumps(TINY.TABLE))
    return folder


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    """The same, as the current folder, with runs of its own."""
    for path in world.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = ("--shards", "cache/digits", "--config", "tiny.json", "--set", "steps=20")


def call(*words):
    return CliRunner().invoke(cli_train.main, [*WORDS, *words])


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- which runs

AXES = {
    "optim.lr=1e-4,0.0002,1": ("optim.lr", [1e-4, 2e-4, 1], "1e-4 2e-4 1"),
    "seed=0..4": ("seed", [0, 1, 2, 3, 4], "0 1 2 3 4"),
    "seed=-1..1, 7": ("seed", [-1, 0, 1, 7], "-1 0 1 7"),
    "optim.betas=[0.9,0.99],[0.9, 0.999]": (
        "optim.betas",
        [[0.9, 0.99], [0.9, 0.999]],
        "0.9,0.99 0.9,0.999",
    ),
    "guide.z.when={kind='cutoff',low=0.2,high=0.7},start": (
        "guide.z.when",
        [{"kind": "cutoff", "low": 0.2, "high": 0.7}, "start"],
        "kind=cutoff,low=0.2,high=0.7 start",
    ),
    "align.'v1.5'.target=a/b,'c,d'": ("align.v1.5.target", ["a/b", "c,d"], "a_b c,d"),
    "align.vit.probe=true,false": ("align.vit.probe", [True, False], "true false"),
    "variant=none,sit": ("variant", ["none", "sit"], "none sit"),
    "ema_decay=0.9999,0.001,1e5": ("ema_decay", [0.9999, 1e-3, 1e5], "0.9999 1e-3 1e5"),
    'one_per="",a/b': ("one_per", ["", "a/b"], "none a_b"),
}


@pytest.mark.parametrize("text", AXES)
def test_values_are_typed_as_in_toml_and_named_as_they_are_read(text):
    name, values, named = AXES[text]
    axis = sweep.axis(text)
    assert (axis.name, list(axis.values)) == (name, values)
    assert [type(value) for value in axis.values] == [type(value) for value in values]
    names = [sweep.name_of_run([(name, value)]) for value in values]
    assert names == [f"{name}={value}" for value in named.split(" ")]
    *parts, last = name.replace("v1.5", "v1_5").split(".")
    inner = axis.tables[1]
    for part in (*parts, last):
        inner = inner[part.replace("v1_5", "v1.5")]
    assert inner == values[1]


def test_a_long_name_is_shortened_and_still_its_own():
    long, other = (sweep.name_of_run([("x", f"{'a' * 300}{end}")]) for end in "bc")
    assert long != other and len(long) == len(other) == sweep.LONG


def test_a_sweep_is_all_combinations_below_the_name_of_the_run(place):
    request = Request(Path("cache/digits"), None, "", (Path("tiny.json"),), ("steps=20",))
    found = sweep.of(request, ["optim.lr=1e-4,2e-4", "seed=0..2"])
    assert found.folder == Path("runs/digits-sweep")
    assert [each.name for each in found.runs] == [
        f"optim.lr={lr}-seed={seed}" for lr in ("1e-4", "2e-4") for seed in range(3)
    ]
    last = found.runs[-1].table
    # It is what --set makes of the same values, in a folder of its own.
    alone = Request(*WORDS_OF(request), (*request.assignments, "optim.lr=2e-4", "seed=2"))
    assert last == alone.table() | {"run": "runs/digits-sweep/optim.lr=2e-4-seed=2"}


def WORDS_OF(request: Request) -> tuple:
    return request.shards, request.run, request.variant, request.files


def test_the_folder_of_a_sweep(place):
    def folder(*axes, **more):
        fields = {"shards": Path("cache/digits"), "files": (Path("tiny.json"),)} | more
        return str(sweep.of(Request(**fields, assignments=("steps=20",)), axes).folder)

    assert folder("seed=0..1", variant="sit") == "runs/digits-sit-sweep"
    assert folder("variant=none,sit") == "runs/digits-sweep"
    assert folder("seed=1", run=Path("mine")) == "mine"
    assert folder("shards=cache/digits", shards=None, run=Path("mine")) == "mine"
    # A sweep with the settings of a run lies beside it.
    Path("runs/one").mkdir(parents=True)
    table = TINY.TABLE | {"shards": "cache/digits", "run": "runs/one", "steps": 5}
    Path("runs/one/config.json").write_text(json.dumps(table))
    assert folder("seed=1", shards=None, files=(), run=Path("runs/one")) == "runs/one-sweep"
    assert folder("seed=1", files=(Path("runs/one/config.json"),)) == "runs/one-sweep"


REFUSED = {
    ("seed",): ["--sweep 'seed'", "name=values"],
    ("seed=",): ["--sweep 'seed='", "empty value"],
    ("seed=1,,2",): ["empty value"],
    ("a b=1",): ["--sweep 'a b=0'", "dotted name"],
    ("seed=4..0",): ["4..0 is empty", "write 0..4"],
    ("optim.lr=0.1..0.5",): ["--sweep 'optim.lr=0.1..0.5'", "two whole numbers"],
    ("seed=0..5000",): ["makes 5,001 runs", "1,000"],
    ("seed=0..99", "batch=0..99"): ["makes 10,000 runs", "1,000"],
    ("seed=0,0",): ["two runs of the name seed=0", "each value once"],
    ("seed=0", "seed=1"): ["--sweep seed is given twice"],
    ("steps=1,2",): ["--sweep steps and --set steps are both given"],
    ("run=a,b",): ["run cannot be swept"],
    ("variant=siit",): ["has no variant 'siit'", "Did you mean 'sit'?"],
    ("variant=1",): ["1 is no name of a variant"],
    ("optim.rate=1,2",): ["unknown setting 'optim.rate'"],
    ("align.digits-vit.tip=1,2",): ["unknown setting 'align.digits-vit.tip'", "'tap'"],
    ("seed=a,b",): ["seed must be int, got str 'a'"],
    ("align.digits-vit.tap=2,9",): ["align.digits-vit.tap=9: ", "tap is 9"],
    ("precision=fp32,fp17",): ["precision=fp17: unknown precision 'fp17'"],
    ("batch=16,-1",): ["batch=-1: batch is -1, it must be at least 1"],
    ("shards=cache/digits,cache/nowhere", "--run", "x"): ["no cache at cache/nowhere"],
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_cannot_be_swept_is_one_line_before_anything_is_trained(place, words):
    options = [word for each in words for word in (each,)]
    given = []
    for word in options:
        given += [word] if word.startswith("--") or given[-1:] == ["--run"] else ["--sweep", word]
    found = call(*given)
    assert found.exit_code == 2 and not found.stdout, found.output
    (line,) = found.stderr.splitlines()
    assert line.startswith("Error: ") and all(part in line for part in REFUSED[words]), line
    assert not Path("runs").exists() and not Path("x").exists()


def test_a_sweep_needs_a_folder_of_its_own(place):
    Path("mine").mkdir()
    Path("mine/config.json").write_text("{}")
    found = call("--sweep", "seed=0..1", "--run", "mine")
    assert found.exit_code == 2 and "mine is a run, and a sweep has a folder of its" in found.stderr
    found = call("--variant", "sit", "--sweep", "variant=none,sit")
    assert "--sweep variant and --variant are both given" in found.stderr


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_a_launcher_is_refused_with_what_to_do(place, monkeypatch, name):
    monkeypatch.setenv(name, "0")
    found = call("--sweep", "seed=0..1")
    assert found.exit_code == 2 and len(found.stderr.splitlines()) == 1
    for part in ("without torchrun or accelerate launch", "CUDA_VISIBLE_DEVICES", "--run"):
        assert part in found.stderr


def test_a_dry_run_lists_the_runs_and_in_what_they_differ(place):
    TINY.trained(TINY.settings(Path("cache/digits"), Path("s/variant=sit"), steps=2))
    over = ("--sweep", "variant=none,sit", "--run", "s", "--set", "curriculum.diffusion=1.0")
    refused = call(*over, "--dry-run")
    assert refused.exit_code == 2  # what is trained there has other settings
    assert "variant=sit: s/variant=sit was trained with curriculum.diffusion = " in refused.stderr
    Path("recipe.json").write_text(json.dumps({"curriculum": {"diffusion": 0.75}}))
    before = files(Path("s"))
    found = call("--sweep", "variant=none,sit", "--sweep", "align.digits-vit.tap=1,2", "--dry-run")
    assert found.exit_code == 0, found.output
    head, *lines = found.stdout.splitlines()
    assert head == "runs/digits-sweep: 4 runs, 0 trained"
    rows = [line.split() for line in lines]
    assert [row[0] for row in rows] == [
        f"variant={name}-align.digits-vit.tap={tap}" for name in ("none", "sit") for tap in (1, 2)
    ]
    assert all(row[1:4] == ["to", "be", "trained"] for row in rows)
    # tiny.json overrides the weights of the variant, so that the tap alone differs
    assert [row[4:] for row in rows] == [[f"align.digits-vit.tap={tap}"] for tap in (1, 2, 1, 2)]
    assert files(Path("s")) == before and not Path("runs").exists()


# ---- training them


def alone(*words):
    done = subprocess.run(
        [sys.executable, "-m", "reed.cli.train", *WORDS, *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


def test_each_run_is_the_one_that_its_settings_give_alone(place, capfd):
    """One of them is interrupted before; nothing of the shared cache is written."""
    cache = files(Path("cache/digits").resolve())
    for seed in (0, 1):
        alone("--set", f"seed={seed}", "--set", "optim.lr=0.001", "--run", f"alone/{seed}")
    words = ("--sweep", "optim.lr=1e-3", "--sweep", "seed=0..1", "--run", "s")
    alone("--set", "seed=1", "--set", "optim.lr=1e-3", "--set", "steps=8", "--run", third(1))

    listed = call(*words, "--dry-run").stdout.splitlines()
    assert listed[0] == "s: 2 runs, 0 trained" and "at step 8 of 20  seed=1" in listed[2]
    found = call(*words)
    assert found.exit_code == 0, (found.output, capfd.readouterr())
    assert found.stdout.splitlines() == [
        f"run 1 of 2: {third(0)}",
        f"run 2 of 2: {third(1)}",
        "s: 2 of 2 runs trained; compare them with: reed-train report s",
    ]
    assert "resumed at step 8" in capfd.readouterr().err  # what a run says is shown
    for seed in (0, 1):
        ours, theirs = Path(third(seed)), Path(f"alone/{seed}")
        TINY.same(checkpoint.load(ours), checkpoint.load(theirs))
        tables = [config.read(each / "config.json") for each in (ours, theirs)]
        assert [name for name in tables[0] if tables[0][name] != tables[1][name]] == ["run"]
    assert TINY.lines(Path(third(0))) == TINY.lines(Path("alone/0"))

    # Again: nothing is left to do, and nothing is done.
    before = files(Path("s"))
    found = call(*words)
    assert found.stdout.splitlines()[:2] == [
        f"run {seed + 1} of 2: {third(seed)} is trained already" for seed in (0, 1)
    ]
    assert files(Path("s")) == before and files(Path("cache/digits").resolve()) == cache


def third(seed: int) -> str:
    return f"s/optim.lr=1e-3-seed={seed}"


FAKE = """
import json, pathlib, signal, sys, time
table = json.loads(pathlib.Path(sys.argv[2]).read_text())
run = pathlib.Path(table["run"])
run.mkdir(parents=True, exist_ok=True)
def saved(step):
    (run / f"step-{step:07d}").mkdir(exist_ok=True)
def stop(*_):
    saved(7)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
(run / "began").touch()
if table["seed"] == 1: sys.exit(2)
if table["seed"] == 3: signal.raise_signal(signal.SIGKILL)
if table["seed"] == 5: time.sleep(60)
saved(20)
"""


@pytest.fixture
def fake(place, monkeypatch):
    """In place of the trainer: seed 1 fails, 3 is killed, 5 takes long, others are trained."""
    (place / "fake.py").write_text(FAKE)
    monkeypatch.setattr(sweep_runs, "PROGRAM", (sys.executable, str(place / "fake.py")))


def test_after_a_run_that_fails_the_others_are_trained(fake):
    found = call("--sweep", "seed=0..4")
    assert found.exit_code == 2
    *_, line = found.stderr.splitlines()
    runs = "runs/digits-sweep/seed"
    failed = f"{runs}=1 (exit code 2), {runs}=3 (ended by SIGKILL)"
    assert line.startswith(f"Error: 2 of 5 runs failed: {failed}; ") and "rerun" in line
    trained = [Path(f"{runs}={seed}/step-0000020").is_dir() for seed in range(5)]
    assert trained == [True, False, True, False, True]
    # Rerunning tries those alone.
    for path in Path("runs").rglob("began"):
        path.unlink()
    assert call("--sweep", "seed=0..4").exit_code == 2
    assert sorted(str(p.parent) for p in Path("runs").rglob("began")) == [f"{runs}=1", f"{runs}=3"]


def test_a_run_that_another_process_trains_is_left_to_it(fake):
    with only_writer(Path("runs/digits-sweep/seed=2")):
        listed = call("--sweep", "seed=0,2", "--dry-run").stdout
        found = call("--sweep", "seed=0,2")
    assert "seed=2  with another process" in listed
    assert found.exit_code == 0, found.output
    assert found.stdout.splitlines()[1:] == [
        "run 2 of 2: runs/digits-sweep/seed=2 is left to the process that is training it",
        "runs/digits-sweep: 1 of 2 runs trained, 1 with other processes; compare them with: "
        "reed-train report runs/digits-sweep",
    ]
    assert not Path("runs/digits-sweep/seed=2/began").exists()


@pytest.fixture
def interruptible():
    """Python's own reaction to SIGINT, which processes in a shell's background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("interruptible")
def test_a_signal_ends_the_run_with_a_checkpoint_and_then_the_sweep(fake, number):
    began = Path("runs/digits-sweep/seed=5/began")

    def interrupt():
        while not began.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    found = call("--sweep", "seed=5,6")
    thread.join()
    assert Path("runs/digits-sweep/seed=5/step-0000007").is_dir()
    assert not Path("runs/digits-sweep/seed=6").exists()
    if number == signal.SIGINT:
        assert found.exit_code == 130 and "rerun the command to resume" in found.stderr
    else:
        assert found.exit_code == 0
        assert found.stdout.endswith("runs/digits-sweep: stopped at run 1 of 2; rerun to go on\n")


def test_the_files_of_settings_are_read_once(fake, monkeypatch):
    """A sweep takes days; what is edited meanwhile is for the next one."""
    (Path("mine.json")).write_text('{"ema_decay": 0.5}')
    request = Request(
        Path("cache/digits"), None, "", (Path("tiny.json"), Path("mine.json")), ("steps=20",)
    )
    planned = sweep.of(request, ["seed=0,2"])
    members = sweep_runs.check(planned)
    Path("mine.json").write_text("{")
    seen = []
    run = sweep_runs._Child.run
    monkeypatch.setattr(
        sweep_runs._Child,
        "run",
        lambda self, words: (seen.append(config.read(words[-1])), run(self, words))[1],
    )
    sweep_runs.train(planned, members, lambda line: None)
    assert [(table["seed"], table["ema_decay"]) for table in seen] == [(0, 0.5), (2, 0.5)]
    with pytest.raises(ReedError, match="cannot read mine.json"):
        sweep.of(request, ["seed=0"])
