"""A cache made from what another trainer has cached: shapes come from the files."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from reed import stage_one
from reed.build import together
from reed.build.choices import Request
from reed.build.engines import Share
from reed.build.shard import BadSample
from reed.cache import schema
from reed.errors import ReedError
from reed.sources.image.cached import Cached
from reed.sources.image.cached_files import LAYOUTS as LAYOUTS
from reed.store import names

PIPELINE = "cached"
_OF_BUILD = ("--retry-failed", "--max-failed", "--extend", "--rebuild")
CHOSEN = ("repa-h5", "webdataset")  # layouts that may hold several kinds of latents


def make(
    cache: Path,
    data: Path,
    layout: str,
    *,
    latents: str = "",
    stats: Path | None = None,
    scale: float | None = None,
    codecs: tuple[str, ...] = (),
    licence: str = "",
    flip: bool | None = None,
    progress: bool = True,
) -> list[str]:
    """Make a cache of cached latents, features and labels, or the shards that it lacks.

    Args:
        cache: Folder of the cache.
        data: Folder of the files.
        layout: How they are written, one of ``LAYOUTS``.
        latents: Which latents, see `Cached`.
        stats: LightningDiT's file of the statistics of the latents.
        scale: Factor from latents to the input of a net; that of Stable Diffusion for moments of 4
            channels, and 1 for others.
        codecs: COLUMN/FIELD=CODEC.
        licence: Licence of the latents.
        flip: Whether to store mirrored latents, too; if there are any, by default.
        progress: Whether to show bars on a terminal.

    Returns:
        The columns that the cache now has.

    Raises:
        ReedError: The files cannot be read, hold no samples, or are not those that the cache was
            made from.
    """
    if latents and layout not in CHOSEN:
        raise ReedError(f"--entry {latents} is of {' and '.join(CHOSEN)}; {layout} has one kind")
    _check_place(cache)
    source = Cached(data, layout, latents)
    request = Request(
        PIPELINE,
        cache,
        data=data,
        options=tuple(_options(source, stats, scale, licence)),
        codecs=codecs,
        flip=source.views == 2 if flip is None else flip,
    )
    with _advice():
        prepared = stage_one.prepare(request)
        prepared.check_space()

        # The same steps as `reed-cache build` takes, with nothing to run on a device.
        frozen, made = prepared.freeze(), prepared.make_source()
        how = together.Settings(cache, frozen, made, Share(), 0, progress=progress)
        together.run([job.member() for job in prepared.jobs], how, lambda *_: None)
    return [job.column for job in prepared.jobs]


def _check_place(cache: Path) -> None:
    """Raise ReedError if a folder is there that no import has left."""
    if (cache / "manifest.json").is_file():
        pipeline = schema.load_manifest(cache).pipeline
        if pipeline != PIPELINE:
            problem = f"{cache} is there and is a cache of the pipeline {pipeline!r}"
            raise ReedError(f"{problem}, --layout makes one of {PIPELINE!r}; name another folder")
    elif strange := _stranger(cache):
        raise ReedError(f"{cache} is there and is no cache (it has {strange}); name another folder")


def _stranger(cache: Path) -> str:
    """Return what a folder without a manifest has that no import has left; empty for nothing."""
    found = sorted(path.name for path in cache.iterdir()) if cache.is_dir() else []
    strange = (n for n in found if not (n.startswith(".") or names.is_small(n)))
    return next(strange, "")


@contextlib.contextmanager
def _advice() -> Generator[None]:
    """Say of what command the options are that an error inside the block advises."""
    try:
        yield
    except ReedError as error:
        named = [name for name in _OF_BUILD if name in str(error)]
        if not named:
            raise
        are = "is an option" if len(named) == 1 else "are options"
        said = f"{error} ({' and '.join(named)} {are} of reed-cache build {PIPELINE})"
        raise ReedError(said) from error


def _options(source: Cached, stats: Path | None, scale: float | None, licence: str) -> list[str]:
    """Return the settings of the source and of the encoders, from the first sound sample."""
    sample = _first(source)
    entry, kind = ("moments", "moments") if "moments" in sample else ("latent", "data")
    channels = sample[entry].shape[0] // (1 + (kind == "moments"))
    if scale is None:
        scale = 0.18215 if (kind, channels) == ("moments", 4) else 1.0
    settings: dict[str, Any] = {
        "source.layout": source.layout,
        "latents.kind": kind,
        "latents.channels": channels,
        "latents.size": sample[entry].shape[1],
        "latents.scale": scale,
    }

    # Only what is not the default, so that a cache made by `build` is the same.
    settings |= {"source.latents": f'"{source.latents}"'} if source.latents else {}
    settings |= {"latents.stats": stats.resolve()} if stats else {}
    settings |= {"latents.licence": f'"{licence}"'} if licence else {}
    if "features" in sample:
        tokens, width = sample["features"].shape
        settings |= {"tokens.tokens": tokens, "tokens.channels": width}
        settings |= {"tokens.licence": f'"{licence}"'} if licence else {}
    return [f"{name}={value}" for name, value in settings.items()]


def _first(source: Cached) -> dict[str, Any]:
    """Return the first sample that can be read, of a few."""
    reason = ""
    for key in list(source.listing())[:100]:
        try:
            return source.read(key)
        except BadSample as error:
            reason = reason or f"{key}: {error}"
    raise ReedError(f"no sample of {source.data} can be read: {reason}")
