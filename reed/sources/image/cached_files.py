"""The files in which other trainers cache latents: one class per layout.

- ``lightningdit``: ``ROOT/latents_rank00_shard000.safetensors`` with ``latents``, ``latents_flip``
  [N, C, h, w] and ``labels``.
- ``mar``: ``ROOT/n01440764/n01440764_10026.JPEG.npz`` with ``moments`` and
  ``moments_flip`` [2C, h, w].
- ``repa-h5``: ``ROOT/images.h5``, ``ROOT/vae-sd.h5``, the files of REPA's folders as data sets, by
  path.

Tars of webdataset are in `cached_tars`.
"""

from __future__ import annotations

import zipfile
import zlib
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reed.build.shard import BadSample
from reed.errors import ReedError, suggest
from reed.hdf5 import whole
from reed.sources.image import cached_values as values
from reed.sources.image.crop import decode
from reed.sources.image.labels import labels_in
from reed.sources.image.latents import key_of
from reed.sources.image.layouts import Passed
from reed.sources.image.trees import scan, walk

LAYOUTS = ("lightningdit", "mar", "repa-h5", "webdataset")
_OTHER = "of another kind"
_STATS, _LABELS = "latents_stats.pt", "dataset.json"
_DAMAGED = (zipfile.BadZipFile, zlib.error)
_LOG_VARIANCE = (-30.0, 20.0)  # MAR's autoencoder clamps it to this before it draws


class Layout(Protocol):
    """The files of a folder.

    Attributes:
        name: Name of the layout.
        views: 2 if there are mirrored latents, else 1.
        passed: Names that are no samples by reason, after `stamps`.
    """

    name: str
    views: int
    passed: Passed

    @property
    def entries(self) -> tuple[str, ...]:
        """Return what a sample has."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes by number; none where the files name none."""
        ...

    def stamps(self) -> dict[str, str]:
        """Return every key with a stamp of its content."""
        ...

    def read(self, key: str, view: int) -> dict[str, Any]:
        """Return the entries of one sample; BadSample if one is missing or damaged."""
        ...


class Safetensors:
    """Files with the latents of many samples; a key is FILE/ROW, a stamp the size of the file."""

    name, views = "lightningdit", 2
    entries = ("latent", "label")
    classes = ()
    _NAMES = ("latents", "latents_flip", "labels")

    def __init__(self, root: Path, _latents: str, _classes: tuple[str, ...]) -> None:
        self._root = root
        self.passed: Passed = {}

    def stamps(self) -> dict[str, str]:
        self.passed, stamps = {}, {}
        for name, entry in sorted(walk(self._root, hidden := [])):
            if "/" in name or not name.endswith(".safetensors"):
                if name != _STATS:
                    self.passed.setdefault(_OTHER, []).append(name)
                continue
            path = self._root / name
            rows = self._rows(path)
            size = str(entry.stat().st_size)
            stamps |= {f"{path.stem}/{row:06d}": size for row in range(rows)}
        self.passed |= {"hidden": hidden} if hidden else {}
        return stamps

    def _rows(self, path: Path) -> int:
        """Return the number of samples of a file, whose arrays must fit together."""
        slices = [self._slice(path, name) for name in self._NAMES]
        (latents, flipped, labels), kind = [s.get_shape() for s in slices], slices[2].get_dtype()
        if not len(latents) == len(flipped) == 4 or len(labels) != 1:
            told = f"latents {latents}, latents_flip {flipped}, labels {labels}"
            raise ReedError(f"{path} has {told}; [N, C, h, w] twice and [N] are wanted")

        # What is of another sample, or rounded to a class, would train without an error.
        if len({latents[0], flipped[0], labels[0]}) > 1:
            counts = zip((latents, flipped, labels), self._NAMES, strict=True)
            told = ", ".join(f"{shape[0]:,} {name}" for shape, name in counts)
            raise ReedError(f"{path} has {told}; write it again")
        if latents != flipped:
            raise ReedError(
                f"{path} has latents {latents} and latents_flip {flipped}; write it again"
            )
        if not kind.startswith(("I", "U")):
            raise ReedError(
                f"{path} has labels of type {kind}; integers are wanted, write it again"
            )
        return latents[0]

    def read(self, key: str, view: int) -> dict[str, Any]:
        file, row = key.rsplit("/", 1)
        path, at = self._root / f"{file}.safetensors", int(row)
        latents = self._slice(path, "latents_flip" if view else "latents")[at : at + 1]
        label = self._slice(path, "labels")[at : at + 1]
        latent = values.sound("latent", latents[0].float().numpy())
        return {"latent": latent, "label": values.label(int(label[0]))}

    def _slice(self, path: Path, name: str) -> Any:
        from safetensors import SafetensorError

        try:
            return _safetensors(path, path.stat().st_mtime_ns).get_slice(name)
        except (SafetensorError, OSError) as error:
            what = f"{path}, in which {', '.join(self._NAMES)} are wanted"
            raise ReedError(f"cannot read {what}: {error}") from error


@lru_cache(maxsize=64)  # per process
def _safetensors(path: Path, _changed: int) -> Any:
    from safetensors import safe_open

    return safe_open(path, framework="pt")


class Moments:
    """A file per image, in a folder per class; a key is the path of the image, as of `images`.

    They hold the mean and the logarithm of the variance; read, the latter is a deviation.
    """

    name, views = "mar", 2
    entries = ("moments", "label")

    def __init__(self, root: Path, _latents: str, classes: tuple[str, ...]) -> None:
        self._root, self._frozen = root, classes
        self.passed: Passed = {}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        names = sorted(entry.name for entry in scan(self._root) if entry.is_dir())
        return (*self._frozen, *(name for name in names if name not in self._frozen))

    def stamps(self) -> dict[str, str]:
        self.passed, stamps = {}, {}
        for name, entry in sorted(walk(self._root, hidden := [])):
            if not name.endswith(".npz"):
                self.passed.setdefault(_OTHER, []).append(name)
            elif "/" not in name:
                self.passed.setdefault("in no folder of a class", []).append(name)
            else:
                stamps[name.removesuffix(".npz")] = str(entry.stat().st_size)
        self.passed |= {"hidden": hidden} if hidden else {}
        return stamps

    def read(self, key: str, view: int) -> dict[str, Any]:
        path, entry = self._root / f"{key}.npz", "moments_flip" if view else "moments"
        try:
            # An array without names and damaged bytes are not told by one kind of error.
            with zipfile.ZipFile(path) as file, file.open(f"{entry}.npy") as content:
                array = np.lib.format.read_array(content, allow_pickle=False)
        except (OSError, ValueError, LookupError, RuntimeError, EOFError, *_DAMAGED) as error:
            told = " ".join(str(error).replace(f"{path}", path.name).split())
            raise BadSample(f"no sound {entry} in {path.name}: {told}") from error
        mean, log_variance = values.halves(entry, values.numbers(entry, array))
        deviation = np.exp(0.5 * np.clip(log_variance, *_LOG_VARIANCE))
        label = self.classes.index(key.split("/")[0])
        return {"moments": values.moments(mean, deviation), "label": label}


class H5:
    """REPA's folders in HDF5: a data set per file, and dataset.json as text; keys as there."""

    name, views = "repa-h5", 1
    classes = ()

    def __init__(self, root: Path, latents: str, _classes: tuple[str, ...]) -> None:
        names = sorted(p.stem for p in root.glob("*.h5") if p.stem != "images")
        if (latents and latents not in names) or (not latents and len(names) != 1):
            wanted = f"has no file {latents}.h5" if latents else f"has {len(names)} files"
            problem = f"{root} {wanted} of latents; one is wanted, choose it with --entry NAME."
            raise ReedError(problem + suggest(latents, names))
        self._latents = root / f"{latents or names[0]}.h5"
        self._images = root / "images.h5" if (root / "images.h5").is_file() else None
        self.passed: Passed = {}

    @property
    def entries(self) -> tuple[str, ...]:
        image, label = ("image",) if self._images else (), ("label",) if self._labels else ()
        return (*image, "moments", *label)

    @cached_property
    def _names(self) -> dict[str, str]:
        """The data set of every key."""
        found: dict[str, str] = {}
        self.passed = {}
        for name in self._leaves():
            if not name.endswith(".npy"):
                self.passed.setdefault(_OTHER, []).append(name)
                continue
            if (other := found.setdefault(key_of(name), name)) != name:
                both = f"{other} and {name} of the sample {key_of(name)}"
                raise ReedError(f"{self._latents} has two latents, {both}; remove one")
        return found

    def _leaves(self) -> list[str]:
        """Return the names of all data sets but that of the labels."""
        import h5py

        names: list[str] = []
        try:
            _h5(self._latents).visititems(
                lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
        except (OSError, RuntimeError, KeyError) as error:
            raise ReedError(f"cannot list {self._latents}, a damaged file: {error}") from error
        return [name for name in names if name != _LABELS]

    @cached_property
    def _labels(self) -> dict[str, int]:
        if _LABELS not in (file := _h5(self._latents)):
            return {}
        try:
            text = bytes(whole(file[_LABELS])).decode("utf-8")
        except (OSError, TypeError, ValueError) as error:
            raise ReedError(f"{self._latents} has a {_LABELS} that is no text: {error}") from error
        table = labels_in(Path(f"{self._latents}/{_LABELS}"), text) or {}
        return {key_of(name.replace("\\", "/")): label for name, label in table.items()}

    def stamps(self) -> dict[str, str]:
        return {key: f"{self._labels.get(key)}" for key in sorted(self._names)}

    def read(self, key: str, view: int) -> dict[str, Any]:
        array = self._content(self._latents, self._names[key])
        whole = values.single(values.numbers("moments", array))
        sample: dict[str, Any] = {"moments": values.moments(*values.halves("moments", whole))}
        if self._labels:
            if key not in self._labels:
                raise BadSample("dataset.json has no label for it")
            sample["label"] = self._labels[key]
        if self._images is not None:
            sample["image"] = np.array(decode(_bytes(self._content(self._images, f"{key}.png"))))
        return sample

    def _content(self, path: Path, name: str) -> Any:
        """Return the content of a data set."""
        import h5py

        try:
            item = _h5(path).get(name)
            if not isinstance(item, h5py.Dataset):
                raise BadSample(f"{path.name} has no {name}")
            return whole(item)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise BadSample(f"{path.name} has a damaged {name}: {error}") from error


def _bytes(content: Any) -> bytes:
    """Return the bytes of an image, which are a text of HDF5 or an array of bytes."""
    if isinstance(content, np.ndarray) and content.dtype != np.uint8:
        raise BadSample(f"its image is of type {content.dtype}, bytes are wanted")
    return bytes(content)


@lru_cache(maxsize=8)  # per process
def _h5(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ReedError(f"cannot read {path} as HDF5: {error}") from error
