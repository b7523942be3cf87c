"""What other trainers have cached becomes a cache, with the values that their own readers see."""

from __future__ import annotations

import gc
import io
import json
import runpy
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import webdataset
from click.testing import CliRunner
from PIL import Image as Pillow
from safetensors.torch import save_file

import reed
from reed import config
from reed.build.shard import BadSample
from reed.cli.train import main as train_cli
from reed.encoders import ENCODERS
from reed.errors import ReedError
from reed.sources.image.cached import Cached

COMMANDS = runpy.run_path(str(Path(__file__).with_name("commands.py")))
run, refused = COMMANDS["run"], COMMANDS["refused"]


def draws(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def lightningdit(root: Path) -> None:
    """Two files of 6 and 4 samples as extract_features.py writes them, and the statistics."""
    root.mkdir()
    for shard, count in ((0, 6), (1, 4)):
        z, flipped = (draws(count, 8, 4, 4, seed=2 * shard + i) for i in (0, 1))
        tensors = {
            "latents": torch.from_numpy(z),
            "latents_flip": torch.from_numpy(flipped),
            "labels": torch.arange(count) + 10 * shard,
        }
        about = {"total_size": f"{count}", "dtype": "torch.float32", "device": "cpu"}
        save_file(tensors, root / f"latents_rank00_shard{shard:03d}.safetensors", metadata=about)
    mean, std = draws(1, 8, 1, 1, seed=7), np.exp(draws(1, 8, 1, 1, seed=8))
    stats = {"mean": torch.from_numpy(mean), "std": torch.from_numpy(std)}
    torch.save(stats, root / "latents_stats.pt")


def test_safetensors_of_lightningdit(tmp_path):
    data, cache = tmp_path / "theirs", tmp_path / "cache"
    lightningdit(data)
    words = ("--layout", "lightningdit", "--stats", data / "latents_stats.pt")
    told = run("import", cache, data, *words, "--codec", "float32", "--licence", "MIT")
    assert "10 samples, each mirrored" in told and "latents/latents [8, 4, 4]" in told
    with reed.open_cache(cache) as opened:
        field = opened.column("latents").field("latents")
        assert field.kind == "data" and opened.column("latents").licence == "MIT"
        stats = torch.load(data / "latents_stats.pt", weights_only=True)
        for shard, count in ((0, 6), (1, 4)):
            for row in range(count):
                key = f"latents_rank00_shard{shard:03d}/{row:06d}"
                for view in (0, 1):
                    theirs = draws(count, 8, 4, 4, seed=2 * shard + view)[row]
                    ours = opened.values("latents/latents", view)[key]
                    np.testing.assert_array_equal(ours, theirs)
                    # What their net sees: (latent - mean) / std.
                    shift, scale = (np.reshape(v, (8, 1, 1)) for v in (field.shift, field.scale))
                    want = (theirs - stats["mean"][0].numpy()) / stats["std"][0].numpy()
                    np.testing.assert_allclose((ours - shift) * scale, want, rtol=1e-5, atol=1e-6)
                assert opened["labels/label"][key] == row + 10 * shard
    again = run("import", cache, data, *words, "--codec", "float32", "--licence", "MIT")
    assert again.splitlines()[-1] == told.splitlines()[-1]
    assert "0 problems" in run("verify", cache, "--deep")


def mar(root: Path) -> dict[str, np.ndarray]:
    """Three images as MAR's cache_latents writes them: the file keeps the image's name."""
    values = {}
    for number, name in enumerate(("n01/a.JPEG", "n02/b.JPEG", "n02/c.JPEG")):
        path = root / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        values[name] = both = draws(2, 8, 4, 4, seed=number)
        np.savez(path, moments=both[0], moments_flip=both[1])
    return values


def test_npz_of_mar(tmp_path):
    data, cache = tmp_path / "theirs", tmp_path / "cache"
    values = mar(data)
    told = run("import", cache, data, "--layout", "mar", "--scale", "0.2325", "--codec", "float32")
    assert "3 samples, each mirrored" in told
    with reed.open_cache(cache) as opened:
        assert opened.classes == ("n01", "n02")
        assert opened.column("latents").field("latents").scale == (0.2325,)
        for key, both in values.items():
            for view in (0, 1):
                mean, log_variance = both[view][:4], both[view][4:]
                want = np.concatenate([mean, np.exp(0.5 * log_variance)])
                ours = opened.values("latents/latents", view)[key]
                np.testing.assert_allclose(ours, want, rtol=1e-6)
            assert opened["labels/label"][key] == int(key.startswith("n02"))

    # Numbers of classes that are frozen stay.
    (data / "n00").mkdir()
    assert Cached(data, classes=("n01", "n02")).listing().classes == ("n01", "n02", "n00")


def repa_h5(root: Path) -> dict[str, np.ndarray]:
    """Images and latents of REPA's zips as REPA-E's script writes them to HDF5."""
    root.mkdir()
    values, labels = {}, []
    with (
        h5py.File(root / "images.h5", "w") as images,
        h5py.File(root / "vae-sd.h5", "w") as latents,
    ):
        for number in range(3):
            folder, key = "00000", f"00000/img{number:08d}"
            values[key] = np.abs(draws(8, 4, 4, seed=number))
            buffer = io.BytesIO()
            picture = np.full((32, 32, 3), number, np.uint8)
            Pillow.fromarray(picture).save(buffer, "png")
            images.create_dataset(f"{key}.png", data=np.array(buffer.getvalue(), dtype="S"))
            name = f"{folder}/img-mean-std-{number:08d}.npy"
            latents.create_dataset(name, data=values[key])
            labels.append([name, number + 5])
        text = json.dumps({"labels": labels}).encode()
        latents.create_dataset("dataset.json", data=np.array(text, dtype="S"))
    for file in ("images", "vae-sd"):
        (root / f"{file}_h5.json").write_text("[]")
    return values


def test_hdf5_of_repa_e(tmp_path):
    data, cache = tmp_path / "theirs", tmp_path / "cache"
    values = repa_h5(data)
    run("import", cache, data, "--layout", "repa-h5", "--codec", "float32")
    with reed.open_cache(cache) as opened:
        assert opened.column("latents").field("latents").scale == (0.18215,)
        assert set(opened["latents/latents"]) == set(values)
        for number, (key, moments) in enumerate(values.items()):
            np.testing.assert_array_equal(opened["latents/latents"][key], moments)
            assert opened["labels/label"][key] == number + 5
    source = Cached(data)
    assert source.entries == ("image", "moments", "label")
    assert (source.read("00000/img00000002")["image"] == 2).all()
    with h5py.File(data / "other.h5", "w"):
        pass
    with pytest.raises(ReedError, match="has 2 files of latents; one is.*other, vae-sd"):
        Cached(data, "repa-h5").listing()
    assert len(Cached(data, "repa-h5", "vae-sd").listing()) == 3


def df(root: Path) -> None:
    """Two tars with the members that DINO Forcing's loader asks for."""
    root.mkdir()
    for shard in (0, 1):
        with webdataset.TarWriter(str(root / f"{shard:05d}.tar")) as tar:
            for row in range(5):
                number = 5 * shard + row
                sample = {
                    "__key__": f"{number:09d}",
                    "vae_embeddings_mean_256.npy": draws(4, 8, 8, seed=number).astype(np.float16),
                    "vae_embeddings_std_256.npy": np.abs(draws(4, 8, 8, seed=100 + number)),
                    "dino_features.npy": draws(16, 6, seed=200 + number),
                    "json": {"class_idx": number % 3},
                }
                tar.write(sample)


# webdataset leaves its tars open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tars_of_dino_forcing(tmp_path):
    data, cache = tmp_path / "theirs", tmp_path / "cache"
    df(data)
    told = run("import", cache, data, "--layout", "webdataset", "--codec", "float32")
    assert "tokens/tokens [16, 6]" in told and "latents/latents [8, 8, 8]" in told

    # What their loader reads is what the cache has.
    tars = sorted(str(path) for path in data.glob("*.tar"))
    theirs = webdataset.WebDataset(tars, shardshuffle=False).decode()
    with reed.open_cache(cache) as opened:
        assert len(opened.plan.keys) == 10
        for sample in theirs:
            key, moments = sample["__key__"], opened["latents/latents"][sample["__key__"]]
            np.testing.assert_array_equal(moments[:4], sample["vae_embeddings_mean_256.npy"])
            np.testing.assert_array_equal(moments[4:], sample["vae_embeddings_std_256.npy"])
            assert opened["labels/label"][key] == sample["json"]["class_idx"]
            features = sample["dino_features.npy"].astype(np.float16)
            np.testing.assert_array_equal(opened["tokens/tokens"][key], features)

    del theirs
    gc.collect()

    # The pipeline's recipe trains on it.
    small = {"size": '""', "net_settings": "{patch_size=2,hidden_size=32,depth=2,num_heads=2}"}
    sets = [f"domain.{name}={value}" for name, value in small.items()]
    sets += ["steps=2", "batch=4", "align.tokens.tap=1", "align.tokens.hidden=16"]
    words = ["--shards", str(cache), "--run", str(tmp_path / "run")]
    done = CliRunner().invoke(train_cli, words + [w for each in sets for w in ("--set", each)])
    assert done.exit_code == 0, (done.output, done.exception)


def member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))


def test_samples_that_are_none_fail_alone(tmp_path):
    data = tmp_path / "theirs"
    df(data)

    def npy(array) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    good = {"vae_embeddings_mean_256.npy": npy(draws(4, 8, 8))}
    good |= {"vae_embeddings_std_256.npy": npy(np.abs(draws(4, 8, 8)))}
    good |= {"dino_features.npy": npy(draws(16, 6)), "json": b'{"class_idx": 1}'}
    with tarfile.open(data / "00002.tar", "w") as tar:
        for key, name, content in (
            ("w", "json", b'{"class_idx": null}'),
            ("x", "dino_features.npy", npy(draws(6))),
            ("y", "vae_embeddings_std_256.npy", npy(-np.ones((4, 8, 8)))),
            ("z", "vae_embeddings_mean_256.npy", npy(np.full((4, 8, 8), np.nan))),
            ("v", "vae_embeddings_mean_256.npy", b"none"),
        ):
            for ending, value in (good | {name: content}).items():
                member(tar, f"{key}.{ending}", value)
        member(tar, "u.vae_embeddings_mean_256.npy", good["vae_embeddings_mean_256.npy"])
    source = Cached(data)
    source.listing()
    for key, reason in {
        "w": "no integer class_idx",
        "x": "features are of shape .6.",
        "y": "deviation is negative",
        "z": "moments are not finite",
        "v": "is no array",
        "u": "has no vae_embeddings_std_256.npy",
    }.items():
        with pytest.raises(BadSample, match=reason):
            source.read(key)
    (tmp_path / "mar" / "n01").mkdir(parents=True)
    (tmp_path / "mar" / "n01" / "a.npz").write_bytes(b"none")
    with pytest.raises(BadSample, match="no sound moments in a.npz: File is not a zip file"):
        Cached(tmp_path / "mar").read("n01/a")
    assert "can be read: n01/a: no sound" in refused(
        "import", tmp_path / "c", tmp_path / "mar", "--layout", "mar"
    )


def test_encoders_that_copy_check_their_shapes(tmp_path):
    for name, entry in (("latents-import", "moments"), ("tokens-import", "features")):
        encoder = config.build(ENCODERS.get(name), {})
        with pytest.raises(BadSample, match="set the column to what the source has"):
            encoder.encode([{entry: np.zeros((2, 2, 2), np.float32)}])
    with pytest.raises(ReedError, match="unknown kind 'draw'"):
        config.build(ENCODERS.get("latents-import"), {"kind": "draw"})
    where = {"stats": str(tmp_path / "s.pt")}
    for stats, problem in (({"mean": torch.ones(3)}, "no tensors"), ({}, "no tensors")):
        torch.save(stats, tmp_path / "s.pt")
        with pytest.raises(ReedError, match=problem):
            assert config.build(ENCODERS.get("latents-import"), where).fields
    torch.save({"mean": torch.ones(3), "std": torch.ones(3)}, tmp_path / "s.pt")
    with pytest.raises(ReedError, match="3 means and 3 deviations, latents have 4 channels"):
        assert config.build(ENCODERS.get("latents-import"), where).fields


def test_folders_that_cannot_be_imported_are_one_line(tmp_path):
    data = tmp_path / "theirs"
    data.mkdir()
    for layout, part in {"lightningdit": "no samples of the layout", "mar": "no samples"}.items():
        assert part in refused("import", tmp_path / "c", data, "--layout", layout)
    with pytest.raises(ReedError, match="has no files of a known layout"):
        Cached(data).listing()
    with pytest.raises(ReedError, match="with --data"):
        Cached().listing()
    with pytest.raises(ReedError, match="is no folder"):
        Cached(data / "x").listing()
    with pytest.raises(ReedError, match="unknown layout 'mra'. Did you mean 'mar'?"):
        Cached(data, "mra").listing()
    save_file({"latents": torch.zeros(2, 4, 4, 4)}, data / "a.safetensors")
    assert "latents_flip" in refused("import", tmp_path / "c", data, "--layout", "lightningdit")
    two, three = torch.zeros(2, 4, 4, 4), torch.zeros(3)
    save_file({"latents": two, "latents_flip": two + 1, "labels": three}, data / "a.safetensors")
    told = refused("import", tmp_path / "c", data, "--layout", "lightningdit")
    assert "2 latents, 2 latents_flip, 3 labels" in told
    (data / "a.safetensors").unlink()
    (data / "a.h5").write_bytes(b"none")
    assert "as HDF5" in refused("import", tmp_path / "c", data, "--layout", "repa-h5")
    (data / "a.tar").write_bytes(b"none" * 200)
    assert "cannot read the tar" in refused(
        "import", tmp_path / "c", data, "--layout", "webdataset"
    )
    with webdataset.TarWriter(str(data / "a.tar")) as tar:
        tar.write({"__key__": "a", "json": {"class_idx": 1}})
    told = refused("import", tmp_path / "c", data, "--layout", "webdataset")
    assert "has latents of the sizes none" in told
    assert "is of --layout" in refused("import", tmp_path / "c" / "d", data, "--scale", "2")
