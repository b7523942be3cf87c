"""Images: the .npz that evaluation suites read, a picture of the first, PNGs and tar shards."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np

from reed.cache import files
from reed.config import option
from reed.errors import ReedError
from reed.picture import ROUNDING, grid, library, save_png, to_uint8
from reed.sample import decoder
from reed.sample.sample_set import OUTPUTS, Output, SampleSet, beside
from reed.sample.sampler import Sampler

SHOWN, COLUMNS = 100, 10  # images in the picture, and in one row of it
SHARD = 1000  # images in a tar
KEEP = "none"


@OUTPUTS.register("image")
@dataclass
class ImageOutput(Output):
    """Images as OUT.npz and OUT.png; latents are decoded first.

    vae: the autoencoder's weights; empty: those that the latents were encoded with; "none": the
    latents are kept. rounding: of pixels; png: also OUT/000000.png, …; shards: also
    OUT.shards/000000.tar, …, as WebDataset has them.

    OUT.npz holds arr_0, uint8 [N, H, W, C], and the labels, arr_1, int64 [N] (latents: float32
    [N, C, H, W] in the scale of the cache), uncompressed, as the evaluation suite of ADM reads it.
    """

    vae: str = option(
        "",
        "Weights of the autoencoder that decodes latents, instead of those that the cache names; "
        "none: keep the latents.",
        metavar="PATH",
    )
    rounding: str = option(
        "nearest",
        "Rounding of pixels: nearest (as in SiT) or down (as in ADM, REPA and REED).",
        metavar="NAME",
    )
    png: bool = option(False, "Also write a folder of PNG files.")
    shards: bool = option(False, "Also write WebDataset tar files.")

    _decoder: Any = field(default=None, init=False, repr=False)
    _field: Any = field(default=None, init=False, repr=False)
    _latents: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDING:
            known = ", ".join(ROUNDING)
            raise ReedError(f"rounding is {self.rounding!r}, it must be one of {known}")

    @property
    def name(self) -> str:
        """What differs from the default."""
        vae = {"": "", KEEP: "latents"}.get(self.vae, f"vae-{Path(self.vae).name}")
        return "-".join(part for part in (vae, self.rounding.replace("nearest", "")) if part)

    def open(self, sampler: Sampler, device: str) -> None:
        """Load the autoencoder, if there are latents to decode."""
        self._field = sampler.fields["x"]
        latents = self._field.kind == "moments"
        if self.vae and not latents:
            raise ReedError(f"--vae {self.vae}: the samples are {self._field.name!r}, no latents")
        self._latents = latents and self.vae == KEEP
        if self._latents and (self.png or self.shards):
            raise ReedError("--png and --shards need images: leave out --vae none")
        self.recipe = {"vae": None, "rounding": None if self._latents else self.rounding}
        if latents and not self._latents:
            column = sampler.columns.get("x")
            self._decoder = decoder.find(column, self._field, self.vae)
            self.recipe["vae"] = self._decoder.recipe
            self.said = self._decoder.said
            self._decoder.load(device)
        if not self._latents:
            library("PIL.Image")  # before the samples are drawn, not after

    def convert(self, drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """x: uint8 [B, H, W, C], or latents; label [B]."""
        x = drawn["x"]
        if self._decoder is not None:
            x = self._decoder.images(x, self.rounding)
        elif not self._latents:
            x = to_uint8(x, self._field, self.rounding)
        return {"x": x, "label": drawn["label"]}

    def files(self, out: Path) -> Mapping[Path, Callable[[Path, SampleSet], None]]:
        """The .npz first: it is what takes long to draw."""
        wanted: dict[Path, Callable[[Path, SampleSet], None]] = {beside(out, ".npz"): write_npz}
        if not self._latents:
            wanted[beside(out, ".png")] = write_picture
        if self.png:
            wanted[out] = write_pngs
        if self.shards:
            wanted[beside(out, ".shards")] = write_shards
        return wanted


def write_npz(path: Path, samples: SampleSet) -> None:
    """arr_0, the samples, and arr_1, their labels; no more than one part is in memory."""
    labels = np.empty(samples.num, np.int64)
    with files.open_new(path) as file:
        with ZipFile(file, "w") as archive:
            done, shape = 0, None
            # a ZipInfo has a fixed date, so the bytes follow from the samples
            with archive.open(ZipInfo("arr_0.npy"), "w", force_zip64=True) as member:
                for part in samples.parts():
                    if shape is None:
                        shape = part["x"].shape[1:]
                        _write_header(member, part["x"].dtype, (samples.num, *shape))
                    assert part["x"].shape[1:] == shape
                    member.write(np.ascontiguousarray(part["x"]).data)
                    labels[done : done + len(part["x"])] = part["label"]
                    done += len(part["x"])
            assert done == samples.num, (done, samples.num)
            with archive.open(ZipInfo("arr_1.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, labels, allow_pickle=False)


def write_picture(path: Path, samples: SampleSet) -> None:
    """The first images in rows; small ones are enlarged."""
    first = np.stack([image for image, _ in itertools.islice(_images(samples), SHOWN)])
    with files.new_file(path) as temp:
        save_png(grid(first, COLUMNS), temp, max(1, 32 // first.shape[1]))


def write_pngs(folder: Path, samples: SampleSet) -> None:
    """000000.png, …: a folder that a killed process left incomplete is written again."""
    folder.mkdir(exist_ok=True)
    for number, (image, _) in enumerate(_images(samples)):
        (folder / f"{number:06d}.png").write_bytes(_png(image))


def write_shards(folder: Path, samples: SampleSet) -> None:
    """Tars of a PNG and a label (cls) per sample."""
    from webdataset.writer import TarWriter

    images = enumerate(_images(samples))
    for number in range(-(-samples.num // SHARD)):
        with files.open_new(folder / f"{number:06d}.tar") as file:
            with TarWriter(file, encoder=False, mtime=0) as tar:
                for i, (image, label) in itertools.islice(images, SHARD):
                    tar.write({"__key__": f"{i:06d}", "png": _png(image), "cls": b"%d" % label})


def _images(samples: SampleSet) -> Iterator[tuple[np.ndarray, int]]:
    for part in samples.parts():
        yield from zip(part["x"], part["label"].tolist(), strict=True)


def _png(image: np.ndarray) -> bytes:
    made = io.BytesIO()
    save_png(image, made)
    return made.getvalue()


def _write_header(file: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    described = np.lib.format.dtype_to_descr(dtype)
    table = {"descr": described, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, table)
