"""Files of images: an .npz for evaluation suites, a picture of the first, PNGs, tar files."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np

from reed.cache import files
from reed.cache.schema import Column
from reed.config import option
from reed.errors import ReedError
from reed.picture import ROUNDING, grid, library, save_png, to_uint8
from reed.sample import decoder
from reed.sample.outputs.arrays import Z
from reed.sample.sample_set import OUTPUTS, Output, SampleSet, Writer, beside
from reed.sample.sampler import Sampler

SHOWN, COLUMNS = 100, 10  # images in the picture, and per row
SHARD = 1000  # images per tar file
KEEP = "none"  # value of --vae that keeps latents
DECODE = "to decode them, give the folder of an AutoencoderRAE: --vae PATH"


@OUTPUTS.register("image")
@dataclass
class ImageOutput(Output):
    """Images as OUT.npz and OUT.png; latents are decoded first.

    OUT.npz is uncompressed, as the evaluation suite of ADM reads it. It holds the images as arr_0,
    uint8 [N, H, W, C], and their labels as arr_1, int64 [N]. If latents are kept, arr_0 is float32
    [N, C, H, W], or [N, T, C] of tokens, in the scale of the cache.

    Attributes:
        vae: Path of the autoencoder's weights; empty for those that encoded the latents; "none"
            to keep the latents.
        rounding: Rounding of pixels, a name in reed.picture.ROUNDING.
        png: Whether to write OUT/000000.png, … too.
        tars: Whether to write OUT.tars/000000.tar, … too, in the layout of WebDataset.
        shards: The old name of ``tars``, which writes OUT.shards/000000.tar, ….
    """

    vae: str = option(
        "",
        "Weights of the autoencoder that decodes latents. Default: those that encoded the cache. "
        "none: write the latents without decoding them.",
        metavar="PATH",
    )
    rounding: str = option(
        "nearest",
        "Conversion of pixel values to integers: nearest rounds them (as in SiT), down truncates "
        "them (as in ADM, REPA and REED).",
        metavar="NAME",
        choices=ROUNDING,
    )
    png: bool = option(False, "Also write a folder of PNG files.")
    tars: bool = option(False, "Also write WebDataset tar files.")
    shards: bool = option(False, "Old name of --tars.", hidden=True)

    _decoder: Any = field(default=None, init=False, repr=False)
    _field: Any = field(default=None, init=False, repr=False)
    _latents: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDING:
            known = ", ".join(ROUNDING)
            raise ReedError(f"rounding is {self.rounding!r}, it must be one of {known}")

    @property
    def name(self) -> str:
        """The options that differ from their defaults, as part of a file's name."""
        vae = {"": "", KEEP: "latents"}.get(self.vae, f"vae-{Path(self.vae).name}")
        return "-".join(part for part in (vae, self.rounding.replace("nearest", "")) if part)

    def open(self, sampler: Sampler, device: str) -> None:
        """Load the autoencoder if there are latents to decode.

        Raises:
            ReedError: The options do not fit the samples, or there is no such autoencoder.
        """
        if self.shards:
            self.said.append("--shards is now called --tars; this name will go in a later version")
        self._field, column = sampler.fields["x"], sampler.columns.get("x")
        latents, keep = self._are_latents(column), self.vae == KEEP
        if self.vae and not latents:
            raise ReedError(f"--vae {self.vae}: the samples are {self._field.name!r}, no latents")

        # Most encoders of tokens cannot decode, and then only the user knows what can.
        if self._field.kind == "token" and not self.vae and not decoder.can_decode(column):
            self.said.append(f"{self._field.name!r} are written as they are; {DECODE}")
            keep = True
        self._latents = latents and keep
        if self._latents and (self.png or self.tars or self.shards):
            why = "leave out --vae none" if self.vae else DECODE
            raise ReedError(f"--png and --tars need images: {why}")
        self.recipe = {"vae": None, "rounding": None if self._latents else self.rounding}
        if latents and not self._latents:
            self._decoder = decoder.find(column, self._field, self.vae)
            self.recipe["vae"] = self._decoder.recipe
            self.said += self._decoder.said
            self._decoder.load(device)

        # A missing library is reported before the samples are drawn, not after.
        if not self._latents:
            library("PIL.Image")

    def _are_latents(self, column: Column | None) -> bool:
        """Return whether the samples are something else than pixels."""
        if self._field.kind == "data" and self._field.shape[0] not in (1, 3):
            return decoder.can_decode(column)
        return self._field.kind != "data"

    def convert(self, drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return x, uint8 [B, H, W, C] or latents, label [B], and the representations z/NAME."""
        x = drawn["x"]
        if not self._latents:  # no byte stands for "not finite": such a sample is drawn as zeros
            axes = tuple(range(1, x.ndim))
            x = np.where(np.isfinite(x).all(axes, keepdims=True), x, 0)
        if self._decoder is not None:
            x = self._decoder.images(x, self.rounding)
        elif not self._latents:
            x = to_uint8(x, self._field, self.rounding)
        return drawn | {"x": x}

    def files(self, out: Path) -> Mapping[Path, Writer]:
        """Return the writers of the files, the .npz first: it holds all that was drawn."""
        writers: dict[Path, Writer] = {beside(out, ".npz"): write_npz}
        if not self._latents:
            writers[beside(out, ".png")] = write_picture
        if self.png:
            writers[out] = write_pngs
        for is_wanted, ending in ((self.tars, ".tars"), (self.shards, ".shards")):
            if is_wanted:
                writers[beside(out, ending)] = write_shards
        return writers


def write_npz(path: Path, samples: SampleSet) -> None:
    """Write the samples as arr_0 and their labels as arr_1, with one part in memory at a time.

    The representations of guides follow under their names, z/NAME.
    """
    labels = np.empty(samples.num, np.int64)
    representations: dict[str, list[np.ndarray]] = {}
    with files.open_new(path) as file:
        with ZipFile(file, "w") as archive:
            done, shape = 0, None

            # A ZipInfo has a fixed date, so that the bytes depend on the samples alone.
            with archive.open(ZipInfo("arr_0.npy"), "w", force_zip64=True) as member:
                for part in samples.parts():
                    if shape is None:
                        shape = part["x"].shape[1:]
                        _write_header(member, part["x"].dtype, (samples.num, *shape))
                    assert part["x"].shape[1:] == shape
                    member.write(np.ascontiguousarray(part["x"]).data)
                    labels[done : done + len(part["x"])] = part["label"]
                    for name in part:
                        if name.startswith(Z):
                            representations.setdefault(name, []).append(part[name])
                    done += len(part["x"])
            assert done == samples.num, (done, samples.num)

            with archive.open(ZipInfo("arr_1.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, labels, allow_pickle=False)

            for name, parts in representations.items():
                with archive.open(ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.concatenate(parts), allow_pickle=False)


def write_picture(path: Path, samples: SampleSet) -> None:
    """Write the first images in a grid; small images are enlarged."""
    first = np.stack([image for image, _ in itertools.islice(_images(samples), SHOWN)])
    with files.new_file(path) as temp:
        save_png(grid(first, COLUMNS), temp, max(1, 32 // first.shape[1]))


def write_pngs(folder: Path, samples: SampleSet) -> None:
    """Write 000000.png, …; a folder that a killed process left incomplete is written again."""
    folder.mkdir(exist_ok=True)
    for number, (image, _) in enumerate(_images(samples)):
        (folder / f"{number:06d}.png").write_bytes(_png(image))


def write_shards(folder: Path, samples: SampleSet) -> None:
    """Write tar files that hold a PNG and a label (cls) per sample."""
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
    file = io.BytesIO()
    save_png(image, file)
    return file.getvalue()


def _write_header(file: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    description = np.lib.format.dtype_to_descr(dtype)
    table = {"descr": description, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, table)
