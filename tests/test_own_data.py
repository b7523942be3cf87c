"""Data of one's own: from a folder or a file to a trained run, with default options, offline."""

from __future__ import annotations

import json
import runpy
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from reed import open_cache, pipelines
from reed.build.column import check_entry
from reed.build.shard import BadSample
from reed.cache import schema
from reed.cli import cache as cli_cache
from reed.cli import sample as cli_sample
from reed.cli import train as cli_train
from reed.domains.image import ImageDomain
from reed.encoders.image.gradients import BINS, Gradients
from reed.encoders.protein.structure import Structure
from reed.encoders.protein.toy import ToyStructure
from reed.encoders.text.beside import CaptionsBeside
from reed.errors import ReedError
from reed.sources.image.images import Images

WORLD = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_world.py"))))
SMALL = ("--set", "steps=2", "--set", "preview.every=0")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def run(main, *words):
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == 0, f"{words}\n{done.output}\n{done.exception!r}"
    return done


def build(*words):
    return run(cli_cache.main, "build", *words, "--device", "cpu")


def photos(folder: Path, count: int = 6, captions: bool = False) -> Path:
    """PNGs in no folder of a class, with a caption beside each where asked."""
    WORLD.pictures(folder, count)
    for number in range(count if captions else 0):
        (folder / f"{number:04}.txt").write_text(f" picture number {number}\n")
    return folder


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as file:
        for each in sorted(folder.rglob("*.*")):
            file.write(each, f"{folder.name}/{each.relative_to(folder)}")
    return path


def test_a_folder_of_images_is_built_trained_and_sampled_by_three_commands(here):
    """64 pixels, without a VAE or weights; without folders of classes there is one class."""
    build("images", "--data", photos(here / "photos"))
    cache = Path("cache/images")
    assert schema.columns(cache) == ["gradients", "image", "labels"]
    with open_cache(cache) as opened:
        assert opened.column("image").field("image").shape == (3, 64, 64)
        assert {int(label) for _, label in opened.records("labels/label")} == {0}

    run(cli_train.main, "--shards", cache, *SMALL)
    table = json.loads(Path("runs/images/config.json").read_text())
    assert table["domain"]["classes"] == 1 and table["curriculum"]["caption-ngrams"] == 0
    run(cli_sample.main, "--run", "runs/images", "--num", 2, "--steps", 2, "--out", "drawn")
    assert np.load("drawn.npz")["arr_0"].shape == (2, 64, 64, 3)


def test_one_option_sets_the_resolution_and_a_rerun_keeps_it(here):
    data = photos(here / "photos")
    build("images", "--data", data, "--set", "source.resolution=32")
    build("images", "--data", data)
    build("images", "--data", data, "--set", "source.resolution=32", "--encoder", "gradients")
    with open_cache("cache/images") as opened:
        assert opened.column("image").field("image").shape == (3, 32, 32)
        assert opened.column("image").options == {"resolution": 32}
        assert opened.manifest.options == {"resolution": 32, "one_class": True}
    refused = CliRunner().invoke(
        cli_cache.main,
        [
            "build",
            "images",
            "--cache",
            "other",
            "--data",
            str(data),
            "--set",
            "image.resolution=16",
        ],
    )
    assert "column 'image' takes samples of resolution 16, source.resolution is 64" in (
        refused.output
    )


def test_latents_replace_the_pixels(here):
    data, weights = WORLD.place(here, "/data/imagenet/train"), here / "vae"
    WORLD.vae(weights)
    small = ("--set", "source.resolution=32", "--set", f"sd-vae.weights={weights}")
    build("images", "--data", data, "--latents", "sd-vae", *small)
    assert schema.columns(Path("cache/images")) == ["gradients", "labels", "sd-vae"]
    with open_cache("cache/images") as opened:
        assert opened.column("sd-vae").field("moments").shape == (8, 4, 4)
        assert len(opened.classes) == 3  # of the folders

    grid = ("--set", "domain.grid=4", "--set", "curriculum.gradients=0")
    run(cli_train.main, "--shards", "cache/images", *SMALL, *grid)
    assert json.loads(Path("runs/images/config.json").read_text())["data"]["x"] == "sd-vae/moments"

    refused = CliRunner().invoke(cli_cache.main, ["plan", "digits", "--latents", "sd-vae"])
    assert refused.exit_code == 2 and "the pipeline 'digits' has no column of pixels" in (
        refused.output
    )


def test_captions_beside_images_are_a_column_and_a_target(here):
    data = photos(here / "photos", captions=True)
    build("images", "--data", data)
    with open_cache("cache/images") as opened:
        found = dict(opened.records("captions/text"))
    assert found == {f"{n:04}.png": f"picture number {n}" for n in range(6)}

    done = run(cli_train.main, "--shards", "cache/images", "--dry-run")
    assert json.loads(done.stdout)["curriculum"]["caption-ngrams"] == 0.25
    plain = run(cli_train.main, "--shards", "cache/images", "--variant", "sit", "--dry-run")
    assert json.loads(plain.stdout)["curriculum"]["caption-ngrams"] == 0.0


@pytest.mark.parametrize("names", [("file_name", "text"), ("key", "caption")])
@pytest.mark.parametrize("packed", [False, True])
def test_captions_are_read_from_a_jsonl_too(here, packed, names):
    data = photos(here / "photos", 3, captions=True)
    for number in (0, 1):
        (data / f"{number:04}.txt").unlink()
    lines = [
        json.dumps(dict(zip(names, (f"./{n:04}.png", f"line {n} "), strict=True))) for n in range(2)
    ]
    (data / "metadata.jsonl").write_text("\n".join([*lines, ""]))
    source = Images(zipped(data) if packed else data, resolution=8)
    assert source.entries == ("image", "caption")
    found = [source.read(key)["caption"] for key in source.listing()]
    assert found == ["line 0", "line 1", "picture number 2"]
    assert source.listing().passed == {}


@pytest.mark.parametrize("packed", [False, True])
def test_where_some_images_lack_a_caption_none_is_read_and_a_line_says_so(here, packed):
    data = photos(here / "photos", 3, captions=True)
    (data / "0001.txt").unlink()
    (data / "notes.txt").write_text("nothing of an image")
    source = Images(zipped(data) if packed else data, resolution=8)
    assert source.entries == ("image",)
    assert source.listing().passed == {
        "caption, but not every image has one": ("0000.txt", "0002.txt"),
        "ending .txt": ("notes.txt",),
    }
    assert source.listing().counts == {"captions: missing": 1}
    with pytest.raises(KeyError):
        source.read("0001.png")["caption"]
    with pytest.raises(ReedError, match=r"because not every image has one: 1 image .*\(0001.png\)"):
        check_entry("caption", source, "captions-beside")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("first", "why"),
    [
        ({"key": "0000.png", "text": 5}, "has no text in line 1 for an image and its caption"),
        ({"key": "a/0000.png", "text": "a"}, "names none of the images, but 'a/0000.png'"),
    ],
)
def test_a_table_of_captions_that_gives_none_says_why(here, packed, first, why):
    data = photos(here / "photos", 2)
    lines = [first, {"key": first["key"], "text": first["text"]}]
    (data / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = Images(zipped(data) if packed else data, resolution=8)
    with pytest.raises(ReedError, match=f"the source lacks, because c.jsonl {why}. Available"):
        check_entry("caption", source, "captions-beside")


@pytest.mark.parametrize("packed", [False, True])
def test_captions_of_no_image_are_counted_and_two_of_one_image_are_refused(here, packed):
    data = photos(here / "photos", 2)
    lines = [json.dumps({"key": f"{n:04}.png", "text": f"line {n}"}) for n in (0, 1, 7)]
    (data / "captions.jsonl").write_text("\n".join([*lines, lines[0]]))
    listing = Images(zipped(data) if packed else data, resolution=8).listing()
    assert listing.counts == {"captions: of no image": 1} and listing.passed == {}
    assert listing.examples == {"captions: of no image": ("0007.png",)}

    (data / "more.jsonl").write_text('{"key": "0000.png", "text": "other"}\n')
    said = r"more.jsonl, line 1: '0000.png' has the caption 'line 0' already, here it is 'other'"
    with pytest.raises(ReedError, match=said):
        Images(zipped(data) if packed else data, resolution=8).listing()


def test_a_jsonl_without_captions_is_passed_over_and_one_with_a_bad_line_is_refused(here):
    data = photos(here / "photos", 2)
    (data / "log.jsonl").write_text('{"step": 1}\n')
    source = Images(data, resolution=8)
    assert source.entries == ("image",)
    assert source.listing().passed == {"ending .jsonl": ("log.jsonl",)}

    (data / "log.jsonl").write_text('{"key": "0000.png", "text": "a"}\n{"key": "0001.png"}\n')
    with pytest.raises(ReedError, match=r"log.jsonl, line 2: no text under 'key' and 'text'"):
        source.listing()


def test_an_empty_caption_fails_its_sample():
    with pytest.raises(BadSample, match="the caption beside it is empty"):
        CaptionsBeside().encode([{"caption": " \n"}])


def test_gradients_are_those_of_a_wave_and_of_a_plain_colour():
    """A wave to the right has its strength in the bins around direction 0, and none elsewhere."""
    wave = np.broadcast_to((128 + 100 * np.sin(np.arange(32) / 2))[None, :, None], (32, 32, 3))
    plain = np.broadcast_to(np.array([51, 102, 255]), (32, 32, 3))
    images = [{"image": image.astype(np.uint8)} for image in (wave, wave.swapaxes(0, 1), plain)]
    found = Gradients(grid=4).encode(images)
    right, down, flat = found["tokens"]
    assert right.shape == (16, BINS + 4) and found["sample"].shape == (3, 2 * (BINS + 4))
    np.testing.assert_allclose(right[:, 0], right[:, BINS - 1], rtol=1e-5)
    assert (right[:, 0] > 0.01).all() and np.abs(right[:, 1 : BINS - 1]).max() < 1e-6
    half = BINS // 2
    np.testing.assert_allclose(down[:, half - 1], down[:, half], rtol=1e-5)
    assert (down[:, half] > 0.01).all() and np.abs(down[:, : half - 1]).max() < 1e-6
    np.testing.assert_allclose(flat[:, BINS:], [[0.2, 0.4, 1.0, 0.0]] * 16, atol=1e-6)
    assert np.abs(flat[:, :BINS]).max() < 1e-6

    with pytest.raises(BadSample, match=r"the image has shape \(32, 32, 3\), grid is 5"):
        Gradients(grid=5).encode(images[:1])


def test_the_patch_size_follows_from_the_grid(here):
    field = schema.Field("image", "data", (3, 32, 32), "uint8")
    fields = {"x": field, "label": schema.Field("label", "label", (), "int64")}
    small = {"hidden_size": 32, "depth": 1, "num_heads": 2}
    with torch.device("meta"):
        assert ImageDomain(1, grid=8, net_settings=small).net(fields).taps()[0].tokens == 64
    with pytest.raises(ReedError, match="domain.grid is 5, 'image' is 32x32"):
        ImageDomain(1, grid=5, net_settings=small).net(fields)
    with pytest.raises(ReedError, match="net_settings.patch_size follows"):
        ImageDomain(1, grid=8, net_settings=small | {"patch_size": 4}).net(fields)


def test_what_a_cache_lacks_changes_the_recipe_and_the_variant_comes_last():
    lacks = pipelines.recipe("images", built=["image", "labels"])
    whole = pipelines.recipe("images")
    assert lacks["curriculum"]["gradients"] == 0 and whole["curriculum"]["gradients"] == 0.5
    assert lacks["data"]["x"] == "image/image" and "without" not in whole
    assert pipelines.recipe("images", "sit", ["labels"])["curriculum"]["diffusion"] == 1.0


def test_structures_are_built_trained_and_designed_for(here):
    data = WORLD.structures(here / "structures")
    (data / "gap.pdb").write_text(
        "".join(
            line
            for line in (data / "1abc.pdb").read_text().splitlines(True)
            if not (line.startswith("ATOM") and int(line[22:26]) in (10, 11))
        )
    )
    build("proteins", "--data", data)
    assert schema.columns(Path("cache/proteins")) == ["chain", "structure"]
    run(cli_train.main, "--shards", "cache/proteins", *SMALL)
    log = [
        json.loads(line)
        for line in Path("runs/proteins/metrics.jsonl").read_text().split("\n")
        if line
    ]
    assert {"cos/token", "cos/pair", "cos/sample"} <= log[-1].keys()
    words = ("--structure", data / "2abc.pdb", "--num", 1, "--steps", 2, "--out", "designs")
    run(cli_sample.main, "--run", "runs/proteins", *words)
    assert Path("designs.fasta").is_file()


@pytest.mark.parametrize("kind", ["sdf", "smi"])
def test_few_molecules_are_built_trained_and_sampled(here, kind):
    """Fewer than the components that RDKit's descriptors keep by default."""
    pytest.importorskip("rdkit")
    data = here / f"some.{kind}"
    texts = WORLD.TEXTS[:24]
    if kind == "sdf":
        WORLD.MOLECULES.sdf(data, texts)
    else:
        data.write_text("\n".join(texts))
    build("molecules", "--data", data)
    with open_cache("cache/molecules") as opened:
        assert opened.column("rdkit3d").field("sample").codec == "standard+int8"
    build("molecules", "--data", data)  # a rerun asks for nothing else
    run(cli_train.main, "--shards", "cache/molecules", *SMALL)
    run(cli_sample.main, "--run", "runs/molecules", "--num", 2, "--steps", 2, "--out", "drawn")
    assert Path("drawn.npz").is_file()


@pytest.fixture(scope="module")
def chain():
    """A generated chain with its graph."""
    from reed.encoders.protein.chain import neighbours
    from reed.sources.protein.toy import ProteinsToy

    source = ProteinsToy(samples=2)
    sample = dict(source.read(next(iter(source.listing()))))
    return sample | {"chain/neighbours": neighbours(np.asarray(sample["coords"], np.float32))}


def test_whole_chains_are_described_as_generated_ones(chain):
    ours, theirs = Structure().encode([chain]), ToyStructure().encode([chain])
    for name in ("token", "pair", "sample"):
        np.testing.assert_array_equal(ours[name][0], theirs[name][0])


def test_residues_with_a_missing_atom_are_left_out(chain):
    """The others are described as if the chain had two parts; X has no hydropathy."""
    from reed.encoders.protein.chain import neighbours

    coords = np.array(chain["coords"], np.float32)
    coords[9, 3] = np.nan  # its O alone; its CA is still in the graph
    letters = "X" + chain["sequence"][1:]
    sample = chain | {"coords": coords, "sequence": letters, "chain/neighbours": neighbours(coords)}
    found, whole = (
        {name: value[0] for name, value in Structure().encode([each]).items()}
        for each in (sample, chain)
    )
    assert all(np.isfinite(value).all() for value in found.values())
    assert (found["pair"][9] == 0).all()
    assert (found["pair"][8, sample["chain/neighbours"][8] == 9] == 0).all()
    seen = np.delete(np.arange(len(coords)), 9)
    np.testing.assert_allclose(found["token"][9], found["token"][seen].mean(0), atol=1e-5)

    # The torsions across the gap are unknown: psi of residue 8 and phi of residue 10, sin and cos.
    np.testing.assert_array_equal(found["token"][8, [1, 3]], 0)
    np.testing.assert_array_equal(found["token"][10, [0, 2]], 0)
    assert (whole["token"][[8, 8, 10, 10], [1, 3, 0, 2]] != 0).all()
    np.testing.assert_array_equal(found["token"][30, :4], whole["token"][30, :4])
    assert found["token"][0, -1] == 0


def test_chains_that_cannot_be_described_fail(chain):
    coords = np.array(chain["coords"], np.float32)
    with pytest.raises(BadSample, match="has no residue with N, CA, C and O"):
        Structure().encode([chain | {"coords": np.full_like(coords, np.nan)}])
    coords[5] = 0
    with pytest.raises(BadSample, match="has atoms of one residue in one place"):
        Structure().encode([chain | {"coords": coords}])
