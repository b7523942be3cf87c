"""Runs a documented command in the current folder, through click or, where asked, apart; for runpy.

What is added to it is in tests/smoke_scale.py, the files that it names are in tests/tiny_world.py.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from reed import config, pipelines
from reed.cache import schema

HERE = Path(__file__).parent
ROOT = HERE.parent
SMALL = SimpleNamespace(**runpy.run_path(str(HERE / "smoke_scale.py")))
HUB = SimpleNamespace(**runpy.run_path(str(HERE / "fake_hub.py")))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {name: place.partition(":")[0] for name, place in PROJECT["scripts"].items()}
PROGRAMS = {name: importlib.import_module(module).main for name, module in MODULES.items()}
BUILDING = {"build", "plan", "prefetch"}
UNREDUCED = {*PROGRAMS["reed-cache"].commands, *PROGRAMS["reed-train"].commands} - BUILDING
CHECKPOINT = re.compile(r"(?P<run>runs/[^/]+)/samples/step-(?P<step>\d{7})")


class Sandbox:
    """The current folder, in which a page's commands run; fully: launchers, Ray and demos, too."""

    def __init__(self, world: Path, fully: bool) -> None:
        self.world, self.fully, self.launches = world, fully, 0
        self.pushed = SimpleNamespace(repos={}, private={}, objects={})

    def run(self, text: str) -> None:
        """Run one command; AssertionError with what it said where it fails."""
        words = shlex.split(text, comments=True)
        if words[0] == "pip":
            lost = extras(text)
            assert not lost, lost
        elif words[0] == "make":
            self.make(words[1:])
        else:
            start, program, words = launched(words)
            assert program in PROGRAMS, f"document command not executable: {text}"
            for word in SMALL.inputs(program, words):
                self.need(word)
            words = [self.placed(word) for word in words]
            is_hub = any(word.startswith("hf://") for word in words)
            with self.hub() if is_hub else contextlib.nullcontext():
                self.call(program, self.reduced(program, words))
            if self.fully and (start or SMALL.RAY.issubset(words)):
                self.launches += 1  # each writes to a folder of its own, or nothing would be to do
                fresh = [*words, SMALL.OUTPUT[program], f"launched/{self.launches}"]
                start = start or ["-m", MODULES[program]]
                apart([*start, *self.reduced(program, fresh)])

    def need(self, word: str) -> None:
        """Make what a page takes for granted."""
        for name in sorted(SMALL.NEEDS, key=len):
            if f"{word}/".startswith(f"{name}/") and not Path(name).exists():
                self.run(SMALL.NEEDS[name])

    def placed(self, word: str) -> str:
        """A word with the places of the documents' world as they are here."""
        word = word.replace("s3://", f"file://{Path.cwd()}/s3/")  # no bucket, but a URL
        known = SMALL.WORLD.FILES
        for path in re.findall(r"/(?:data|models)/[^\s,:=]*", word):
            found = [name for name in known if f"{path}/".startswith(f"{name}/")]
            name = max(found, key=len, default="")
            assert name, f"tests/tiny_world.py has no file {path}"
            word = word.replace(name, str(self.place(name)))
        value = word.rpartition("=")[2].rstrip("/")
        if value in known and not Path(value).exists():
            made = self.place(value)
            (shutil.copytree if made.is_dir() else shutil.copy)(made, value)
        return CHECKPOINT.sub(reduced_step, word)

    def place(self, name: str) -> Path:
        return SMALL.WORLD.place(self.world, name)

    def reduced(self, program: str, words: list[str]) -> list[str]:
        """The words of a command with those that make it small."""
        words, main, first = SMALL.cut(words), PROGRAMS[program], (words or [""])[0]
        if "--help" in words or first in UNREDUCED:
            return words
        for option, value in SMALL.DEFAULTS.get(program, {}).items():
            words += [] if option in words else [option, str(value)]
        if "--structure" in words:
            return [*words, *SMALL.DESIGN]
        if program == "reed-cache":
            return [*words, *SMALL.build(words, self.place)]
        if program == "reed-train":
            return [*words, *SMALL.train(SMALL.asked(main, words))]
        if program == "reed-eval":
            return [*words, *SMALL.evaluate(SMALL.asked(main, words), self.place)]
        return words

    def call(self, program: str, words: list[str]) -> None:
        """Run a program of ours in this process."""
        words += SMALL.NO_RAY if SMALL.RAY.issubset(words) else []
        done = CliRunner().invoke(PROGRAMS[program], words)
        shown = f"{shlex.join([program, *words])}\n{done.output}"
        assert done.exit_code == 0, f"{shown}\n{done.exception!r}"

    @contextlib.contextmanager
    def hub(self) -> Iterator[None]:
        """A hub of this machine, with what the page has pushed."""
        made = HUB.Hub()
        made.keep(self.pushed)
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the hub's library
            HUB.machine(made, patch)
            yield
        made.close()

    def make(self, words: list[str]) -> None:
        """See that a target exists and that its programs take their words; run the demos."""
        stamp = Path(sys.prefix) / ".reed-installed"
        dry = ["make", "-n", "-C", ROOT, "-o", stamp, f"VENV={sys.prefix}", *words]
        done = subprocess.run(dry, capture_output=True, text=True)
        assert done.returncode == 0, f"make {words}: {done.stderr}"
        for module, given in programs_of(done.stdout):
            main = getattr(importlib.import_module(module), "main", None)
            if isinstance(main, click.Command):
                SMALL.asked(main, given)
            if self.fully and module in SMALL.DEMOS:
                apart(["-m", module, *map(str, SMALL.DEMOS[module])])


def launched(words: list[str]) -> tuple[list[str], str, list[str]]:
    """What python is given to launch two processes, if anything; the program; its words."""
    for launcher, module in SMALL.LAUNCHERS.items():
        names = launcher.split()
        if words[: len(names)] == names and "-m" in words:
            inner = words.index("-m") + 1
            inner += words[inner] == "--"
            start = ["-m", module, *SMALL.launch(words[len(names) : inner + 1])]
            program = {module: name for name, module in MODULES.items()}.get(words[inner])
            return start, program or words[inner], words[inner + 1 :]
    return [], words[0], words[1:]


def is_slow(command: SimpleNamespace) -> bool:
    """Whether a command takes processes of its own."""
    words = command.words
    demo = words[0] == "make" and any(word.startswith("demo") for word in words[1:])
    return demo or bool(launched(words)[0]) or SMALL.RAY.issubset(words)


def reduced_step(found: re.Match) -> str:
    """The name of a checkpoint of the recipe, as that of the last one of a reduced run."""
    table = config.read(Path(found["run"]) / "config.json")
    recipe = pipelines.recipe(schema.load_manifest(Path(table["shards"])).pipeline)
    step, every = int(found["step"]), recipe["every"]["save"]
    assert step == recipe["steps"] or (step < recipe["steps"] and step % every == 0), (
        f"{found[0]}: the recipe has no such checkpoint: {recipe['steps']} steps, every {every}"
    )
    return f"{found['run']}/samples/step-{SMALL.STEPS:07d}"


def programs_of(dry: str) -> list[tuple[str, list[str]]]:
    """The modules that a target of make runs, with their words."""
    found = []
    for line in dry.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        if "-m" in words and words[words.index("-m") + 1].startswith("reed."):
            at = words.index("-m") + 1
            found.append((words[at], words[at + 1 :]))
        elif len(words) > 1 and words[1].startswith("tests/bench/"):
            found.append((Path(words[1]).stem, words[2:]))
    return found


def apart(words: list[str]) -> None:
    """Run python with these words, without a network."""
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr[-4000:]}"


def extras(text: str) -> str:
    """What a `pip install` names that pyproject.toml does not have; installing takes a network."""
    wanted = {extra for found in re.findall(r"\[(.*?)\]", text) for extra in found.split(",")}
    lost = wanted - set(PROJECT["optional-dependencies"])
    return f"pyproject.toml has no extra {lost}" if lost else ""
