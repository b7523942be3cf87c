"""A cache on its way to the hub: shard by shard, and a cache there only when it is whole."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from reed.bytes import file_sha256, human
from reed.cache import account, key_lists, place, schema, verify
from reed.cache import plan as plans
from reed.cache.plan import Plan
from reed.cache.schema import Column
from reed.errors import ReedError, suggest
from reed.exchange import card, private
from reed.exchange.card import Listed
from reed.store.hub_repo import KIND, Repo, There
from reed.wording import counted

FILES, BYTES = 100, 4 << 30  # of one commit: a killed push sends no more than that again
README = "README.md"


@dataclass(frozen=True)
class Pushed:
    """What a push has done.

    Attributes:
        url: The data set.
        commit: The commit after it.
        sent: Bytes of the files that were sent.
        files: Number of these files.
        there: Number of files that were there already.
        kept_card: Whether a card of somebody else was left alone.
        private: Settings that were left out, because they are paths of this machine.
    """

    url: str
    commit: str
    sent: int
    files: int
    there: int
    kept_card: bool
    private: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """What was done."""
        told = f"{self.url}: {counted(self.files, 'file')} sent, {human(self.sent)}"
        also = f", {self.there:,} were there already" if self.there else ""
        lines = [f"{told}{also}; commit {self.commit[:12]}"]
        if self.kept_card:
            lines.append(f"{self.url}/{README} stays as it is: reed did not write it")
        if self.private:
            told = f"left out, as paths of this machine: {', '.join(self.private)}"
            lines.append(f"{self.url}: {told}; values and identities do not depend on them")
        return lines


@dataclass(frozen=True)
class _File:
    """A file to send: its name there, and its hash where the marker states it."""

    name: str
    path: Path
    sha256: str = ""


def push(
    cache: Path, url: str, names: Sequence[str] = (), *, public: bool = False, progress: bool = True
) -> Pushed:
    """Store a cache in a data set of the hub, or what is new of it.

    Shards go with their markers, the manifest goes last: before it there is no cache there. What
    is there already is not sent again, so a second call goes on where the first was killed.

    Args:
        cache: Folder of the cache.
        url: ``hf://datasets/OWNER/NAME``; a data set that is not there is created.
        names: Columns to push; all by default.
        public: Whether everybody may read a data set that is created.
        progress: Whether to show a bar on a terminal.

    Raises:
        ReedError: A column is missing, incomplete or damaged, or the data set holds another cache.
        StoreError: The hub does not do what is asked.
    """
    frozen = plans.load(cache)
    columns = _columns(cache, frozen, names)
    repo = Repo(url)
    repo.need_token()

    create = {"repo_type": KIND, "private": not public, "exist_ok": True}
    repo.tried("write", lambda: repo.api.create_repo(repo.name, **create))
    commit = repo.commit()
    there = repo.files(commit)
    with tempfile.TemporaryDirectory() as scratch:
        _check_same(cache, frozen, columns, repo, there, commit, Path(scratch))

        # The card is written anew, unless somebody has written one in its place.
        listed = [_listed(cache, frozen, column) for column in columns]
        readme = Path(scratch) / README
        readme.write_text(card.card(cache.resolve().name, repo.url, frozen, listed), "utf-8")
        kept = README in there and not _is_ours(repo, commit, Path(scratch))

        # Paths of this machine stay on it, but for those that identities depend on.
        for line in (line for column in columns for line in private.stays(column)):
            tqdm.write(line, file=sys.stderr)
        places, names = _public(cache, columns, Path(scratch) / "public")
        shards = [
            (shard, _File(marker.name, _public_marker(marker, Path(scratch) / "public")))
            for column in columns
            for shard, marker in _shards(cache, frozen, column)
        ]
        small = [_File(f.name, places.get(f.name, f.path)) for f in _small(cache, frozen, columns)]
        last = [*small, *([] if kept else [_File(README, readme)])]
        done = _send(repo, shards, last, there, commit, kept=kept, progress=progress)
        return replace(done, private=tuple(names))


def _columns(cache: Path, frozen: Plan, names: Sequence[str]) -> list[Column]:
    """Return the chosen columns, each of which must be whole."""
    known = schema.columns(cache)
    for name in names:
        if name not in known:
            raise ReedError(f"cache {cache} has no column {name!r}.{suggest(name, known)}")
    chosen = list(dict.fromkeys(names)) or known
    if not chosen:
        raise ReedError(f"{cache} has no columns; build one with: reed-cache build")
    for name in chosen:
        for problem in filter(None, verify.verify(cache, frozen, name)):
            advice = f"build or repair it first: reed-cache repair {cache}"
            raise ReedError(f"{problem.where}: {problem.what}; {advice}")
    return [schema.load_column(cache, name) for name in chosen]


def _listed(cache: Path, frozen: Plan, column: Column) -> Listed:
    shards = range(frozen.shards)
    markers = [schema.load_marker(cache, column, shard, stats=False) for shard in shards]
    return Listed(column, sum(m.bytes for m in markers), sum(len(m.failed) for m in markers))


def _check_same(
    cache: Path,
    frozen: Plan,
    columns: list[Column],
    repo: Repo,
    there: dict[str, There],
    commit: str,
    scratch: Path,
) -> None:
    """Raise ReedError if the data set holds another cache, or another column of that name."""
    # A cache that was extended since has the same lists of keys, and more of them.
    if "manifest.json" in there:
        theirs = json.loads(repo.fetch("manifest.json", commit, scratch).read_bytes())
        segments = range(min(len(theirs["segments"]), len(frozen.manifest.segments)))
        lists = [key_lists.path_of(cache, i) for i in segments]
        is_same = all(p.name in there and there[p.name].is_same(p) for p in lists)
        if not is_same or len(theirs["segments"]) > len(frozen.manifest.segments):
            raise ReedError(
                f"{repo.url} holds another cache: {counted(sum(theirs['segments']), 'sample')} "
                f"of {theirs['pipeline']}, {cache} has {counted(frozen.manifest.samples, 'sample')}"
                f" of {frozen.manifest.pipeline}; name another data set"
            )

    # A shard that is there would be of another encoder, or in another container.
    for column in columns:
        name = f"{column.name}/column.json"
        public = _written(scratch / "same.json", private.column(cache, column)[0])
        if name in there and not any(map(there[name].is_same, (cache / name, public))):
            raise ReedError(
                f"column {column.name!r} of {repo.url} was made in another way than that of "
                f"{cache}; give it another name, or remove it there"
            )


def _is_ours(repo: Repo, commit: str, scratch: Path) -> bool:
    """Whether the card of the data set is of an earlier push, or empty as a new one."""
    text = repo.fetch(README, commit, scratch / "there").read_text("utf-8", errors="replace")
    return card.MADE in text or not text.strip()


def _public(cache: Path, columns: list[Column], folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Write the descriptions to publish that are others than those of the cache.

    Returns:
        Their paths by the name that they get, and the names of the settings that they lack.
    """
    places, gone = {}, []
    for name, (data, left_out) in {
        "manifest.json": private.manifest(cache),
        **{f"{each.name}/column.json": private.column(cache, each) for each in columns},
    }.items():
        if left_out:
            places[name] = _written(folder / name, data)
            gone += left_out
    return places, gone


def _public_marker(marker: _File, folder: Path) -> Path:
    """Return the path of the marker to publish, which is that of the cache where it may be."""
    data = private.marker(marker.path)
    return marker.path if data == marker.path.read_bytes() else _written(folder / marker.name, data)


def _written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _shards(cache: Path, frozen: Plan, column: Column) -> Iterator[tuple[_File, _File]]:
    """Yield each shard of a column and its marker."""
    for shard in range(frozen.shards):
        marker = schema.load_marker(cache, column, shard, stats=False)
        path, beside = (f(cache, column, shard) for f in (schema.shard_path, schema.marker_path))
        names = [each.relative_to(cache).as_posix() for each in (path, beside)]
        yield _File(names[0], path, marker.sha256), _File(names[1], beside)


def _small(cache: Path, frozen: Plan, columns: list[Column]) -> Iterator[_File]:
    """Yield the files that make what was sent a cache."""
    for column in columns:
        for name in ("calibration.npz", "column.json"):
            if (cache / column.name / name).is_file():
                yield _File(f"{column.name}/{name}", cache / column.name / name)
    lists = [key_lists.path_of(cache, i).name for i in range(len(frozen.manifest.segments))]
    for name in (*lists, account.NAME, "manifest.json"):
        if (cache / name).is_file():
            yield _File(name, cache / name)


def _send(
    repo: Repo,
    shards: list[tuple[_File, _File]],
    last: list[_File],
    there: dict[str, There],
    commit: str,
    *,
    kept: bool,
    progress: bool,
) -> Pushed:
    """Store the files that are not there yet: shards in commits of some size, then the rest."""
    sent = count = 0
    every = 2 * len(shards) + len(last)
    quiet = None if progress else True  # None: shown where there is a terminal
    with tqdm(total=len(shards), unit="shard", disable=quiet) as bar:
        for batch in _batches(shards, there, bar):
            commit = repo.put({f.name: _sound(f) for f in batch}, f"{len(batch)} files of shards")
            sent, count = sent + sum(_size(f) for f in batch), count + len(batch)

    missing = [f for f in last if f.name not in there or not there[f.name].is_same(f.path)]
    if missing:
        commit = repo.put({f.name: f.path for f in missing}, "The cache is whole")
        sent, count = sent + sum(_size(f) for f in missing), count + len(missing)
    return Pushed(repo.url, commit, sent, count, every - count, kept)


def _batches(
    shards: list[tuple[_File, _File]], there: dict[str, There], bar: tqdm
) -> Iterator[list[_File]]:
    """Yield what is not there yet, in lists that are one commit each."""
    batch: list[_File] = []
    for pair in shards:
        missing = [
            f for f in pair if f.name not in there or not there[f.name].is_same(f.path, f.sha256)
        ]
        batch += missing
        bar.update()
        if len(batch) >= FILES or sum(_size(f) for f in batch) >= BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _sound(file: _File) -> Path:
    """Return the path of a file, which must be what its marker states."""
    path = place.whole(file.path, file.sha256) if file.sha256 else file.path
    if file.sha256 and (digest := file_sha256(path)) != file.sha256:
        raise ReedError(
            f"{path}: sha256 {digest[:12]}, its marker says {file.sha256[:12]}; run reed-cache "
            f"repair {path.parent.parent}"
        )
    return path


def _size(file: _File) -> int:
    return place.size_of(file.path) or 0 if file.sha256 else file.path.stat().st_size
