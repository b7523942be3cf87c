"""Files of another trainer that are damaged or unusual: nothing is lost in silence."""

from __future__ import annotations

import io
import json
import math
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import reed
from reed import config
from reed.build.shard import BadSample
from reed.cli.cache import main as cli
from reed.encoders import ENCODERS
from reed.errors import ReedError
from reed.metrics import image_tars
from reed.sources.image.cached import Cached

MEAN, STD = "vae_embeddings_mean_256.npy", "vae_embeddings_std_256.npy"
ONES = np.ones((4, 2, 2), np.float32)


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def sample(key: str, **other: bytes | None) -> dict[str, bytes]:
    """Return the members of a sample of a tar, of which some are others, or None for none."""
    members = {MEAN: npy(ONES), STD: npy(ONES), "json": b'{"class_idx": 1}'}
    members |= {{"mean": MEAN, "std": STD}.get(name, name): v for name, v in other.items()}
    return {f"{key}.{ending}": data for ending, data in members.items() if data is not None}


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            file.addfile(about, io.BytesIO(data))
    return path


def listed(data: Path, layout: str = "") -> Cached:
    source = Cached(data, layout)
    source.listing()
    return source


def test_a_tar_that_breaks_off_is_not_half_a_tar(tmp_path):
    path = tar(tmp_path / "a.tar", {n: d for i in range(4) for n, d in sample(f"{i}").items()})
    whole = path.read_bytes()
    with tarfile.open(path) as file:
        header = file.getmembers()[6].offset
    damaged = bytearray(whole)
    damaged[header + 150] ^= 1
    for content in (whole[:header], whole[: header + 100], bytes(damaged)):
        path.write_bytes(content)
        with pytest.raises(ReedError, match=f"breaks off after {header} bytes; fetch it again"):
            listed(tmp_path)
    path.write_bytes(whole[: header + 700])
    with pytest.raises(ReedError, match="unexpected end of data"):
        listed(tmp_path)


def test_a_tar_of_images_that_breaks_off_is_not_measured(tmp_path):
    path = tar(tmp_path / "a.tar", {f"{i}.png": b"x" for i in range(4)})
    assert len(image_tars.members([path], "images").places) == 4
    path.write_bytes(path.read_bytes()[:2048])
    with pytest.raises(ReedError, match="cannot read images from .*breaks off after 2048 bytes"):
        image_tars.members([path], "images")


def test_a_key_is_the_name_of_one_sample(tmp_path):
    for name in ("a.tar", "b.tar"):
        tar(tmp_path / name, sample("000"))
    with pytest.raises(ReedError, match=r"000\.vae.* is in .*b.tar and .*a.tar; a key is the name"):
        listed(tmp_path)
    h5 = tmp_path / "h5"
    h5.mkdir()
    with h5py.File(h5 / "vae.h5", "w") as file:
        for name in ("0/img-mean-std-01.npy", "0/img01.npy"):
            file.create_dataset(name, data=np.ones((8, 2, 2)))
    with pytest.raises(ReedError, match="two latents, 0/img-mean-std-01.npy and 0/img01.npy"):
        listed(h5)


def test_samples_of_tars_that_lack_something_fail(tmp_path):
    features = npy(np.ones((4, 3), np.float32))
    members = sample("0") | sample("1", **{"dino_features.npy": features})
    members |= sample("2", mean=None) | {"._3.json": b"", "README.txt": b"x", "../4.json": b""}
    members |= sample("a b/é#~1", **{"dino_features.npy": features})
    tar(tmp_path / "a.tar", members)
    source = Cached(tmp_path)
    found = source.listing()
    assert sorted(found) == ["0", "1", "2", "a b/é#~1"] and "features" in source.entries
    names = sorted(name for names in found.passed.values() for name in names)
    assert names == ["README.txt", "a.tar/../4.json", "a.tar/._3.json"]
    with pytest.raises(BadSample, match="has no dino_features.npy"):
        source.read("0")
    with pytest.raises(BadSample, match=f"has no {MEAN}"):
        source.read("2")
    assert source.read("a b/é#~1")["features"].shape == (4, 3)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({"json": b"{nope"}, "its .json is no JSON"),
        ({"json": b"[1]"}, "its .json holds no table, but list"),
        ({"json": b'{"class_idx": -1}'}, "its class is -1, an integer from 0 to 2147483647"),
        ({"json": b'{"class_idx": true}'}, "its class is True"),
        ({"json": b'{"class_idx": 99999999999999999999}'}, "its class is 99999999999999999999"),
        ({"std": npy(ONES[:, :1])}, r"the shapes \[4, 2, 2\] and \[4, 1, 2\]; they must be equal"),
        ({"mean": npy(np.ones((5, 2, 2)))}, r"the shapes \[5, 2, 2\] and \[4, 2, 2\]"),
        ({"mean": npz(a=ONES)}, "is no array"),
        ({"mean": npy(np.array(["a"]))}, "is of type <U1, an array of real numbers is wanted"),
        ({"mean": npy(ONES * 1j)}, "is of type complex"),
        ({"mean": npy(np.float32(1)), "std": npy(np.float32(1))}, r"are of shape \[\]"),
        ({"dino_features.npy": npy(np.ones((2, 4, 3)))}, r"features are of shape \[2, 4, 3\]"),
    ],
)
def test_members_of_tars_that_are_none_fail_alone(tmp_path, other, problem):
    tar(tmp_path / "a.tar", sample("0", **other))
    with pytest.raises(BadSample, match=problem):
        listed(tmp_path).read("0")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (npz(moments=np.float32(1)), r"moments are of shape \[\], .* even number of channels"),
        (npz(moments=np.ones((7, 2, 2))), r"moments are of shape \[7, 2, 2\]"),
        (npz(moments=np.ones((1, 8, 2, 2))), r"are of shape \[1, 8, 2, 2\]"),
        (npz(moments=np.ones((8, 2, 2)) * 1j), "of type complex128"),
        (npz(other=ONES), "no sound moments in a.npz: .*no item named 'moments.npy'"),
        (npy(np.ones((8, 2, 2))), "no sound moments in a.npz"),
        (b"", "no sound moments in a.npz"),
    ],
)
def test_arrays_of_mar_that_are_none_fail_alone(tmp_path, content, problem):
    (tmp_path / "n01").mkdir()
    (tmp_path / "n01" / "a.npz").write_bytes(content)
    with pytest.raises(BadSample, match=problem):
        listed(tmp_path, "mar").read("n01/a")


def test_damaged_bytes_of_mar_fail_alone(tmp_path):
    (tmp_path / "n01").mkdir()
    rng = np.random.default_rng(0)
    whole = bytearray(npz(moments=rng.standard_normal((8, 4, 4))))
    source = Cached(tmp_path, "mar")
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "n01" / "a.npz").write_bytes(damaged)
        try:
            moments = source.read("n01/a")["moments"]
        except BadSample:
            continue
        assert moments.shape == (8, 4, 4)  # a byte that no reader looks at


def test_hidden_folders_are_no_classes(tmp_path):
    good = npz(moments=np.ones((8, 2, 2)), moments_flip=np.ones((8, 2, 2)))
    for name in ("n01/a.npz", ".trash/b.npz", "__MACOSX/n01/c.npz", "top.npz", "n01/notes.txt"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(good)
    words = ["import", tmp_path / "cache", tmp_path / "data", "--layout", "mar"]
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    with reed.open_cache(tmp_path / "cache") as opened:
        assert opened.classes == ("n01",) and dict(opened["labels/label"]) == {"n01/a": 0}
    assert "passed over 4 files" in done.output and "1 sample, each mirrored" in done.output
    (tmp_path / "data/n01/a.npz").rename(tmp_path / "data/n01/z.npz")
    again = CliRunner().invoke(cli, [str(word) for word in words]).output
    assert "--rebuild (--extend and --rebuild are options of reed-cache build cached)" in again


def test_a_sample_that_is_left_out_is_counted(tmp_path):
    latents = torch.ones(8, 4, 2, 2)
    latents[3, 0, 0, 0] = torch.nan
    tensors = {"latents": latents, "latents_flip": torch.zeros(8, 4, 2, 2)}
    (tmp_path / "a b").mkdir()
    save_file(tensors | {"labels": torch.arange(8)}, tmp_path / "a b" / "ü#.safetensors")
    words = ["import", tmp_path / "cache", tmp_path / "a b", "--layout", "lightningdit"]
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == 0 and "8 samples, each mirrored, too, 1 left out" in done.output
    with reed.open_cache(tmp_path / "cache") as opened:
        assert "ü#/000003" not in opened["latents/latents"]
        assert opened["labels/label"]["ü#/000007"] == 7


def test_safetensors_that_do_not_fit_together_are_one_line(tmp_path):
    four, labels = torch.zeros(2, 4, 2, 2), torch.arange(2)
    for latents, flipped, kinds, problem in (
        (four, torch.zeros(2, 4, 1, 1), labels, "latents_flip .2, 4, 1, 1.; write it again"),
        (four, four + 1, labels + 0.7, "labels of type F32; integers are wanted, write"),
        (four, four + 1, torch.eye(2), r"labels \[2, 2\]; \[N, C, h, w\] twice and \[N\]"),
        (torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3), r"has latents \[\]"),
    ):
        tensors = {"latents": latents, "latents_flip": flipped, "labels": kinds}
        save_file(tensors, tmp_path / "a.safetensors")
        with pytest.raises(ReedError, match=problem):
            listed(tmp_path)


def test_hdf5_that_is_not_as_written_is_one_line(tmp_path):
    for number, (text, problem) in enumerate(
        {
            b"{nope": "cannot read the class file .*vae.h5/dataset.json",
            b"[1]": "is not a class file",
            b'{"labels": [["0/img-mean-std-01.npy", 0.7]]}': "is 0.7, not an integer from 0 up",
            b'{"labels": [["0/img-mean-std-01.npy", null]]}': "is None, not an integer from 0 up",
        }.items()
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with h5py.File(folder / "vae.h5", "w") as file:
            file.create_dataset("0/img-mean-std-01.npy", data=np.ones((8, 2, 2)))
            file.create_dataset("dataset.json", data=np.array(text, dtype="S"))
        with pytest.raises(ReedError, match=problem):
            listed(folder)

    # A group in the place of an array, a text, images that are none: only their samples fail.
    folder = tmp_path / "samples"
    folder.mkdir()
    names = [f"0/img-mean-std-{i:02d}.npy" for i in range(5)]
    with h5py.File(folder / "vae.h5", "w") as file, h5py.File(folder / "images.h5", "w") as images:
        for name in names[:3]:
            file.create_dataset(name, data=np.ones((8, 2, 2)))
        file.create_dataset(names[3], data=np.array(b"xx", dtype="S"))
        file.create_dataset(names[4], data=np.ones((7, 2, 2)))
        images.create_group("0/img00.png")
        images.create_dataset("0/img01.png", data=np.ones(4))
        table = {"labels": [[name, 1] for name in names]}
        file.create_dataset("dataset.json", data=np.array(json.dumps(table).encode(), dtype="S"))
        file.create_group("dataset.txt")
        file.create_dataset("notes", data=np.ones(1))
    source = Cached(folder)
    assert source.listing().passed == {"of another kind": ("notes",)}
    for row, problem in enumerate(
        ("images.h5 has no 0/img00.png", "image is of type float64", "images.h5 has no 0/img02.png")
        + ("its moments is of type", r"are of shape \[7, 2, 2\]")
    ):
        with pytest.raises(BadSample, match=problem):
            source.read(f"0/img{row:02d}")


def test_options_that_the_layout_does_not_take_are_refused(tmp_path, fakes):
    (tmp_path / "data").mkdir()
    other = fakes.build(tmp_path / "other", ("pixels",), fakes.Source(4), shard_size=4)
    for words, problem in (
        ([tmp_path / "c", "--layout", "mar", "--entry", "x"], "--entry x is of repa-h5 and webd"),
        ([other, "--layout", "mar"], "is there and is a cache of the pipeline"),
        ([tmp_path, "--layout", "mar"], "is there and is no cache (it has data); name an"),
        (["s3://bucket/c", "--layout", "mar"], "is a URL, a folder of this machine is wanted"),
    ):
        given = ["import", str(words[0]), str(tmp_path / "data"), *words[1:]]
        done = CliRunner().invoke(cli, given)
        assert done.exit_code == 2 and problem in done.output, done.output


def test_scales_and_statistics_must_be_finite(tmp_path):
    encoder = ENCODERS.get("latents-import")
    for settings in ({"scale": math.nan}, {"scale": 0.0}, {"shift": math.inf}):
        with pytest.raises(ReedError, match="give finite ones, and a scale that is not 0"):
            config.build(encoder, settings)
    for mean, std in (
        (torch.zeros(4), torch.zeros(4)),
        (torch.full((4,), torch.nan), torch.ones(4)),
    ):
        torch.save({"mean": mean, "std": std}, tmp_path / "s.pt")
        with pytest.raises(ReedError, match="finite ones are wanted, and deviations above 0"):
            assert config.build(encoder, {"stats": str(tmp_path / "s.pt")}).fields
