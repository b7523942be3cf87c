"""Public checkpoints: read as they are found, refused where they cannot be, and written back."""

import argparse
import collections
import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

from reed.cache.schema import Field
from reed.cli import sample as cli_sample
from reed.cli import train as cli_train
from reed.domains.base import Batch, Noised
from reed.domains.image import SampleOptions
from reed.errors import ReedError
from reed.flows.samplers import Guidance
from reed.nets.layers import projector
from reed.nets.sit import SiT, SiTConfig, sit_config
from reed.picture import to_uint8
from reed.sample.sampler import Sampler
from reed.train import checkpoint, export, public
from reed.train.align import AlignConfig, AlignedNet, check_target

GOLDEN = Path(__file__).parent / "golden"
TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
CONFIG = SiTConfig(
    input_size=8, patch_size=2, in_channels=4, hidden_size=64, depth=4, num_heads=4, num_classes=10
)
ARGS = argparse.Namespace(model="SiT-XL/2", encoder_depth=2, num_heads=4, path_type="linear")


def load(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {k: torch.from_numpy(file[k]) for k in file.files if not k.endswith("json")}


def under(arrays, prefix):
    return {k.removeprefix(prefix): v.clone() for k, v in arrays.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def tiny():
    return load("sit_tiny")


@pytest.fixture(scope="module")
def original():
    return load("sit_original_tiny")


@pytest.fixture
def weights(tiny):
    """The recorded state dict of a REED net: 40 and some keys, and two projectors."""
    return under(tiny, "sd/")


@pytest.fixture
def saved(tmp_path):
    def save(content, name="public.pt"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


def aligned(**over):
    net = SiT(replace(CONFIG, **over))
    fields = {"a": Field("tokens", "token", (16, 48)), "b.1": Field("embedding", "sample", (32,))}
    taps = {"a": 2, "b.1": 3}
    return AlignedNet(
        net,
        {
            name: check_target(name, AlignConfig("c/f", taps[name], hidden=96), field, net)
            for name, field in fields.items()
        },
    )


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def flat(read):
    return export.layout(read.net, read.projectors.values())


@torch.no_grad()
def test_a_model_started_from_a_public_file_gives_the_public_numbers(tiny, weights, saved):
    model = aligned()
    said = public.start_from(model, saved({"ema": weights, "model": {}, "steps": 3}))
    assert "ema weights (repa)" in said[0] and "projectors go to a, b.1" in said[1]
    x, t, y = (tiny[f"in/{name}"] for name in "xty")
    seen = []
    for head in model.heads.values():
        head.register_forward_hook(lambda *call: seen.append(call[2]))
    targets = {"a": torch.ones(5, 16, 48), "b.1": torch.ones(5, 32)}
    noised = Noised({"x": x, "t": t, "y": y}, t, x)
    v, _ = model(noised, Batch({}, targets))
    for ours, name in zip([v, *seen], ["v", "zs0", "zs1"], strict=True):
        torch.testing.assert_close(ours, tiny[f"out/{name}"], rtol=0, atol=5e-6)


def wrapped(weights, *, prefix):
    return {f"{prefix}{name}": value for name, value in weights.items()}


def legacy(weights):
    """The same weights as old REPA files name them, with two blocks in the encoder."""
    later = {f"blocks.{i}.": f"decoder_blocks.{i - 2}." for i in (2, 3)}
    renamed = {}
    for name, value in weights.items():
        start = next((old for old in later if name.startswith(old)), "")
        renamed[later.get(start, "") + name.removeprefix(start)] = value
    return renamed


@pytest.mark.parametrize(
    ("form", "steps", "group"),
    [
        (lambda w: w, None, ""),
        (lambda w: {"model": {}, "ema": w, "opt": {}, "args": ARGS, "steps": 7}, 7, "ema"),
        (lambda w: {"model": w, "opt": {}, "args": ARGS, "steps": 7}, 7, "model"),
        (lambda w: wrapped(w, prefix="module."), None, ""),
        (lambda w: {"ema": wrapped(w, prefix="_orig_mod.")}, None, "ema"),
        (legacy, None, ""),
        (lambda w: {"ema": legacy(w), "args": ARGS}, None, "ema"),
    ],
)
def test_every_form_of_file_gives_the_same_weights(weights, saved, form, steps, group):
    read = public.read(saved(form(weights)))
    same(flat(read), weights)
    assert (read.origin, read.steps, list(read.projectors)) == ("repa", steps, [0, 1])
    assert read.group == group


def test_the_older_form_of_pickle_is_read(weights, tmp_path):
    path = tmp_path / "old.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    same(flat(public.read(path)), weights)


def test_the_model_can_be_chosen(weights, saved):
    path = saved({"model": weights, "ema": {k: v + 1 for k, v in weights.items()}})
    same(flat(public.read(path, "model")), weights)
    with pytest.raises(ReedError, match="has no model weights, only ema"):
        public.read(saved({"ema": weights}), "model")


def test_safetensors_are_read(weights, tmp_path):
    save_file(weights, tmp_path / "x.safetensors")
    same(flat(public.read(tmp_path / "x.safetensors")), weights)


def test_what_a_file_says_of_itself_must_be_json(weights, tmp_path):
    save_file(weights, tmp_path / "x.safetensors", metadata={export.SAID[0]: "{"})
    with pytest.raises(ReedError, match="x.safetensors cannot be read: .*not JSON"):
        public.read(tmp_path / "x.safetensors")


class Stranger:
    """Neither plain nor argparse.Namespace."""


class Runs:
    """A pickle that would run a command."""

    def __reduce__(self):
        return (print, ("code has run",))


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (Stranger(), "Stranger"),
        (Runs(), "print"),
        (argparse.ArgumentParser, "ArgumentParser"),
        (SimpleNamespace(a=1), "SimpleNamespace"),
        (Path(), "pathlib"),
    ],
)
def test_other_objects_are_refused_by_name(weights, saved, thing, name, capsys):
    with pytest.raises(ReedError, match=name) as caught:
        public.read(saved({"ema": weights, "args": thing}))
    assert "\n" not in str(caught.value) and "code has run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ([1, 2], "holds list, not a table of tensors"),
        ({}, "holds no weights, but nothing"),
        ({"ema": {"x": 3}}, "holds no weights, but x"),
        ({"x": torch.ones(1), "lr": 0.1}, "holds no weights, but lr"),
        ({"projectors.x.0.weight": torch.ones(1)}, "not part of a projector"),
        (
            {
                "blocks.0.a": torch.ones(1),
                "decoder_blocks.0.a": torch.ones(1),
                "blocks.1.a": torch.ones(1),
            },
            "",
        ),
    ],
)
def test_what_are_no_weights_is_refused(saved, content, part):
    if not part:
        content = {"ema": content, "args": {"encoder_depth": 1}}
        part = "decoder_blocks.0 would become blocks.1.a, which is there too"
    with pytest.raises(ReedError, match=part):
        public.read(saved(content))


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.safetensors", "x.ckpt"])
def test_damaged_and_absent_files_are_named(tmp_path, name):
    for content in (None, b"", b"hello", b"PK\3\4rubbish", b"\x80\x02}q"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ReedError, match=name) as caught:
            public.read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_keys_that_do_not_fit_are_listed(weights, saved):
    weights["extra.weight"] = weights.pop("x_embedder.proj.bias")
    weights["pos_embed"] = weights["pos_embed"][:, :4]
    model = aligned()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ReedError) as caught:
        public.start_from(model, saved(weights))
    for part in (
        "missing (x_embedder.proj.bias)",
        "unexpected (extra.weight)",
        "shape (pos_embed ",
    ):
        assert part in str(caught.value)
    same(model.state_dict(), before)


def test_projectors_that_do_not_fit_leave_the_heads_fresh(weights, saved):
    for path in (
        saved({k: v for k, v in weights.items() if not k.startswith("projectors.1")}),
        saved(
            {
                k.replace("projectors.1", "projectors.-")
                .replace("projectors.0", "projectors.1")
                .replace("projectors.-", "projectors.0"): v
                for k, v in weights.items()
            },
            "swapped.pt",
        ),
    ):
        model = aligned()
        before = {name: value.clone() for name, value in model.heads.state_dict().items()}
        assert "do not fit the 2 heads, which start fresh" in public.start_from(model, path)[-1]
        same(model.heads.state_dict(), before)


def small_original():
    return SiT(replace(CONFIG, hidden_size=32, depth=2))


def test_fused_variances_are_dropped(original, saved):
    read = public.read(saved(under(original, "orig/")))
    assert read.origin == "sit or dit"
    for name, value in under(original, "conv/").items():
        assert torch.equal(read.net[name], value), name
    net = small_original()
    checkpoint.load_strict(net, read.net, "it")
    said = public.start_from(AlignedNet(small_original(), {}), read.path)
    assert "another convention" in said[1] and len(said) == 2


@torch.no_grad()
def test_an_original_sit_runs_on_our_time(original, saved):
    path = saved(under(original, "orig/"))
    drawn = Sampler.of_weights(public.read(path, convention="sit"), heads=4)
    x, t, y = (original[f"in/{name}"] for name in "xty")
    ours = drawn.net(x, 1 - t, y)[0]
    torch.testing.assert_close(ours, -original["out/v_original"], rtol=0, atol=5e-6)
    assert drawn.fields["x"].shape == (8, 8, 8) and drawn.domain.classes == 10


@pytest.mark.parametrize(
    ("model", "convention", "part"),
    [
        ("", "auto", "give --convention sit"),
        ("DiT-XL/2", "auto", "predicts noise"),
        ("SiT-XL/2", "dit", "predicts noise"),
        ("SiT-XL/2", "sti", "Did you mean 'sit'"),
    ],
)
def test_what_predicts_no_velocity_is_not_sampled(original, saved, model, convention, part):
    path = saved({"ema": under(original, "orig/"), "args": argparse.Namespace(model=model)})
    with pytest.raises(ReedError, match=part):
        Sampler.of_weights(public.read(path, convention=convention), heads=4)


@pytest.mark.parametrize(
    ("args", "part"),
    [
        ({}, "use --heads"),
        ({"num_classes": 4}, "11 label rows for 4 classes"),
        ({"path_type": "VP"}, "path VP"),
        ({"prediction": "noise"}, "predicts noise"),
    ],
)
def test_what_cannot_be_told_is_asked_for(weights, saved, args, part):
    with pytest.raises(ReedError, match=part):
        Sampler.of_weights(public.read(saved({"ema": weights, "args": args})))


def test_the_shape_of_the_net_is_told_by_its_weights(weights, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"pos_embed": weights["pos_embed"]}, path)
    with pytest.raises(ReedError, match=r"is not a SiT; missing: x_embedder.proj.weight"):
        Sampler.of_weights(public.read(path))
    save_file(under(load("sit_tiny_qknorm"), "sd/"), path)
    drawn = Sampler.of_weights(public.read(path))  # the heads by the width of q_norm
    assert drawn.net.config == replace(CONFIG, qk_norm=True)
    for name in ("SiT-S/4", "SiT-XL/8"):
        config = replace(sit_config(name), depth=1, in_channels=16, null_class=False)
        with torch.device("meta"):
            net = SiT(config).state_dict()
        read = public.PublicWeights(path, net, {}, "repa", "ema", {"num_classes": 1000}, None)
        settings = read.settings()
        assert settings["net_settings"]["num_heads"] == config.num_heads
        assert settings["label_dropout"] == 0 and settings["classes"] == 1000
        assert read.fields(1, 0)["x"].shape == (32, 32, 32)


def test_the_layout_has_the_published_keys_and_shapes():
    known = json.loads((GOLDEN / "state_dict_keys.json").read_text())
    for entry, name, widths in (
        ("repa_SiT-B_2", "SiT-B/2", [768]),
        ("reed_SiT-XL_2_dinov2b_qwen7b", "SiT-XL/2", [768, 3584]),
    ):
        with torch.device("meta"):
            net = SiT(sit_config(name))
            heads = [projector(net.config.hidden_size, 2048, width) for width in widths]
        written = export.layout(net.state_dict(), [head.state_dict() for head in heads])
        shapes = {name: list(value.shape) for name, value in written.items()}
        assert shapes == dict(known[entry]["keys"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TINY.build(tmp_path_factory.mktemp("tiny") / "cache")


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return TINY.trained(TINY.settings(cache, folder, steps=3, every={"save": 2}))


def call(command, *words):
    return CliRunner().invoke(command.main, [str(word) for word in words])


@pytest.mark.parametrize("name", ["x.pt", "deep/x.pth", "x.safetensors"])
@pytest.mark.parametrize("ema", [True, False])
def test_what_is_exported_is_read_back(run, tmp_path, name, ema):
    out = tmp_path / name
    words = ["--ema" if ema else "--no-ema", "--step", 2]
    found = call(cli_train, "export", run, "--out", out, *words)
    assert found.exit_code == 0 and f"{out}: step 2" in found.stdout, found.output
    read, stored = public.read(out), checkpoint.load(run, 2)
    net = stored.ema if ema else under(stored.model, "net.")
    same(read.net, net)
    for i, target in enumerate(("digits-vit", "caption-ngrams")):
        same(read.projectors[i], under(stored.model, f"heads.{target}."))
    assert (read.steps, len(read.projectors), read.args["num_heads"]) == (2, 2, 2)
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    if ema and out.suffix != ".safetensors":
        same(public.read(out, "model").net, under(stored.model, "net."))
        assert torch.load(out, weights_only=True).keys() == {"model", "ema", "steps", "args"}


def test_export_names_what_is_wrong(run, tmp_path):
    for words, part in (
        (
            [run, "--out", tmp_path / "x.bin"],
            "must end in .pt, .pth or .safetensors, not in '.bin'",
        ),
        (
            [run, "--out", tmp_path / "x.ckpt"],
            "must end in .pt, .pth or .safetensors, not in '.ckpt'",
        ),
        ([run, "--out", tmp_path / "x.pt", "--step", 9], "no checkpoint of step 9"),
        ([tmp_path, "--out", tmp_path / "x.pt"], "no checkpoint yet"),
    ):
        found = call(cli_train, "export", *words)
        assert found.exit_code == 2 and part in found.stderr and found.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.json"
    path.write_text(json.dumps(TINY.TABLE))
    return path


def test_a_run_starts_from_a_file(run, cache, recipe, tmp_path):
    start, folder = tmp_path / "start.pt", tmp_path / "run"
    export.write(run, start)
    words = ["--shards", cache, "--config", recipe, "--run", folder, "--init", start]
    words += ["--set", "optim.lr=0"]
    found = call(cli_train, *words, "--dry-run")
    assert found.exit_code == 0 and "ema weights" in found.stderr and not folder.exists()
    assert json.loads(found.stdout)["init"] == str(start)
    found = call(cli_train, *words, "--set", "steps=1")
    assert found.exit_code == 0, found.output
    assert "ema weights (repa)" in found.stderr and "projectors go to digits-vit" in found.stderr
    ours, theirs = checkpoint.load(folder), checkpoint.load(run)
    same(ours.ema, theirs.ema)
    same(under(ours.model, "net."), theirs.ema)
    same(under(ours.model, "heads."), under(theirs.model, "heads."))
    start.unlink()  # it is for the first step: a rerun does not read it
    found = call(cli_train, *words, "--set", "steps=2")
    assert found.exit_code == 0 and "starting from" not in found.stderr, found.output
    found = call(cli_train, *words, "--init", run, "--set", "steps=2")
    assert found.exit_code == 2 and "init" in found.stderr


def test_a_run_starts_from_a_run(run, cache, tmp_path):
    settings = TINY.settings(cache, tmp_path, steps=1, init=str(run), optim={"lr": 0.0})
    same(checkpoint.load(TINY.trained(settings)).ema, checkpoint.load(run).ema)


def test_an_init_that_does_not_fit_leaves_no_run(run, cache, recipe, tmp_path):
    words = ["--shards", cache, "--config", recipe, "--run", tmp_path / "run", "--init", run]
    words += ["--set", "domain.net_settings.depth=2", "--set", "curriculum.caption-ngrams=0"]
    for more in ([], ["--dry-run"]):
        found = call(cli_train, *words, *more)
        assert found.exit_code == 2 and "unexpected (blocks.2." in found.stderr, found.output
        assert found.stderr.count("\n") == 1 and not (tmp_path / "run").exists()


def test_samples_of_an_exported_run_are_those_of_the_run(run, tmp_path):
    export.write(run, tmp_path / "x.safetensors")
    words = ["--num", 3, "--steps", 2, "--guidance", 1.5, "--device", "cpu"]
    found = call(cli_sample, "--checkpoint", tmp_path / "x.safetensors", *words)
    assert found.exit_code == 0, found.output  # an export of pixels asked for an autoencoder
    other = call(cli_sample, "--checkpoint", tmp_path / "x.safetensors", *words, "--scale", 2)
    assert other.exit_code == 2 and "states its scale and shift" in other.stderr
    with np.load(tmp_path / "samples" / "x-euler2-cfg1.5-fp32.npz") as file:
        x, label = file["arr_0"], file["arr_1"]
    assert x.shape == (3, 8, 8, 4) and label.tolist() == [0, 1, 2]
    drawn = Sampler.of_run(run, precision="fp32")
    options = SampleOptions("euler", 2, Guidance(1.5))
    values = drawn.draw(3, options, batch=3, progress=False)["x"]
    np.testing.assert_array_equal(x, to_uint8(values, drawn.fields["x"]))


def test_what_to_draw_from_is_asked_for(run, tmp_path):
    for words in ([], ["--run", run, "--checkpoint", tmp_path / "x.pt"]):
        found = call(cli_sample, *words)
        assert found.exit_code == 2 and "--run DIR or --checkpoint FILE" in found.stderr
    found = call(cli_sample, "--checkpoint", tmp_path / "x.pt", "--step", 3)
    assert found.exit_code == 2 and "--step belongs to --run" in found.stderr
    found = call(cli_sample, "--checkpoint", tmp_path / "x.pt")
    assert found.exit_code == 2 and found.stderr == (
        f"Error: there is no checkpoint at {tmp_path / 'x.pt'}\n"
    )


def test_an_ordered_dict_and_a_parameter_are_weights(weights, saved):
    content = collections.OrderedDict((k, nn.Parameter(v)) for k, v in weights.items())
    same(flat(public.read(saved(content))), weights)
