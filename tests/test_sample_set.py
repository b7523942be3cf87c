"""reed-sample: what a sample depends on, and the files, whoever draws them and however they die."""

import ast
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from reed import picture
from reed.cli import sample as cli_sample
from reed.cli.common import pick_device
from reed.domains.base import DOMAINS
from reed.domains.image import SampleOptions
from reed.errors import ReedError
from reed.flows.samplers import Guidance
from reed.precision import pick
from reed.sample import sample_set
from reed.sample.outputs.image import ImageOutput, write_npz
from reed.sample.sample_set import OUTPUTS, SampleSet
from reed.sample.sampler import Sampler
from reed.train import checkpoint

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
SDE = ("--sampler", "sde", "--steps", 6, "--guidance", 1.5, "--interval", 0.1, 0.8)
SDE = (*SDE, "--precision", "fp64")  # in which the size of a batch changes no pixel
OPTIONS = SampleOptions("sde", 6, Guidance(1.5, 0.1, 0.8))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    cache = TINY.build(folder / "cache")
    return TINY.trained(TINY.settings(cache, folder / "run", every={"save": 10}))


@pytest.fixture(scope="module")
def net(run):
    return Sampler.of_run(run, precision="fp64")


def call(*words, env=None):
    return CliRunner().invoke(cli_sample.main, [str(word) for word in words], env=env)


def draw(run, out, *words, env=None):
    """The command, which must end well; what it printed."""
    found = call("--run", run, "--out", out, *words, env=env)
    assert found.exit_code == 0, found.output + repr(found.exception)
    return found.stdout


def refused(parts, *words):
    """Exit code 2 and one line on stderr that has all the parts."""
    found = call(*words)
    assert found.exit_code == 2 and found.stdout == "", found.output + repr(found.exception)
    *_, line = found.stderr.splitlines()
    assert line.startswith("Error: ") and all(part in line for part in parts), line


def beside(out, ending):
    return out.with_name(out.name + ending)


def arrays(out):
    with np.load(beside(out, ".npz"), allow_pickle=False) as file:
        return file["arr_0"], file["arr_1"]


def said(out):
    return json.loads(beside(out, ".json").read_text())


# ---- what a sample depends on


@pytest.fixture(scope="module")
def eight(run, tmp_path_factory):
    """16 samples in batches of 8."""
    out = tmp_path_factory.mktemp("eight") / "eight"
    draw(run, out, "--num", 16, "--batch", 8, *SDE)
    return out


@pytest.mark.parametrize("batch", [1, 3])
def test_images_are_the_same_at_any_batch_size(run, eight, tmp_path, batch):
    draw(run, tmp_path / "s", "--num", 16, "--batch", batch, *SDE)
    for ours, theirs in zip(arrays(tmp_path / "s"), arrays(eight), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_noise_and_labels_are_the_same_bits_at_any_batch_size(net):
    """An untouched net has velocity 0, so what Euler draws is the noise itself."""
    options = SampleOptions(steps=1, labels="random", seed=7)
    fresh = Sampler(
        net.domain.net(net.fields), "image", net.domain, net.fields, {}, net.about, "", "fp32"
    )
    whole = fresh.draw(10, options, batch=10, progress=False)
    for batch in (1, 3, 4):
        for name, values in fresh.draw(10, options, batch=batch, progress=False).items():
            np.testing.assert_array_equal(values, whole[name])


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("sampler", ["euler", "heun", "sde"])
def test_a_batch_size_gives_the_same_bits_for_every_part(run, sampler, precision):
    net = Sampler.of_run(run, precision=precision)
    options = SampleOptions(sampler, 3, Guidance(2.0))
    whole = net.draw(12, options, batch=4, progress=False)
    for some in (range(5), range(3, 12), range(7, 8), range(2, 11, 3)):
        part = net.draw(some, options, batch=4, progress=False)
        for name, values in part.items():
            np.testing.assert_array_equal(values, whole[name][list(some)])
    single = net.draw(12, options, batch=1, progress=False)["x"]
    np.testing.assert_allclose(single, whole["x"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("cuts", ["launch", "array", "both"])
def test_several_processes_write_what_one_does(run, eight, tmp_path, cuts):
    words = ("--num", 16, "--batch", 4, *SDE)
    draw(run, tmp_path / "one", *words)
    shares = {
        "launch": [((), {"RANK": str(i), "WORLD_SIZE": "2"}) for i in range(2)],
        "array": [(("--array", f"{i}/3"), {}) for i in range(3)],
        "both": [
            (("--array", f"{i}/2"), {"RANK": str(j), "WORLD_SIZE": "2"})
            for i in range(2)
            for j in range(2)
        ],
    }[cuts]
    for more, env in shares[:-1]:
        told = draw(run, tmp_path / "many", *words, *more, env=env)
        assert "parts are left to other processes" in told
        assert not (tmp_path / "many.npz").exists()
    more, env = shares[-1]
    assert "16 samples of" in draw(run, tmp_path / "many", *words, *more, env=env)
    for ending in (".npz", ".png"):
        ours, theirs = (beside(tmp_path / name, ending) for name in ("many", "one"))
        assert ours.read_bytes() == theirs.read_bytes()
    np.testing.assert_array_equal(arrays(tmp_path / "many")[0], arrays(eight)[0])


@pytest.mark.slow
def test_torchrun_draws_what_one_process_does(run, tmp_path):
    words = ["--run", run, "--num", 30, "--batch", 4, *SDE]
    draw(run, tmp_path / "one", *words[2:])
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        2,
        "-m",
        "--",
        "reed.cli.sample",
        *words,
        "--out",
        tmp_path / "two",
    ]
    done = subprocess.run([str(word) for word in launch], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()


# ---- dying and coming back


def killed(run, out, words, parts):
    """Start the command in a process of its own and kill it once it has drawn some parts."""
    program = (
        "import time, sys; from reed.sample import sampler; from reed.cli.sample import main\n"
        "whole = sampler.Sampler.batch\n"
        "sampler.Sampler.batch = lambda *a: (time.sleep(0.2), whole(*a))[1]\n"
        "main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "--run", run, "--out", out, *words]
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL)
    folder = beside(out, ".parts")
    while len(list(folder.glob("*.npz"))) < parts:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_command_goes_on_where_it_was(run, eight, tmp_path, monkeypatch):
    out, words = tmp_path / "s", ("--num", 16, "--batch", 2, *SDE)
    killed(run, out, words, 3)
    drawn = {path.name: path.stat().st_mtime_ns for path in beside(out, ".parts").glob("*.npz")}
    assert 3 <= len(drawn) < 8 and not beside(out, ".npz").exists() and said(out)["num"] == 0
    draw(run, out, *words)
    parts = beside(out, ".parts")
    assert all((parts / name).stat().st_mtime_ns == changed for name, changed in drawn.items())
    np.testing.assert_array_equal(arrays(out)[0], arrays(eight)[0])
    assert not list(tmp_path.rglob("*.tmp"))


def test_files_that_a_killed_writer_left_out_are_written(run, tmp_path, monkeypatch):
    out, words = tmp_path / "s", ("--num", 5, "--batch", 2, "--steps", 2, "--png")

    def dies(path, samples):
        (path / "000000.png").write_bytes(b"half") if path.mkdir() is None else None
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("reed.sample.outputs.image.write_pngs", dies)
        assert call("--run", run, "--out", out, *words).exit_code != 0
    assert said(out)["files"] == {"s.npz": 5, "s.png": 5}
    draw(run, out, *words)
    assert said(out)["files"] == {"s.npz": 5, "s.png": 5, "s": 5}
    assert (out / "000000.png").read_bytes()[:4] == b"\x89PNG"


class Counting:
    """A sampler that counts the batches it draws."""

    def __init__(self, monkeypatch):
        self.drawn = []
        whole = Sampler.batch

        def batch(sampler, number, *more):
            self.drawn.append(number)
            return whole(sampler, number, *more)

        monkeypatch.setattr(Sampler, "batch", batch)


def test_more_samples_are_added_to_those_that_are_there(run, tmp_path, monkeypatch):
    counting, words = Counting(monkeypatch), ("--batch", 4, *SDE, "--png", "--shards")
    draw(run, tmp_path / "s", "--num", 6, *words)
    assert (
        counting.drawn == [0, 1] and len(arrays(tmp_path / "s")[0]) == said(tmp_path / "s")["num"]
    )
    draw(run, tmp_path / "s", "--num", 6, *words)
    assert counting.drawn == [0, 1]
    draw(run, tmp_path / "s", "--num", 7, *words)
    assert counting.drawn == [0, 1]  # a batch is drawn whole, so the seventh was there
    draw(run, tmp_path / "s", "--num", 14, *words)
    assert counting.drawn == [0, 1, 2, 3]
    draw(run, tmp_path / "once", "--num", 14, *words)
    for ending in (".npz", ".png", ".shards/000000.tar"):
        ours, theirs = (Path(f"{tmp_path / name}{ending}") for name in ("s", "once"))
        assert ours.read_bytes() == theirs.read_bytes(), ending
    assert len(list((tmp_path / "s").iterdir())) == said(tmp_path / "s")["num"] == 14
    refused(
        ["has 14 samples, more than 13"],
        "--run",
        run,
        "--out",
        tmp_path / "s",
        "--num",
        13,
        *words,
    )


def test_finished_samples_need_no_parts(run, tmp_path, monkeypatch):
    counting, out = Counting(monkeypatch), tmp_path / "s"
    draw(run, out, "--num", 4, "--steps", 1)
    for path in beside(out, ".parts").iterdir():
        path.unlink()
    draw(run, out, "--num", 4, "--steps", 1)
    assert counting.drawn == [0]


# ---- the files


def test_the_npz_is_one_that_the_suite_of_adm_reads(run, eight, net):
    images, labels = arrays(eight)
    assert images.shape == (16, 8, 8, 4) and images.dtype == np.uint8
    assert labels.dtype == np.int64 and labels.tolist() == [i % 4 for i in range(16)]
    with zipfile.ZipFile(beside(eight, ".npz")) as archive, archive.open("arr_0.npy") as file:
        assert archive.namelist() == ["arr_0.npy", "arr_1.npy"]
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == ((16, 8, 8, 4), False, np.uint8)
        assert len(file.read()) == images.size
    drawn = net.draw(16, OPTIONS, batch=8, progress=False)["x"]
    np.testing.assert_array_equal(images, picture.to_uint8(drawn, net.fields["x"]))


def test_the_npz_is_written_part_by_part(tmp_path, monkeypatch):
    """50,000 images of 256 x 256 are 9.8 GB: no more than a part is held."""
    made = {"x": np.zeros((4, 256, 256, 3), np.uint8), "label": np.arange(4)}
    samples = SampleSet(tmp_path / "s", {"batch": 4}, 159, ImageOutput(), progress=False)
    for number in range(40):
        samples._add(number, made | {"x": made["x"] + np.uint8(number)})
    size = made["x"].nbytes
    tracemalloc.start()
    write_npz(tmp_path / "s.npz", samples)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    images, labels = arrays(tmp_path / "s")
    assert images.shape == (159, 256, 256, 3) and peak < 4 * size < images.nbytes / 5
    assert images[:, 5, 5, 1].tolist() == [i // 4 for i in range(159)]
    assert labels.tolist() == [i % 4 for i in range(159)]


def test_pixels_are_rounded_or_cut_off():
    field = SimpleNamespace(scale=(1.0,), shift=(0.0,))
    x = np.array([-2, -1, -0.999, 0, 0.5, 0.999, 1, 2], np.float32).reshape(1, 1, 1, 8)
    exact = (x.astype(np.float64).clip(-1, 1) + 1) * 127.5
    for rounding, want in (("nearest", np.floor(exact + 0.5)), ("down", np.floor(exact))):
        assert picture.to_uint8(x, field, rounding).flatten().tolist() == want.flatten().tolist()


def test_cut_off_pixels_are_a_recipe_of_their_own(run, tmp_path):
    words = ("--run", run, "--num", 2, "--steps", 2)
    for rounding in ("nearest", "down"):
        draw(run, tmp_path / rounding, *words[2:], "--rounding", rounding)
    near, down = (arrays(tmp_path / name)[0].astype(int) for name in ("nearest", "down"))
    assert set(np.unique(near - down)) == {0, 1}
    refused(
        ["rounding = 'nearest', now it is 'down'"],
        *words,
        "--rounding",
        "down",
        "--out",
        tmp_path / "nearest",
    )


def test_pngs_and_shards_hold_the_images(run, tmp_path, monkeypatch):
    monkeypatch.setattr("reed.sample.outputs.image.SHARD", 4)
    out = tmp_path / "s"
    draw(run, out, "--num", 10, "--steps", 2, "--png", "--shards")
    images, labels = arrays(out)
    names = sorted(path.name for path in out.iterdir())
    assert names == [f"{i:06d}.png" for i in range(10)]
    for name, image in zip(names, images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(out / name)), image)
    found = {}
    for path in sorted(beside(out, ".shards").iterdir()):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    assert len(list(beside(out, ".shards").iterdir())) == 3 and len(found) == 20
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        with Image.open(io.BytesIO(found[f"{i:06d}.png"])) as png:
            np.testing.assert_array_equal(np.asarray(png), image)
        assert found[f"{i:06d}.cls"] == str(label).encode()


def test_the_picture_shows_the_first_hundred(run, tmp_path):
    draw(run, tmp_path / "s", "--num", 120, "--steps", 1)
    images, _ = arrays(tmp_path / "s")
    want = picture.grid(images[:100], 10).repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "s.png")), want)


def test_the_recipe_says_all_that_samples_depend_on(run, eight):
    found = said(eight)
    file = run / "step-0000020" / "ema.safetensors"
    want = {
        "run": str(run),
        "checkpoint": str(file),
        "step": 20,
        "ema": True,
        "images_seen": 320,
        "sampler": "sde",
        "steps": 6,
        "guidance": {"scale": 1.5, "low": 0.1, "high": 0.8},
        "labels": "balanced",
        "seed": 0,
        "num": 16,
        "precision": "fp64",
        "batch": 8,
        "vae": None,
        "rounding": "nearest",
        "files": {"eight.npz": 16, "eight.png": 16},
    }
    assert {name: found[name] for name in want} == want
    assert found["versions"]["torch"] == str(torch.__version__)
    assert found["config"] == json.loads((run / "config.json").read_text())


# ---- names, and what is not overwritten


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "step-0000020-euler50-fp32"),
        (["--step", 10, "--steps", 2, "--seed", 3], "step-0000010-euler2-seed3-fp32"),
        ([*SDE, "--labels", "random"], "step-0000020-sde6-cfg1.5-t0.1-0.8-random-fp64"),
        (
            [
                "--no-ema",
                "--sampler",
                "heun",
                "--steps",
                2,
                "--precision",
                "bf16",
                "--rounding",
                "down",
            ],
            "step-0000020-model-heun2-bf16-down",
        ),
    ],
)
def test_the_name_says_how_samples_were_drawn(run, words, name):
    found = call("--run", run, "--num", 1, *words)
    assert found.exit_code == 0, found.output
    out = run / "samples" / name
    assert f"  {out}.npz\n  {out}.png\n  {out}.json\n" in found.stdout
    assert said(out)["num"] == 1 and said(out)["ema"] == ("--no-ema" not in words)


def test_the_model_is_not_the_average(run, tmp_path):
    ours, theirs = (Sampler.of_run(run, ema=ema).net.state_dict() for ema in (True, False))
    saved = checkpoint.load(run)
    for name in ours:
        assert torch.equal(ours[name], saved.ema[name])
        assert torch.equal(theirs[name], saved.model[f"net.{name}"])


def test_bf16_computes_in_bf16(net, run):
    options = SampleOptions(steps=2)
    rough = Sampler.of_run(run, precision="bf16").draw(4, options, batch=4, progress=False)["x"]
    exact = net.draw(4, options, batch=4, progress=False)["x"]
    assert 1e-4 < np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()
    with pytest.raises(ReedError, match="precision is 'fp8', it must be one of"):
        Sampler.of_run(run, precision="fp8")
    assert pick("auto", "cpu") == "fp32" and pick("tf32", "cpu") == "tf32"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (["--steps", 3], ["steps = 2, now it is 3"]),
        (["--seed", 1], ["seed = 0, now it is 1"]),
        (["--guidance", 1.5], ["guidance.scale = 1.0, now it is 1.5"]),
        (["--labels", "random"], ["labels = 'balanced', now it is 'random'"]),
        (["--batch", 2], ["batch = 4, now it is 2"]),
        (["--precision", "bf16"], ["precision = 'fp32', now it is 'bf16'"]),
        (["--step", 10], ["step = 20, now it is 10"]),
        (["--no-ema"], ["ema = True, now it is False"]),
    ],
)
def test_samples_of_another_recipe_are_not_overwritten(run, tmp_path, change, parts):
    out = tmp_path / "s"
    words = ("--run", run, "--out", out, "--num", 4, "--steps", 2)
    draw(
        run,
        *words[3:],
    )
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    refused([str(out), "choose another --out", *parts], *words, *change)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["s.npz", "s.png", "s", "s.parts"])
def test_files_of_unknown_origin_are_not_overwritten(run, tmp_path, name):
    (tmp_path / name).mkdir() if name in ("s", "s.parts") else (tmp_path / name).write_text("mine")
    refused(
        [f"{tmp_path / name} is there, but not", "s.json"],
        "--run",
        run,
        "--out",
        tmp_path / "s.npz",
        "--num",
        1,
        "--steps",
        1,
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_longer_training_and_another_place_are_no_other_recipe(run, tmp_path):
    out, settings = tmp_path / "s", json.loads((run / "config.json").read_text())
    draw(run, out, "--num", 2, "--steps", 1)
    moved = tmp_path / "moved"
    (moved / "step-0000020").mkdir(parents=True)
    for name in ("state.json", "ema.safetensors"):
        content = (run / "step-0000020" / name).read_bytes()
        (moved / "step-0000020" / name).write_bytes(content)
    (moved / "config.json").write_text(json.dumps(settings | {"steps": 99}))
    draw(moved, out, "--num", 3, "--batch", 2, "--steps", 1)
    assert said(out)["num"] == 3


# ---- what goes wrong


@pytest.mark.parametrize("damage", ["cut", "rows", "text"])
def test_a_damaged_part_is_named(run, tmp_path, damage):
    out = tmp_path / "s"
    draw(run, out, "--num", 4, "--batch", 2, "--steps", 1, "--array", "0/2")
    part = beside(out, ".parts") / "000000.npz"
    if damage == "rows":
        np.savez(part, x=np.zeros((1, 8, 8, 4), np.uint8), label=np.zeros(1))
    else:
        part.write_bytes(part.read_bytes()[:300] if damage == "cut" else b"text")
    words = ("--run", run, "--out", out, "--num", 4, "--batch", 2, "--steps", 1)
    refused([str(part), "delete it and rerun"], *words)
    assert not beside(out, ".npz").exists()
    part.unlink()
    draw(run, out, *words[4:])


def test_numbers_that_are_not_finite_are_refused(run, tmp_path):
    broken = Sampler.of_run(run)
    broken.domain.net(broken.fields)
    with torch.no_grad():
        next(broken.net.final_layer.parameters()).fill_(float("nan"))
    with pytest.raises(ReedError, match="'x' of sample 4 is not finite, drawn in fp32 .*try"):
        broken.draw(range(4, 6), SampleOptions(steps=1), batch=2, progress=False)


def test_one_image_that_is_not_finite_is_named_and_the_others_are_drawn(run, tmp_path, monkeypatch):
    """It ended the command, and every rerun, with nothing written."""
    words = ("--num", 6, "--batch", 3, "--steps", 2)
    draw(run, tmp_path / "good", *words)
    cls = DOMAINS.get("image")
    generate = cls.generate

    def generate_with_a_hole(self, net, fields, indices, options):
        drawn = generate(self, net, fields, indices, options)
        if 4 in indices:
            drawn["x"][indices.index(4), 0, 0] = np.nan
        return drawn

    monkeypatch.setattr(cls, "generate", generate_with_a_hole)
    words = ("--run", run, "--out", tmp_path / "s", *words)
    assert f"{tmp_path / 's'}: sample 000004: 'x' is not finite" in call(*words).stderr
    assert said(tmp_path / "s")["problems"] == {"000004": "'x' is not finite"}
    (images, labels), (good, same) = arrays(tmp_path / "s"), arrays(tmp_path / "good")
    sound = np.arange(6) != 4
    np.testing.assert_array_equal(images[sound], good[sound])
    np.testing.assert_array_equal(labels, same)
    assert (images[4] == images[4, 0, 0]).all()  # zeros in the scale of the cache

    monkeypatch.undo()  # a rerun and a larger set go on, and still name it
    assert "sample 000004" in call(*words).stderr
    assert "sample 000004" in call(*words, "--num", 8).stderr
    assert len(arrays(tmp_path / "s")[0]) == 8


def test_nothing_is_claimed_by_what_cannot_be_drawn(run, tmp_path):
    plain = TINY.settings(
        Path(json.loads((run / "config.json").read_text())["shards"]),
        tmp_path / "run",
        steps=1,
        domain={"label_dropout": 0.0},
    )
    words = ("--run", TINY.trained(plain), "--out", tmp_path / "s", "--num", 2)
    refused(["guidance scale 1.5 needs a net trained with a null class"], *words, "--guidance", 1.5)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert call(*words, "--steps", 1).exit_code == 0


def test_a_domain_that_nothing_writes_is_named(net):
    with pytest.raises(ReedError, match="unknown output of samples 'imagge'.*mean 'image'"):
        OUTPUTS.get("imagge")
    for name in OUTPUTS.names():
        if name != "arrays":  # of all other domains
            assert name in DOMAINS.names() and DOMAINS.get(name).sampling().name


def test_each_process_of_a_machine_gets_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for found, local, want in (
        (1, 0, "cuda"),
        (4, 0, "cuda:0"),
        (4, 3, "cuda:3"),
        (2, 3, "cuda:1"),
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda found=found: found)
        monkeypatch.setenv("LOCAL_RANK", str(local))
        assert pick_device("auto") == want


def test_the_loop_knows_no_domain():
    """Any output will do: here one that writes the labels as text."""
    text = Path(sample_set.__file__).read_text()
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert not {"ImageOutput", "SampleOptions", "ImageDomain"} & names


class Labels(sample_set.Output):
    """An output that writes one text file."""

    def __init__(self):
        super().__init__()
        self.recipe = {"form": "text"}

    def convert(self, drawn):
        return {"label": drawn["label"]}

    def files(self, out):
        return {beside(out, ".txt"): self.write}

    def write(self, path, samples):
        labels = [str(label) for part in samples.parts() for label in part["label"]]
        path.write_text(" ".join(labels))


def test_another_output_writes_its_own_files(net, tmp_path):
    recipe = sample_set.recipe_of(net, OPTIONS, Labels(), 2)
    samples = SampleSet(tmp_path / "s", recipe, 5, Labels(), progress=False)
    samples.fill(net, OPTIONS, sample_set.Share())
    assert samples.finish() and samples.is_written()
    assert (tmp_path / "s.txt").read_text() == "0 1 2 3 0"
    assert said(tmp_path / "s")["form"] == "text"
    with pytest.raises(ReedError, match="with form = 'text', now without it"):
        SampleSet(tmp_path / "s", {k: v for k, v in recipe.items() if k != "form"}, 5, Labels())
    assert os.listdir(tmp_path / "s.parts") and ImageOutput().name == ""
