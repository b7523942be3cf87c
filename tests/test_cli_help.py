"""Every command line: its help, its version, how it fails and what a shell completes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import reed
from reed.cache import plan
from reed.errors import ReedError
from reed.view import listing

COMMANDS = {
    "reed-cache": "reed.cli.cache",
    "reed-train": "reed.cli.train",
    "reed-sample": "reed.cli.sample",
    "reed-eval": "reed.cli.evaluate",
}
APPLICATIONS = (
    "demo_image",
    "demo_molecule",
    "demo_protein",
    "reproduce_image",
    "reproduce_molecule",
    "reproduce_protein",
    "train_digits",
    "train_scenes",
)
MAINS = COMMANDS | {
    f"python -m {name}": name for name in (f"reed.experiments.{each}" for each in APPLICATIONS)
}


def main_of(program):
    return importlib.import_module(MAINS[program]).main


def call(program, *words, **more):
    found = CliRunner().invoke(main_of(program), [*map(str, words)], prog_name=program, **more)
    return found


def every_command():
    """Each program, and each subcommand of one, as (program, words, command)."""
    for program in MAINS:
        main = main_of(program)
        yield program, (), main
        for name, command in getattr(main, "commands", {}).items():
            yield program, (name,), command


EVERY = [pytest.param(*each, id=" ".join((each[0], *each[1]))) for each in every_command()]


@pytest.mark.parametrize(("program", "words", "command"), EVERY)
def test_help_fits_80_columns_and_gives_an_example(program, words, command):
    found = call(program, *words, "--help", terminal_width=80)
    assert found.exit_code == 0
    too_long = [line for line in found.stdout.splitlines() if len(line) > 80]
    assert too_long == []
    assert "Example" in found.stdout and " ".join((program, *words)) in found.stdout
    assert "..." not in found.stdout.partition("\nCommands:")[2]  # summaries are whole


@pytest.mark.parametrize(("program", "words", "command"), EVERY)
def test_every_option_is_explained(program, words, command):
    options = [each for each in command.params if isinstance(each, click.Option)]
    assert [each.name for each in options if not each.help] == []


def test_the_help_of_init_names_all_that_is_read():
    """The kinds of public weights that reed.train.public and the nets' ``adopt`` read."""
    option = next(each for each in main_of("reed-train").params if each.name == "init")
    for kind in ("REPA", "REED", "SiT", "DiT", "ProteinMPNN", "SemlaFlow", "a run"):
        assert kind in option.help, kind


@pytest.mark.parametrize("program", COMMANDS)
def test_version_is_that_of_reed(program):
    assert call(program, "--version").stdout == f"{program}, version {reed.__version__}\n"


# ---- errors

WRONG = [
    (("reed-cache", "info", "nowhere"), "no cache at nowhere"),  # ReedError
    (("reed-cache", "build", "digts"), "Did you mean 'digits'?"),
    (("reed-cache", "inof"), "'inof'"),  # click's own
    (("reed-cache", "list", "cashes"), "'cashes' is not one of 'caches'"),
    (("reed-cache", "doctor", "nowhere"), "there is no folder nowhere"),
    (("reed-cache", "build", "digits", "--cache", "file/x"), "file/x"),  # OSError
    (("reed-train", "--shards", "nowhere"), "no cache at nowhere"),
    (("reed-train", "--shard", "x"), "Did you mean"),
    (("reed-train",), "--shards DIR"),
    (("reed-train", "export", "nowhere", "--out", "x.pt"), "nowhere"),
    (("reed-sample", "--run", "nowhere"), "no checkpoint"),
    (("reed-sample",), "--run DIR or --checkpoint FILE"),
    (("reed-eval", "x.npz"), "Missing option '--reference'"),
    (("reed-eval", ".", "--reference", ".", "--weights", "x"), "SPACE=FILE"),
    (("reed-eval", "x.npz", "--reference", "nowhere"), "from x.npz: there is nothing"),
    (("python -m reed.experiments.demo_image", "--points", "0"), "'--points'"),
    (("python -m reed.experiments.reproduce_molecule",), "DATA=/data/geom"),
    (("python -m reed.experiments.reproduce_protein", "--esmfold", "x"), "'--esmfold'"),
    (
        (
            "python -m reed.experiments.reproduce_image",
            "--data",
            "x",
            "--reference",
            "y",
            "--settings",
            "z",
        ),
        "z",
    ),
]


@pytest.mark.parametrize(("words", "part"), WRONG, ids=[" ".join(each[0]) for each in WRONG])
def test_errors_look_alike(words, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    found = call(*words)
    assert found.exit_code == 2 and found.stdout == "", found.exception
    *_, last = found.stderr.splitlines()
    assert last.startswith("Error: ") and part in last
    assert "Traceback" not in found.stderr and found.stderr.count("Error: ") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "Interrupted; rerun the command to resume."),
        (ReedError("it is blue"), 2, "Error: it is blue"),
        (PermissionError(13, "Permission denied", "a/b"), 2, "Error: a/b: Permission denied"),
    ],
)
def test_what_ends_a_command_is_one_line(monkeypatch, error, code, line):
    def fail(folder):
        raise error

    monkeypatch.setattr(listing, "caches", fail)
    found = call("reed-cache", "list")
    assert found.exit_code == code and found.stderr.strip() == line


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(listing, "caches", lambda folder: [][1])
    assert isinstance(call("reed-cache", "list").exception, IndexError)


def test_a_reader_that_leaves_early_is_no_error():
    words = [sys.executable, "-m", "reed.cli.cache", "list", "sources"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        program.stdout.close()
        assert program.stderr.read() == b""


# ---- completion


GUIDE_FLAGS = ("scale", "interval", "mixture", "replace")
METRICS = ("fd", "sfid", "is", "pr", "fd-dinov2", "kid", "cmmd")


def completes(program, *words):
    """What bash is told for the last word, as (kind, value) pairs."""
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    env = {
        variable: "bash_complete",
        "COMP_CWORD": str(len(words)),
        "COMP_WORDS": " ".join((program, *words)),
    }
    found = call(program, env=env)
    assert found.exit_code == 0, found.output
    return [tuple(line.split(",", 1)) for line in found.stdout.splitlines() if line]


@pytest.mark.parametrize("program", COMMANDS)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(program, shell):
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    found = call(program, env={variable: f"{shell}_source"})
    assert found.exit_code == 0
    assert variable in found.stdout and f"{shell}_complete" in found.stdout


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("reed-cache", "re"), ["reindex", "repair"]),
        (("reed-cache", "build", "prot"), ["proteins", "proteins-toy"]),
        (("reed-cache", "build", "digits", "--encoder", "digits"), ["digits-vit"]),
        (("reed-cache", "build", "digits", "--source", "repa"), ["repa-folder"]),
        (("reed-cache", "list", "enc"), ["encoders"]),
        (("reed-cache", "info", "ca"), ["cache/one"]),
        (("reed-train", "--shards", "ca"), ["cache/one"]),
        (("reed-train", "--va"), ["--variant"]),
        (("reed-train", "export", "r"), ["runs/a", "runs/demo/b"]),
        (("reed-sample", "--run", "runs/d"), ["runs/demo/b"]),
        (("reed-eval", "x.npz", "--reference", "cache/"), ["cache/one"]),
        (("reed-train", "--shards", "keys", "--variant", "d"), ["dino-forcing"]),
        (("reed-sample", "runs/a", "--sampler", ""), ["euler", "heun", "sde"]),
        (("reed-sample", "runs/a", "--labels", "r"), ["random"]),
        (("reed-sample", "runs/a", "--label", "z"), ["zebra", "zebu"]),
        (("reed-sample", "--run", "runs/demo/b", "--label", ""), ["0", "1"]),
        (("reed-sample", "runs/a", "--prompt-from", "k"), ["k1", "k2"]),
        (("reed-sample", "runs/nowhere", "--prompt-from", "k"), []),
        (("reed-sample", "runs/a", "--step", ""), ["20", "3"]),
        (("reed-sample", "runs/a", "--order", "p"), ["purity"]),
        (("reed-sample", "--guide-"), [f"--guide-{n}" for n in GUIDE_FLAGS]),
        (("reed-sample", "--sha"), []),
        (("reed-sample", "--convention", "s"), ["sit"]),
        (("reed-eval", "x.npz", "--metrics", "fid,"), [f"fid,{n}" for n in METRICS]),
        (("reed-eval", "x.npz", "--features", "i"), ["inception"]),
        (("reed-eval", "x.npz", "--device", "c"), ["cpu", "cuda"]),
    ],
    ids=" ".join,
)
def test_names_are_completed(words, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("cache/one/manifest.json", "runs/a/config.json", "runs/demo/b/config.json"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(json.dumps({"domain": {"classes": 2}, "shards": "keys"}))
    (tmp_path / "runs/a/data.json").write_text('{"classes": ["ant", "zebra", "zebu"]}')
    for step in (3, 20):
        (tmp_path / f"runs/a/step-{step:07d}").mkdir()
    made = {"pipeline": "digits", "domain": "image", "source": "digits", "shard_size": 4}
    plan.freeze(tmp_path / "keys", dict.fromkeys(("k1", "a", "k2"), "1"), **made)
    assert completes(*words) == [("plain", name) for name in wanted]
    assert completes("reed-train", "--shards", "/da") == [("dir", "/da")]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("reed-cache build digits --encoder dig", "digits-vit"),
        ("reed-sample runs/a --guidance 2 --sampler he", "heun"),
        ("reed-eval x.npz --metrics fd,cm", "fd,cmmd"),
        ("reed-train --dry", "--dry-run"),
    ],
)
def test_completing_imports_no_torch(words, wanted):
    name, *rest = words.split()
    module = COMMANDS[name]
    program = (
        "import os, sys\n"
        f"os.environ |= {{'_{name.replace('-', '_').upper()}_COMPLETE': 'bash_complete',\n"
        f"               'COMP_CWORD': '{len(rest)}', 'COMP_WORDS': {words!r}}}\n"
        f"from {module} import main\n"
        f"try: main(prog_name={name!r})\n"
        "finally: print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"plain,{wanted}", "False"], done.stderr
