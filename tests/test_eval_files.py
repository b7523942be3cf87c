"""Which files reed-eval reads: tars, and one line for what holds no samples."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from reed.cli.evaluate import main
from reed.errors import ReedError
from reed.evaluate.record import Record
from reed.metrics.image_set import open_images

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8)
LABELS = np.arange(30) % 10


def png(image):
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "png")
    return file.getvalue()


def tars(folder, images, labels=LABELS, size=20):
    """Tars in the layout of WebDataset, as reed-sample --tars writes them."""
    folder.mkdir()
    for first in range(0, len(images), size):
        with tarfile.open(folder / f"{first:06d}.tar", "w") as tar:
            for number in range(first, min(first + size, len(images))):
                label = str(labels[number]).encode()
                for ending, content in (("png", png(images[number])), ("cls", label)):
                    member = tarfile.TarInfo(f"{number:06d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def call(*words):
    done = CliRunner().invoke(main, [str(word) for word in (*words, "--device", "cpu")])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_tars_hold_the_images_that_were_written_and_their_labels(tmp_path):
    found = open_images(tars(tmp_path / "s.tars", IMAGES))
    assert (found.kind, found.num, found.shape) == ("tars", 30, (8, 8, 1))
    assert np.array_equal(found.all(), IMAGES) and np.array_equal(found.labels(), LABELS)
    one = open_images(tmp_path / "s.tars" / "000020.tar")
    assert np.array_equal(one.all(), IMAGES[20:]) and one.sha256 != found.sha256


def test_tars_are_measured_as_the_same_images_in_an_npz(tmp_path):
    np.savez(tmp_path / "real.npz", arr_0=IMAGES, arr_1=LABELS)  # to which the space is fitted
    drawn = IMAGES[::-1] // 2
    np.savez(tmp_path / "one.npz", arr_0=drawn)
    tars(tmp_path / "s.tars", drawn)
    (tmp_path / "s.json").write_text(json.dumps({"num": 30, "sampler": "heun", "kind": "image"}))
    values = []
    for name in ("one.npz", "s.tars"):
        out = tmp_path / f"{name}.json"
        words = ("--reference", tmp_path / "real.npz", "--metrics", "fd", "--out", out)
        code, said = call(tmp_path / name, *words)
        assert code == 0, said
        values.append(Record.read(out))
    assert values[0].metrics["fd"]["value"] == values[1].metrics["fd"]["value"]
    assert values[1].samples["kind"] == "tars" and values[1].recipe["sampler"] == "heun"


def test_a_tar_as_the_reference_is_read_as_the_source_reads_it(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (30, 16, 8, 3), np.uint8)
    np.savez(tmp_path / "s.npz", arr_0=colour[:, 4:12])  # the middle squares
    reference = tars(tmp_path / "real", colour, size=30) / "000000.tar"
    out = tmp_path / "o.json"
    code, said = call(
        tmp_path / "s.npz", "--reference", reference, "--features", "random-conv", "--out", out
    )
    assert code == 0, said
    (metric,) = Record.read(out).metrics.values()
    assert metric["value"] == pytest.approx(0, abs=1e-3)


def test_a_file_of_representations_is_told_in_one_line(tmp_path):
    np.savez(tmp_path / "s.z.npz", **{"z/text": np.zeros((3, 4)), "z/grid": np.zeros((3, 2))})
    np.savez(tmp_path / "real.npz", arr_0=IMAGES)
    for beside in (None, "s.fasta"):
        if beside:
            (tmp_path / beside).write_text(">a\nA\n")
        code, said = call(tmp_path / "s.z.npz", "--reference", tmp_path / "real.npz")
        assert code == 2 and len(said.splitlines()) == 1, said
        assert "s.z.npz holds the representations of guides (z/text, z/grid), and no sa" in said
        assert f"measure {tmp_path / beside if beside else 'the file of samples'}" in said


def broken(folder):
    """What cannot be measured -> the end of the message."""
    (folder / "notes.tar").write_text("no tar")
    tars(folder / "empty", IMAGES[:0])
    with tarfile.open(folder / "words.tar", "w") as tar:
        member = tarfile.TarInfo("a.txt")
        tar.addfile(member, io.BytesIO())
    tars(folder / "wrong", IMAGES[:2])
    with tarfile.open(folder / "pixels.tar", "w") as tar:
        member = tarfile.TarInfo("a.png")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"png"))
    return {
        "notes.tar": "cannot read",
        "words.tar": "no entry of it is an image",
        "empty": "no file in it ends in",
        "pixels.tar": "cannot decode",
    }


def test_what_is_no_tar_of_images_is_told_in_one_line(tmp_path):
    np.savez(tmp_path / "real.npz", arr_0=IMAGES)
    for name, end in broken(tmp_path).items():
        code, said = call(tmp_path / name, "--reference", tmp_path / "real.npz")
        assert code == 2 and len(said.splitlines()) == 1, said
        assert str(tmp_path / name) in said and end in said
    with pytest.raises(ReedError, match=r"pixels.tar: a.png"):
        open_images(tmp_path / "pixels.tar")
