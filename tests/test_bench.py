"""The benchmarks run from end to end, at a size where their figures mean nothing."""

from __future__ import annotations

import importlib
import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import reed.cli.cache

BENCH = Path(__file__).with_name("bench")
Inline = runpy.run_path(str(Path(__file__).with_name("inline.py")))["Inline"]
STATED = {"name", "value", "unit", "minimum", "median", "maximum", "runs", "compared_with"}


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """A benchmark's module by name; it writes into a folder of the test."""
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


def check(figures: list[dict], runs: int) -> None:
    """Every figure states what it has to, and its value is the median of its runs."""
    for each in figures:
        assert set(each) == STATED
        assert each["minimum"] <= each["median"] == each["value"] <= each["maximum"]
        assert each["unit"] and each["runs"] in (1, runs)


def published(name: str) -> dict[str, dict]:
    content = json.loads(Path(f"runs/bench/{name}.json").read_text())
    assert content["bench"] == name and content["what"] and content["machine"]
    return {each["name"]: each for each in content["figures"]}


def run(main, *arguments: str) -> str:
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_stage1(bench):
    small = "--encoder dinov2-s --grid 2 --images 6 --batch 2 --workers 1 --runs 2"
    printed = run(bench("stage1").main, *small.split())
    figures = published("stage1")
    check(list(figures.values()), 2)
    for way in ("whole, 0 reading processes", "whole, 1 reading processes"):
        for ratio in (f"{way} / bare", f"per core: {way} / bare"):
            assert figures[ratio]["compared_with"] == "bare"
        assert figures[f"{way} / one at a time"]["unit"] == "ratio"
        for part in ("waiting for images", "encoding", "waiting for the writer"):
            assert figures[f"{way}: {part}"]["unit"] == "s"
        assert way in printed


@pytest.mark.filterwarnings("ignore")  # the stock pipeline leaves files open
def test_loader(bench, monkeypatch):
    loader = bench("loader")
    for name, value in {"BATCH": 4, "TOKENS": (4, 8), "MOMENTS": (2, 4, 4)}.items():
        monkeypatch.setattr(loader, name, value)
    # It starts processes of its own, at full size.
    stub = loader.report.figure("memory", [1.0], "MiB")
    monkeypatch.setattr(loader, "_memory", lambda cache, runs: stub)
    monkeypatch.setattr(loader.loader_peers, "PEERS", {})
    run(loader.main, "--samples", "64", "--runs", "2")
    figures = published("loader")
    check(list(figures.values()), 2)
    assert figures["ours, 0 threads, int8 / memcpy, int8"]["compared_with"] == "memcpy, int8"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # as above, and torch's about pinned memory
def test_peers_of_the_loader_read_our_records(bench, monkeypatch, tmp_path):
    loader, peers = bench("loader"), bench("loader_peers")
    for name, value in {"TOKENS": (4, 8), "MOMENTS": (2, 4, 4)}.items():
        monkeypatch.setattr(loader, name, value)
    loader.build(tmp_path, 16)
    for codec in ("int8", "float16"):
        stored = {record["tokens"].tobytes() for record in peers.records(tmp_path / codec)}
        assert len(stored) == 16
        read = peers.peers(tmp_path / codec, 4)
        assert {"litdata", "energon"} <= set(read)
        for batches in read.values():
            found = [next(batches) for _ in range(4)]
            assert {token.numpy().tobytes() for batch in found for token in batch} <= stored
            assert all(batch.shape == (4, 4, 8) for batch in found)


@pytest.mark.slow
def test_store(bench, monkeypatch, tmp_path):
    store, loader = bench("store"), bench("loader")
    monkeypatch.setattr(store, "apart", store.read)  # in this process: no start of torch each time
    monkeypatch.setattr(loader, "TOKENS", loader.TOKENS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    run(store.main, *"--samples 512 --steps 2 --latency 0.001 --pace 0.001 --runs 1".split())
    figures = published("store")
    check(list(figures.values()), 1)
    assert figures["copy, paced / disk, paced"]["compared_with"] == "disk, paced"
    assert figures["disk: moved"]["value"] == 0 < figures["copy: moved"]["value"]
    assert figures["copy: moved"]["value"] < figures["ranges: moved"]["value"]


def test_protein(bench):
    small = "--residues 20 --steps 4 --runs 2 --chains 24 --length 64 --tokens 600"
    run(bench("protein").main, *small.split())
    figures = published("protein")
    check(list(figures.values()), 2)
    assert figures["whole net at every step / ours"]["compared_with"] == "ours"
    assert 1 <= figures["decoder passes of ours"]["value"] <= 4
    assert figures["all in RAM"]["value"] > 24 * 64 * 64 * 128 * 4 / 2**20


def test_sample(bench):
    sample = bench("sample")
    assert all(seconds > 0 for seconds in sample.doubled())  # it checks that the samples are equal
    assert sample.drawn("64 images, 25 steps") > 0


def test_molecule(bench, monkeypatch):
    molecule = bench("molecule")
    small = molecule.SemlaConfig(width=16, heads=2, sets=8, message=8, hidden=8, edge=8, size_emb=4)
    monkeypatch.setattr(molecule, "SemlaConfig", lambda: small)
    run(molecule.main, "--batch", "3", "--atoms", "10", "--runs", "2")
    figures = published("molecule")
    check(list(figures.values()), 2)
    for part in ("attention", "layer"):
        ratio = figures[f"{part}, directions / {part}, ours: memory"]
        assert ratio["value"] > 1 and ratio["compared_with"] == f"{part}, ours"
        assert f"{part}, directions / {part}, ours: time" in figures
        assert figures[f"{part}: largest difference"]["value"] < molecule.TOLERANCE


def test_molecule_refuses_ways_that_differ(bench, monkeypatch):
    molecule = bench("molecule")
    monkeypatch.setattr(molecule, "TOLERANCE", 0.0)
    with pytest.raises(AssertionError, match="attention: ours and the baseline differ"):
        molecule.main(["--batch", "2", "--atoms", "4", "--runs", "1"], standalone_mode=False)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_rows_of_gpu(bench, tmp_path):
    gpu, stage1 = bench("gpu"), bench("stage1")
    narrow = gpu.SD_VAE | {"block_out_channels": (32,) * 4}
    encoders = {
        "autoencoder": gpu.random_vae(tmp_path / "vae", narrow, batch_size=2),
        "vision": stage1.random_vision(
            tmp_path, "dinov2-s", grid=2, precision="bf16", batch_size=2
        ),
    }
    for name, encoder in encoders.items():
        figures = gpu.measure(name, encoder, tmp_path, 3, device="cpu", workers=0, runs=1)
        check([vars(figure) for figure in figures], 1)
        found = {figure.name: figure for figure in figures}
        assert found[f"{name}: whole / {name}: bare"].compared_with == f"{name}: bare"
        assert found[f"{name}: memory"].value == 0


def test_gpu_says_that_it_needs_one(bench, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(bench("gpu").main)
    assert done.exit_code != 0 and not Path("runs").exists()
    assert done.output.count("\n") == 1 and "needs an NVIDIA GPU" in done.output


def test_every_row_of_gpu_can_be_made(bench, tmp_path, monkeypatch):
    gpu, stage1 = bench("gpu"), bench("stage1")
    monkeypatch.setattr(gpu, "random_vae", lambda folder, settings, **options: options)
    monkeypatch.setattr(stage1, "random_vision", lambda folder, name, **options: options)
    for row in gpu.ROWS:
        made = gpu.encoder_of(row, tmp_path)
        assert made == {"precision": row.precision, "batch_size": row.batch}


def test_gpu_goes_on_with_what_is_missing(bench, tmp_path, monkeypatch):
    """It keeps what is measured, and leaves out what does not fit, by name."""
    import torch

    gpu, calls = bench("gpu"), []

    def way(name):
        calls.append(name)
        return [gpu.report.figure(name, [1.0, 2.0], "images/s")]

    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory")

    todo = [gpu.Task("train", name, gpu.partial(way, name)) for name in ("SiT-XL/2, plain", "b")]
    more = [
        gpu.Task("stage1", "large", lambda: gpu.variants.within_memory(too_large)),
        gpu.Task("stage1", "foreign", list, "no_such_library"),
    ]
    said, figures = gpu.gathered([todo[0], *more], tmp_path / "kept", "card")
    assert calls == ["SiT-XL/2, plain"] and [each.name for each in figures] == calls
    assert said == [
        "left out: large (out of memory)",
        "left out: foreign (no_such_library is not installed)",
    ]
    assert len(gpu.gathered(todo, tmp_path / "kept", "card")[1]) == 2 and calls[1:] == ["b"]
    gpu.gathered(todo, tmp_path / "kept", "another card")
    assert calls[2:] == ["SiT-XL/2, plain", "b"]
    monkeypatch.setattr(gpu, "START_WITHIN", -1)
    said, figures = gpu.gathered(todo, tmp_path / "kept", "card")
    assert not figures and "run the command again" in said[0]


def test_every_row_that_is_promised_of_gpu_is_there(bench, tmp_path):
    gpu = bench("gpu")
    named = {(task.group, task.name) for task in gpu.tasks(tmp_path, 0, 1, 1)}
    assert {"train", "variants", "drawing", "stage1"} == {group for group, _ in named}
    assert {("stage1", "dinov2-b, bf16"), ("stage1", "sd-vae, bf16")} <= named
    xl, b = gpu.TRAINED
    assert (xl.name, xl.batch, xl.precision) == ("SiT-XL/2", 256, "bf16")
    varied = {setting.name: names for setting, names in gpu.VARIED}
    assert varied[xl.name] == ("plain", "checkpointed blocks")
    wanted = {"two averages", "three averages", "conv head", "guide, joint", "guide, prior"}
    assert wanted | {"guide, mean"} <= set(varied[b.name])


def test_variants_of_gpu(bench, tmp_path):
    """Every recipe is valid; two are trained."""
    train, variants = bench("train"), bench("variants")
    narrow = {"patch_size": 2, "hidden_size": 32, "depth": 3, "num_heads": 2}
    tiny = train.replace(
        train.SMALL, net={"net_settings": narrow}, tokens=(64, 24), vector=8, **TINY
    )
    figures = variants.measure(tiny, ("plain", "two averages"), tmp_path, 1)
    check([vars(figure) for figure in figures], 1)
    found = {figure.name: figure for figure in figures}
    assert found["small, two averages / plain"].compared_with == "plain"
    assert found["small, plain: memory"].value == 0
    assert "small, two averages: share of a step spent waiting" in found
    cache = train.build(tiny, tmp_path / "cache")
    for name in variants.VARIANTS:
        trainer = variants.trainer_of(tiny, name, cache, tmp_path)
        kept = trainer.bare.net.config.checkpoint_blocks
        assert kept == (name == "checkpointed blocks")


def tiny_drawing(drawing):
    narrow = {"patch_size": 2, "hidden_size": 32, "depth": 2, "num_heads": 2}
    return drawing.Drawing("tiny", {"net_settings": narrow}, (4, 8), 2, 4, "fp32")


def test_drawing_of_gpu(bench, monkeypatch):
    """Without the compiler, which takes long: then both ways are the same."""
    import torch

    from reed.sample import compiled

    drawing = bench("drawing")
    monkeypatch.setattr(compiled, "check_compiler", lambda device: None)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: None)
    figures = drawing.measure(tiny_drawing(drawing), "cpu", 1)
    check([vars(figure) for figure in figures], 1)
    found = {figure.name: figure for figure in figures}
    for how in ("tiny", "tiny, guided"):
        assert found[f"{how}: compiled: differ"].value == 0
        for other in ("plain", "public"):
            assert found[f"{how}: compiled / {how}: {other}"].unit == "ratio"


TINY = {"hidden": 16, "batch": 8, "samples": 16}


def test_train(bench, monkeypatch):
    train = bench("train")
    narrow = {"patch_size": 2, "hidden_size": 32, "depth": 3, "num_heads": 2}
    vit = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    tiny = train.replace(
        train.SMALL, net={"net_settings": narrow}, tokens=(64, 24), vit=vit, vector=8, **TINY
    )
    monkeypatch.setattr(train, "SMALL", tiny)
    run(train.main, "--runs", "2", "--batch", "8")
    figures = published("train")
    check(list(figures.values()), 2)
    for other in ("bare", "public way", "public way, stored tokens"):
        assert figures[f"small: ours / small: {other}"]["compared_with"] == f"small: {other}"
    assert "small: three averages / small: ours" in figures
    for part in (
        "conv head",
        "spatial norm",
        "token weights",
        "Gram",
        "all together",
        "all and a Gram target",
    ):
        assert figures[f"cost of a step, {part}"]["compared_with"] == "step, aligned"


def test_the_operations_of_a_training_step(bench, tmp_path):
    """Three times the products of the forward pass, counted by hand for one block of SiT."""
    train = bench("train")
    net = {"net_settings": {"patch_size": 2, "hidden_size": 32, "depth": 1, "num_heads": 2}}
    setting = train.replace(train.SMALL, net=net, tokens=(64, 24), vector=8, taps=(1, 1), **TINY)
    cache = train.build(setting, tmp_path / "cache")
    setup = train.recipe.check(train.settings_of(setting, cache, tmp_path / "run"))
    tokens, d, per_token = 64, 32, 12 * 32 * 32 + 2 * 64 * 32 + 2 * 16 * 32
    heads = tokens * (d * 16 + 16 * 16 + 16 * 24) + d * 16 + 16 * 16 + 16 * 8
    once = (256 + d) * d + 6 * d * d + 2 * d * d  # time, modulation of the block and the end
    products = tokens * per_token + heads + once
    assert train.flops(setup) == 3 * 2 * products


def test_every_training_row_of_gpu_fits_its_recipe(bench, tmp_path):
    gpu, train = bench("gpu"), bench("train")
    for setting in gpu.TRAINED:
        small = train.replace(setting, samples=4, batch=4)
        cache = train.build(small, tmp_path / "cache")
        setup = train.recipe.check(train.settings_of(small, cache, tmp_path / "run"))
        assert set(setup.targets) == {"image", "caption"}


def test_the_ratios_of_evaluate(bench):
    """Of the bare passes ours is a multiple; of ours the programs are."""
    evaluate = bench("evaluate")
    ways = {name: lambda: None for name in (evaluate.BARE, evaluate.OURS, evaluate.FIDELITY)}
    figures = evaluate.measure(ways, "features", 3, 4)
    check([vars(figure) for figure in figures], 3)
    compared = {figure.name: figure.compared_with for figure in figures if figure.unit == "ratio"}
    assert compared["features, reed-eval / bare passes, clock"] == "bare passes"
    assert compared["features, torch-fidelity / reed-eval, CPU"] == "reed-eval"


@pytest.mark.slow  # building Inception takes seconds
def test_evaluate(bench, tmp_path):
    """All ways give features of both folders; a distance takes roots of matrices of width 2048."""
    evaluate = bench("evaluate")
    passes, distances = evaluate.ways(tmp_path, count=2, batch=2, device="cpu")
    assert set(distances) <= set(passes)
    figures = evaluate.measure(passes, "features", 1, 4)
    check([vars(figure) for figure in figures], 1)
    found = {figure.name: figure for figure in figures}
    for unit in ("CPU", "clock"):
        name = f"features, reed-eval / bare passes, {unit}"
        assert found[name].compared_with == "bare passes"
        assert found[f"features, torch-fidelity / reed-eval, {unit}"].unit == "ratio"


def test_growth(bench, monkeypatch, tmp_path):
    growth = bench("growth")
    monkeypatch.setattr(growth, "fresh", growth.alone)
    monkeypatch.setattr(growth, "WARM", 300)
    monkeypatch.setattr(growth, "IMAGE", tmp_path / "growth.png")
    run(growth.main, "--sizes", "400,600", "--large", "0", "--figure")
    figures = published("growth")
    check(list(figures.values()), 1)
    for part in growth.PARTS:
        ratio = figures[f"{part}, time per sample, 600 / 400"]
        assert ratio["compared_with"] == f"{part}, 400" and figures[f"{part}, 600: in all"]["value"]
    assert (tmp_path / "growth.png").stat().st_size < 200_000


def test_contention(bench, monkeypatch):
    contention = bench("contention")
    environments = []

    def in_process(words: list[str], **options) -> SimpleNamespace:
        """Of the processes that the benchmark starts, only the busy ones are."""
        if "--alone" not in words:
            return SimpleNamespace(stdout=run(reed.cli.cache.main, *words[3:]))
        environments.append(options["env"])
        return SimpleNamespace(stdout=run(contention.main, *words[2:]))

    monkeypatch.setattr(contention.subprocess, "run", in_process)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    printed = run(contention.main, "--steps", "2", "--seconds", "60", "--runs", "1")
    figures = published("contention")
    check(list(figures.values()), 1)
    for where in ("busy", "idle"):
        ratio = figures[f"ours, {where} / default, {where}"]
        assert ratio["compared_with"] == f"default, {where}" and ratio["unit"] == "ratio"
    assert figures["a core-second: ours, idle / ours, busy"]["unit"] == "ratio"
    assert printed.count("'steps': 2") == 2 * 4 and "load before: " in printed
    spins = [environment.get("GOMP_SPINCOUNT") for environment in environments]
    assert spins == ["300000", None] * 4
    assert not any("OMP_WAIT_POLICY" in environment for environment in environments)


def test_a_run_of_contention_ends_by_its_time(bench, monkeypatch, tmp_path):
    contention = bench("contention")
    run(reed.cli.cache.main, "build", "digits", "--cache", str(tmp_path / "digits"))
    assert contention.steps_alone(tmp_path / "digits", steps=1000, seconds=0.0)["steps"] == 1


def test_busy_processes_end_with_the_benchmark(bench):
    """With its block, and where the benchmark is killed within it."""
    contention = bench("contention")
    started, real = [], contention.subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            contention.subprocess, "Popen", lambda *a: started.append(real(*a)) or started[-1]
        )
        with contention.company(2):
            assert [process.poll() for process in started] == [None, None]
    assert len(started) == 2 and None not in [process.poll() for process in started]

    killed = (
        f"import os, sys; sys.path.insert(0, {str(BENCH)!r}); import contention\n"
        "with contention.company(1): os._exit(1)"
    )
    # the busy process holds the pipe, too: what is read ends only when it does
    done = subprocess.run([sys.executable, "-c", killed], stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == 1


def test_speedup_goes_all_the_way_and_reuses_what_is_there(bench, monkeypatch):
    speedup = bench("speedup")
    small = {"hidden_size": 16, "depth": 3, "num_heads": 1}
    over = {"steps": 4, "batch": 4, "precision": "fp32", "domain": {"net_settings": small}}
    tiny = speedup.Setting(
        images=24,
        over=over,
        points=2,
        drawn=4,
        scenes=8,
        timed=1,
        options=speedup.SampleOptions(steps=1),
    )
    monkeypatch.setitem(speedup.SETTINGS, "cpu", tiny)
    monkeypatch.setattr(speedup, "ProcessPoolExecutor", Inline)
    printed = run(speedup.main, "--seeds", "2")
    figures = published("speedup")
    for each in figures.values():
        assert set(each) == STATED and each["minimum"] <= each["median"] <= each["maximum"]
    for space in speedup.SPACES:
        for variant in speedup.VARIANTS:
            assert figures[f"{space}: FD at the end, {variant}"]["runs"] == 2
    assert figures["online / cached"]["compared_with"] == "cached"
    assert "steps to sit's" in printed and Path("runs/bench/speedup.png").is_file()
    curves = json.loads(Path("runs/bench/speedup-cpu/curves.json").read_text())
    steps = [[step for step, _ in run] for run in curves["scenes-judge"]["reed"]]
    assert steps == [[2, 4], [2, 4]]

    for variant in speedup.VARIANTS:  # the large setting fits its recipe, too
        large = speedup.settings_of(
            speedup.Run(Path("large"), Path("cache/scenes-24"), variant, 0), speedup.SETTINGS["gpu"]
        )
        targets = speedup.recipe.check(replace(large, batch=8)).targets
        assert len(targets) == {"sit": 0, "repa": 1, "flat": 2, "reed": 2}[variant]

    monkeypatch.setattr(speedup, "draw", None)  # a rerun finds everything measured
    run(speedup.main, "--seeds", "2")
    assert json.loads(Path("runs/bench/speedup-cpu/curves.json").read_text()) == curves


def test_the_tables_of_many_nodes_are_what_is_computed(bench):
    """They are arithmetic, so the documentation holds the very lines."""
    scale = bench("scale")
    page = (scale.DOCS / "measured.md").read_text()
    ends = scale.node_rows({nodes: scale.share_of(nodes) for nodes in (1, 512)})
    assert [line for line in (*scale.codec_rows(), *ends) if line not in page] == []
    one, every = scale.share_of(1), scale.share_of(512)
    assert one.moved == pytest.approx(1, abs=1e-3)  # a node alone needs every record of a page
    assert 1 < every.moved < scale.BLOCK and every.gets == pytest.approx(1, abs=0.01)

    # By hand: 8 GPUs of 400 images/s, each 16 KiB of latents and 32 KiB of tokens, and headers.
    assert scale.record_bytes("pca:128+int8") * 3200 == pytest.approx(175e6, rel=0.01)
    with pytest.raises(AssertionError, match="no marks of other"):
        scale.replaced(page, "other", [])
