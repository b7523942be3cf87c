"""Writing a cache in another format: shard by shard, and visible only when it is whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from reed.bytes import human
from reed.cache import files, schema
from reed.cache.opened import Cache
from reed.errors import ReedError
from reed.exchange import FORMATS, Format, private
from reed.exchange.table import Table
from reed.wording import counted, named

NAME = "export.json"  # what was exported, and what was left out
_REQUEST = "export-request.json"  # while it is being written
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Exported:
    """What an export has written.

    Attributes:
        out: The folder.
        samples: Number of samples.
        rows: Number of rows: samples times views.
        left_out: Column -> key -> reason, of the samples that a column lacks.
    """

    out: Path
    samples: int
    rows: int
    left_out: dict[str, dict[str, str]]

    @property
    def lines(self) -> list[str]:
        """What was written, and a line for each column that lacks samples."""
        rows = "" if self.rows == self.samples else f", {counted(self.rows, 'row')}"
        told = [f"{self.out}: {counted(self.samples, 'sample')}{rows}"]
        for column, failed in self.left_out.items():
            if failed:
                keys = named(list(failed))
                told.append(
                    f"left out: {counted(len(failed), 'sample')} that column {column} lacks "
                    f"({keys}); {self.out / NAME} has the reasons"
                )
        return told


def export(
    cache: Cache,
    to: str,
    out: Path,
    places: Sequence[str] = (),
    *,
    dtype: str = "float32",
    progress: bool = True,
) -> Exported:
    """Write the samples that all chosen columns have in another format.

    The work is done in a hidden folder beside ``out``, which is renamed at the end. Where the
    format allows it, a second call goes on with the shard at which the first one was killed.

    Args:
        cache: The open cache.
        to: Name of the format.
        out: Folder to write; it must not exist.
        places: "column" or "column/field"; all columns where there are none.
        dtype: Type of floating-point values: float32 or float16.
        progress: Whether to show a progress bar on a terminal.

    Raises:
        ReedError: The format or a column is unknown, a column is incomplete or damaged, ``out``
            exists, there is no room, or the library of the format is missing.
    """
    format_class = FORMATS.get(to)
    if out.exists():
        raise ReedError(f"{out} exists; remove it, or name another folder with --out")
    table = Table(cache, places, dtype)
    writer: Format = format_class(table)
    work = out.with_name(f".{out.name}.exporting")
    if writer.copies:
        _check_room(table, work)

    try:
        with files.only_writer(work):
            _begin(work, schema.dump(_request(table, to)), writer.resumes)
            writer.open(work)
            _write(writer, table, progress)
            account = _account(table, to)
            files.write_atomic(work / NAME, schema.dump(account))
            (work / _REQUEST).unlink()
            os.rename(work, out)
            files.sync(out.parent)
    except Exception as error:
        # Libraries wrap what the system says in errors of their own.
        if getattr(error, "errno", 0) in _NO_ROOM or "No space left" in str(error):
            problem = f"cannot write {work}: no space left"
            raise ReedError(f"{problem}; make room there, then rerun") from error
        raise
    samples = int(table.kept.sum())
    return Exported(out, samples, samples * table.views, table.left_out)


def _write(writer: Format, table: Table, progress: bool) -> None:
    """Write the shards that are not there yet, and then what describes them all."""
    shards = table.cache.plan.shards
    quiet = None if progress else True  # None: shown where there is a terminal
    with tqdm(total=shards, unit="shard", disable=quiet) as bar:
        for shard in range(shards):
            if not writer.has(shard):
                table.check(shard)
                writer.write(shard, table.rows(shard))
            bar.update()
    writer.finish()


def _begin(work: Path, request: bytes, resumes: bool) -> None:
    """Empty the folder, unless it is of a killed export of the same request that can go on."""
    path = work / _REQUEST
    if resumes and path.is_file() and path.read_bytes() == request:
        return
    for old in work.iterdir():
        files.remove(old)
    files.write_atomic(path, request)


def _check_room(table: Table, work: Path) -> None:
    """Raise ReedError if the values alone are more than the file system has free."""
    need, room = table.bytes(), files.free(work) + files.size_of(work)
    if need > room:
        raise ReedError(
            f"{work.parent} needs {human(need)} and its file system has {human(room)} free; make "
            "room, choose another --out, fewer columns or --dtype float16"
        )


def _request(table: Table, to: str) -> dict[str, Any]:
    """Return all that the bytes of an export depend on."""
    manifest = table.cache.manifest
    return {
        "format": to,
        "cache": str(table.cache.folder.resolve()),
        "keys_sha256": manifest.keys_sha256,
        "views": table.views,
        "dtype": table.dtype,
        "features": [feature.name for feature in table.features],
        "columns": {name: column.identity() for name, column in table.columns.items()},
        "samples": int(table.kept.sum()),
    }


def _account(table: Table, to: str) -> dict[str, Any]:
    """Return the content of export.json."""
    described = {
        f.name: {"kind": f.field.kind, "type": f.dtype, "shape": list(f.shape)}
        for f in table.features
    }
    licences = {name: column.licence for name, column in table.columns.items()}
    left_out = {  # the folder may be published, so reasons name no path of this machine
        name: {key: private.text(reason) for key, reason in failed.items()}
        for name, failed in table.left_out.items()
        if failed
    }
    more = {"classes": list(table.cache.classes), "licences": licences, "left_out": left_out}
    return _request(table, to) | {"cache": table.cache.folder.name, "features": described} | more
