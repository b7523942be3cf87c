"""What may change between two builds of a cache: only new samples, and only on request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reed.cache.schema import Manifest
from reed.errors import ReedError


def check_settings(cache: Path, manifest: Manifest, asked: Mapping[str, Any], flip: bool) -> None:
    """Raise ReedError unless the cache was planned with these settings.

    Args:
        cache: Folder of the cache, for the messages.
        manifest: Manifest of the cache.
        asked: Settings of this build, by their name in the manifest.
        flip: Whether this build asks for the mirrored samples.
    """
    for name, wanted in asked.items():
        frozen = getattr(manifest, name)
        if name == "options":
            _check_options(cache, frozen, wanted)
        elif frozen != wanted:
            problem = f"{cache} was built with {name} {frozen!r}, not {wanted!r}"
            raise ReedError(f"{problem}; name another folder with --cache")

    # Fewer views are no conflict: a rerun need not repeat --flip.
    if flip and manifest.views == 1:
        raise ReedError(
            f"{cache} was planned with 1 view of each sample, --flip asks for 2; "
            "name another folder with --cache, or start anew with --rebuild"
        )


def _check_options(cache: Path, frozen: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ReedError for the first setting of the source that differs; class names may grow."""
    for name in sorted({*frozen, *wanted} - {"classes"}):
        was, now = (
            repr(table[name]) if name in table else "its default" for table in (frozen, wanted)
        )
        if was != now:
            raise ReedError(
                f"{cache} was built with source.{name} = {was}, not {now}; name another folder "
                "with --cache, or start anew with --rebuild"
            )


def new_samples(
    cache: Path, frozen: Mapping[str, str], listing: Mapping[str, str], extend: bool
) -> dict[str, str]:
    """Return the samples that an extension adds: key -> stamp.

    Args:
        cache: Folder of the cache, for the message.
        frozen: Key -> stamp, of the plan.
        listing: Key -> stamp, of the source now.
        extend: Whether the plan may be extended.

    Raises:
        ReedError: The source differs in any other way; the message has the first differences.
    """
    if frozen == listing:  # one look-up per sample, for a million of them
        return {}
    differences = {
        "new": [key for key in listing if key not in frozen],
        "gone": [key for key in frozen if key not in listing],
        "changed": [k for k, stamp in frozen.items() if k in listing and listing[k] != stamp],
    }
    if extend and not (differences["gone"] or differences["changed"]):
        return {key: listing[key] for key in differences["new"]}

    # The first of each kind is enough to recognise what has happened to the source.
    counts = [
        f"{len(keys)} {kind} (first: {min(keys)!r})" for kind, keys in differences.items() if keys
    ]
    if counts:
        raise ReedError(
            f"the source is not what {cache} was planned from: {', '.join(counts)}; restore it, "
            "add what is new (and only that) with --extend, or start anew with --rebuild"
        )
    return {}
