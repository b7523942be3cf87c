"""Folders of transformers with image models: every usual file of weights, and what is wrong."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from reed import stage_one, weights
from reed.encoders import ENCODERS
from reed.encoders import pretrained as pre
from reed.errors import ReedError
from reed.weights import Origin

SWEEP = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("transformers_sweep.py"))))


vit, copy = SWEEP.vit, SWEEP.copy


def tokens_of(folder: Path, **options) -> np.ndarray:
    return SWEEP.loaded(folder, grid=4, **options).encode([{"image": SWEEP.photograph(64)}])[
        "tokens"
    ]


def test_weights_of_every_usual_file_give_the_same_tokens(vit, copy):
    """One file, several, and the .bin of models that nobody has converted; half precision."""
    want = tokens_of(copy)
    model = AutoModel.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    SWEEP.save(model, copy, max_shard_size="10kB")
    assert len(list(copy.glob("*.safetensors"))) > 1
    np.testing.assert_array_equal(tokens_of(copy), want)

    for path in copy.glob("model*"):
        path.unlink()
    torch.save(model.state_dict(), copy / "pytorch_model.bin")
    torch.save({"lr": 1}, copy / "training_args.bin")  # beside it in many folders
    np.testing.assert_array_equal(tokens_of(copy), want)
    names = list(model.state_dict())
    parts = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
    for name, keys in parts.items():
        torch.save({key: model.state_dict()[key] for key in keys}, copy / name)
    (copy / "pytorch_model.bin").unlink()
    index = {key: name for name, keys in parts.items() for key in keys}
    text = json.dumps({"metadata": {}, "weight_map": index})
    (copy / "pytorch_model.bin.index.json").write_text(text)
    np.testing.assert_array_equal(tokens_of(copy), want)

    for path in copy.glob("pytorch_model*"):
        path.unlink()
    save_file({k: v.half() for k, v in model.state_dict().items()}, copy / "model.safetensors")
    half = tokens_of(copy)
    assert half.dtype == np.float32 and 0 < np.abs(half - want).max() < 0.02


def test_the_hub_is_asked_for_pickles_only_if_there_are_no_others(tmp_path, monkeypatch):
    asked = []

    class Hub:
        def snapshot_download(self, repo, allow_patterns, **more):
            asked.append(allow_patterns)
            if "pytorch_model*.bin" in allow_patterns:
                (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
            (tmp_path / "config.json").write_text("{}")
            return str(tmp_path)

    monkeypatch.setattr(weights, "library", lambda name: Hub())
    monkeypatch.setattr(weights.hub, "unreachable", lambda: "")
    found = weights.prefetch("x", pre.origin_of("owner/old"))
    assert asked == [list(pre.FILES), list(pre.OLD_FILES)]
    assert [path.name for path in found.files] == ["pytorch_model.bin"]
    with pytest.raises(ReedError, match="lacks some of"):
        weights.prefetch("x", Origin("owner/old", files=("*.safetensors",)))


def test_a_processor_of_an_old_format_is_read(copy):
    old = {"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 2}
    old |= {
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.4] * 3,
        "image_std": [0.2] * 3,
    }
    (copy / "preprocessor_config.json").write_text(json.dumps(old))
    encoder = SWEEP.encoder_of(copy, grid=4)
    x = encoder._preprocessed(torch.full((1, 3, 32, 32), 51, dtype=torch.uint8))
    torch.testing.assert_close(x, torch.full((1, 3, 32, 32), -1.0))


def test_the_processor_may_be_part_of_another_or_lack_its_name(copy):
    want, path = tokens_of(copy), copy / "preprocessor_config.json"
    said = json.loads(path.read_text())
    path.unlink()
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": said}))
    np.testing.assert_array_equal(tokens_of(copy), want)
    (copy / "processor_config.json").unlink()
    kind = said.pop("image_processor_type")
    path.write_text(json.dumps(said))
    np.testing.assert_array_equal(tokens_of(copy), want)

    for wrong, text in (
        ({"image_processor_type": "None such"}, "Unrecognized image processor .* …; restore"),
        ({"image_processor_type": kind, "resample": 5}, r"cannot be an encoder: .*hamming"),
        ({"image_processor_type": kind, "resample": 9}, "resample=9, which is no filter"),
    ):
        path.write_text(json.dumps(said | wrong))
        with pytest.raises(ReedError, match=text) as error:
            SWEEP.encoder_of(copy).fields  # noqa: B018, finding them opens the files
        assert "\n" not in str(error.value)


def test_a_folder_without_a_processor_is_one_line(copy):
    (copy / "preprocessor_config.json").unlink()
    text = "has no preprocessor_config.json or processor_config.json; copy it there"
    with pytest.raises(ReedError, match=text) as error:
        SWEEP.encoder_of(copy).fields  # noqa: B018, finding them opens the files
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_settings_that_are_none_are_one_line(name, copy):
    for text, problem in (("{", "cannot read .*{}.*; restore"), ("[]", "{} holds list, not sett")):
        (copy / name).write_text(text)
        with pytest.raises(ReedError, match=problem.format(re.escape(f"{copy.name}/{name}"))):
            SWEEP.encoder_of(copy).fields  # noqa: B018, finding them opens the files


def test_a_folder_without_settings_of_the_model_is_one_line(copy):
    (copy / "config.json").unlink()
    with pytest.raises(ReedError, match="has no config.json; copy it there from the repository"):
        SWEEP.encoder_of(copy).fields  # noqa: B018, finding them opens the files


def test_only_the_weights_that_transformers_opens_can_be_named(copy):
    """The revision has the hash of the named file, so that another one must not be loaded."""
    want, usual, other = tokens_of(copy), copy / "model.safetensors", copy / "other.safetensors"
    np.testing.assert_array_equal(tokens_of(copy, weights=str(usual)), want)
    save_file({k: 2 * v for k, v in load_file(usual).items()}, other, {"format": "pt"})
    with pytest.raises(ReedError, match="opens model.safetensors in .*, not other.safetensors"):
        SWEEP.loaded(copy, weights=str(other))
    usual.unlink()
    with pytest.raises(ReedError, match="has neither model.safetensors, .*; rename other.safe"):
        SWEEP.loaded(copy)

    other.unlink()
    SWEEP.save(AutoModel.from_config(AutoConfig.from_pretrained(copy)), copy, max_shard_size="10kB")
    part = min(copy.glob("*.safetensors"))
    with pytest.raises(ReedError, match="opens model.safetensors.index.json in .*, not model-0"):
        SWEEP.loaded(copy, weights=str(part))


def test_code_in_a_folder_is_never_run(copy, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda text="": pytest.fail("it asks on the terminal"))
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {n: f"m.{n}" for n in ("AutoConfig", "AutoModel")}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "m.py").write_text("raise SystemExit('run')")
    text = "is code that comes with its files, and reed does not run it; choose a model"
    with pytest.raises(ReedError, match=text):
        SWEEP.encoder_of(copy).fields  # noqa: B018, finding them opens the files


def test_settings_that_make_no_model_are_one_line(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"hidden_act": "none such"}))
    with pytest.raises(ReedError, match="transformers makes no model of .*config.json: "):
        SWEEP.encoder_of(copy).fields  # noqa: B018, finding them opens the files


def test_weights_of_another_model_are_one_line(copy):
    state = load_file(copy / "model.safetensors")
    save_file({f"x.{k}": v for k, v in state.items()}, copy / "model.safetensors")
    with pytest.raises(ReedError, match=r"lacks \d+ weights of ViTModel"):
        SWEEP.loaded(copy)


def test_a_pooler_without_weights_is_not_used(tmp_path):
    SWEEP.written("hiera", tmp_path)
    SWEEP.fill(tmp_path)
    image = {"image": SWEEP.photograph(224)}
    own = SWEEP.loaded(tmp_path, grid=7).encode([image])
    state = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in state.items() if "pooler" not in key}
    assert len(kept) < len(state)
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    mean = SWEEP.loaded(tmp_path, grid=7).encode([image])
    np.testing.assert_array_equal(mean["tokens"], own["tokens"])
    np.testing.assert_allclose(mean["pooled"], own["tokens"].mean(1), atol=1e-5)
    assert np.abs(mean["pooled"] - own["pooled"]).max() > 1e-3


def test_another_number_of_tokens_than_on_meta_is_an_error(vit, monkeypatch):
    encoder = SWEEP.encoder_of(vit, grid=4)
    layout, _, processor = encoder._of_files
    encoder._known = layout, 5, processor
    with pytest.raises(ReedError, match="tokens and vector are"):
        encoder.load("cpu")


def test_processor_that_cuts_is_refused(vit, monkeypatch):
    encoder = SWEEP.encoder_of(vit, grid=4)
    layout, width, _ = encoder._of_files
    encoder._known = layout, width, lambda **given: {"pixel_values": torch.zeros(2, 9)}
    with pytest.raises(ReedError, match=r"its image processor makes pixel_values \[2, 9\] of"):
        encoder._preprocessed(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    encoder._known = layout, width, lambda **given: {}
    with pytest.raises(ReedError, match="makes no pixel_values of images"):
        encoder._preprocessed(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_a_name_is_a_repository_or_a_path(vit, tmp_path):
    encoder = stage_one.make_encoder("transformers:owner/name@abc", tmp_path, {})
    assert (encoder.origin.repo, encoder.origin.revision) == ("owner/name", "abc")
    assert encoder.licence == "as stated for owner/name"
    for name in ("vit", "a/b/c"):
        with pytest.raises(ReedError, match="is neither OWNER/NAME of the hub nor a path"):
            ENCODERS.get(f"transformers:{name}")


def test_the_revision_follows_the_processor_and_the_grid(copy):
    first = SWEEP.encoder_of(copy, grid=4).revision()
    assert re.fullmatch(r"\S+ 32px fp32 transformers-\S+ torchvision-\S+", first)
    assert SWEEP.encoder_of(copy, grid=4).revision() == first
    assert SWEEP.encoder_of(copy, grid=8).revision() != first
    config = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps(config | {"image_mean": [0.1] * 3}))
    assert SWEEP.encoder_of(copy, grid=4).revision() != first


def test_precisions_are_near_each_other(vit):
    want = tokens_of(vit)
    low = tokens_of(vit, precision="bf16")
    assert low.dtype == np.float32 and 0 < np.abs(low - want).max() < 0.1
    with pytest.raises(ReedError, match="precision cannot be 'fp8'"):
        SWEEP.encoder_of(vit, precision="fp8")
