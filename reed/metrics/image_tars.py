"""The images in tars, such as those of reed-sample --tars, as a set."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from reed.build.engines import Share
from reed.bytes import file_sha256
from reed.errors import ReedError
from reed.image_files import is_image
from reed.metrics.ahead import decoders


@dataclass(frozen=True)
class Members:
    """The images in one or several tars, in the order of the files.

    Attributes:
        places: Tar, first byte, length and name of each image.
        labels: Their classes (entries .cls); None unless every image has one.
        sha256: Hash of the tars.
    """

    places: list[tuple[Path, int, int, str]]
    labels: np.ndarray | None
    sha256: str

    def read(
        self, batch: int, share: Share, decode: Callable[[io.BytesIO, str], np.ndarray]
    ) -> Iterator[np.ndarray]:
        """Yield the images in batches.

        Args:
            batch: Images per batch.
            share: The batches to yield.
            decode: Function of the content and the name of an image.
        """

        def one(place: tuple[Path, int, int, str]) -> np.ndarray:
            return decode(self.content(place), f"{place[0]}: {place[3]}")

        with ThreadPoolExecutor(decoders()) as pool:
            for first in share.of(range(0, len(self.places), batch)):
                yield np.stack(list(pool.map(one, self.places[first : first + batch])))

    def content(self, place: tuple[Path, int, int, str]) -> io.BytesIO:
        """Return the content of an image."""
        path, offset, size, _ = place
        with open(path, "rb") as file:
            file.seek(offset)
            return io.BytesIO(file.read(size))


def tars_at(place: Path) -> list[Path]:
    """Return the tar that a path names, or those in a folder, sorted; empty without any."""
    if place.is_file():
        return [place] if place.suffix == ".tar" else []
    return sorted(path for path in place.glob("*.tar") if not path.name.startswith("."))


def _check_end(path: Path, end: int, what: str) -> None:
    """Raise ReedError unless a tar ends where its last member does: tarfile stops in silence."""
    with open(path, "rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ReedError(
                f"cannot read {what} from {path}: the tar breaks off after {end} bytes; fetch it "
                "again"
            )


def members(tars: list[Path], what: str) -> Members:
    """Find the images in tars.

    Raises:
        ReedError: A tar cannot be read, or none of them holds an image.
    """
    places, classes, digest = [], {}, hashlib.sha256()
    for path in tars:
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    name = PurePosixPath(member.name)
                    if not member.isfile() or name.name.startswith("."):
                        continue
                    if is_image(member.name):
                        places.append((path, member.offset_data, member.size, member.name))
                    elif name.suffix == ".cls" and (file := tar.extractfile(member)):
                        classes[path, str(name.with_suffix(""))] = int(file.read())
                _check_end(path, tar.offset, what)
        except (OSError, ValueError, tarfile.TarError) as error:
            raise ReedError(f"cannot read {what} from {path}: {error}") from error
        digest.update(f"{file_sha256(path)}\n".encode())
    if not places:
        raise ReedError(f"cannot read {what} from {tars[0]}: no entry of it is an image")

    # A class belongs to the image of the same name.
    keys = [(path, str(PurePosixPath(name).with_suffix(""))) for path, _, _, name in places]
    labels = np.array([classes[key] for key in keys]) if set(keys) <= classes.keys() else None
    return Members(places, labels, digest.hexdigest())
