"""The source ``cached``: latents and features that another trainer has cached."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from reed.build.source import Listing
from reed.errors import ReedError, suggest
from reed.sources import SOURCES
from reed.sources.image.cached_files import H5, LAYOUTS, Moments, Safetensors
from reed.sources.image.cached_files import Layout as Layout
from reed.sources.image.cached_tars import Tars


@SOURCES.register("cached")
@dataclass(frozen=True)
class Cached:
    """Latents, features and labels from the files of another trainer.

    Its entries, of which a layout has some:

    - ``latent``: float32 [C, h, w], a draw.
    - ``moments``: float32 [2C, h, w], the mean and the standard deviation.
    - ``features``: float32 [N, C], a representation per token.
    - ``label``: int.
    - ``image``: uint8 [H, W, 3].

    Layouts that hold mirrored latents have two views.

    Attributes:
        data: The folder of the files.
        layout: How they are written, one of ``LAYOUTS``; empty to look.
        latents: Which latents: of ``repa-h5`` the name of the file, of ``webdataset`` the size of
            the images; empty for the only ones.
        classes: Class names that the cache has frozen, by number; new ones follow.
    """

    data: Path | None = None
    layout: str = ""
    latents: str = ""
    classes: tuple[str, ...] = ()

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the entries that the files have."""
        return opened(self).entries if self.data else ("latent", "moments", "features", "label")

    @property
    def views(self) -> int:
        """Number of views: 2 if there are mirrored latents."""
        return opened(self).views if self.data else 1

    def listing(self) -> Listing:
        """Return every key with its stamp, see the layouts."""
        opened.cache_clear()  # the data may have changed since the last listing
        found = opened(self)
        stamps = found.stamps()
        if not stamps:
            raise ReedError(f"{self.data} has no samples of the layout {found.name!r}")
        return Listing(stamps, found.passed, classes=found.classes)

    def read(self, key: str, view: int = 0) -> dict[str, Any]:
        """Return the entries of one sample.

        Raises:
            BadSample: An entry is missing or damaged.
        """
        return opened(self).read(key, view)


_FOUND_BY = {
    "lightningdit": ("*.safetensors", Safetensors),
    "repa-h5": ("*.h5", H5),
    "webdataset": ("*.tar", Tars),
    "mar": ("*/*.npz", Moments),
}


@lru_cache(maxsize=4)  # per process
def opened(source: Cached) -> Layout:
    """Return the layout of the files of a source.

    Raises:
        ReedError: There is no such folder or layout, or the files do not tell.
    """
    if source.data is None:
        raise ReedError("cached: name the folder of the cached files with --data")
    if not source.data.is_dir():
        raise ReedError(f"cached: {source.data} is no folder")
    if source.layout and source.layout not in LAYOUTS:
        problem = f"cached: unknown layout {source.layout!r}."
        raise ReedError(problem + suggest(source.layout, LAYOUTS))

    # What lies there mostly tells; the pattern of MAR is the widest, so it comes last.
    there = [name for name, (glob, _) in _FOUND_BY.items() if any(source.data.glob(glob))]
    name = source.layout or (there[0] if there else "")
    if not name:
        globs = ", ".join(glob for glob, _ in _FOUND_BY.values())
        raise ReedError(f"cached: {source.data} has no files of a known layout ({globs})")
    return _FOUND_BY[name][1](source.data, source.latents, source.classes)
