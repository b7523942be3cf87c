"""A cache from the hub: fetched beside its place, checked, and only then put there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from reed.bytes import file_sha256, human
from reed.cache import files, schema, verify
from reed.cache import plan as plans
from reed.cache.plan import Plan
from reed.errors import ReedError, suggest
from reed.store import names
from reed.store.hub_repo import Repo, There
from reed.wording import counted

_MANY = 8  # files at once
_LIBRARY = ".cache"  # where the library of the hub notes what it has fetched


@dataclass(frozen=True)
class Pulled:
    """What a pull has done.

    Attributes:
        cache: The folder of the cache.
        commit: The commit that it is of.
        columns: The columns that were fetched.
        bytes: Bytes of all files of these columns.
    """

    cache: Path
    commit: str
    columns: tuple[str, ...]
    bytes: int

    @property
    def lines(self) -> list[str]:
        """What was done."""
        told = f"{self.cache}: {counted(len(self.columns), 'column')}, {human(self.bytes)}"
        listed = f" ({', '.join(self.columns)})" if self.columns else ""
        return [f"{told}{listed}, commit {self.commit[:12]}"]


def pull(url: str, cache: Path, wanted: Sequence[str] = (), *, progress: bool = True) -> Pulled:
    """Fetch a cache from a data set of the hub, or the columns that a cache does not have yet.

    Everything goes to a hidden folder beside ``cache`` first. There every shard is compared with
    the sha256 of its marker, and the lists of keys with that of the manifest. A second call goes on
    where the first was killed.

    Args:
        url: ``hf://datasets/OWNER/NAME``, which ``@REVISION`` may follow.
        cache: Folder to make. If it is the same cache already, it gets the columns that it lacks.
        wanted: Columns to fetch; all by default.
        progress: Whether to show a bar on a terminal.

    Raises:
        ReedError: There is no cache in the data set, no such column, another cache at ``cache``, no
            room, or what came is not what the markers state.
        StoreError: The hub does not do what is asked.
    """
    repo = Repo(url)
    commit = repo.commit()
    there = repo.files(commit)
    if "manifest.json" not in there:
        raise ReedError(
            f"{repo.url} holds no cache (no manifest.json); push one, or wait for a push"
        )
    chosen = _chosen(repo, there, wanted)

    if cache.name in ("", ".."):  # the folder beside it has a name that is made from its own
        cache = cache.resolve()
    if cache.exists() and not (cache / "manifest.json").is_file():
        raise ReedError(f"{cache} is there and is no cache; name another folder")

    # Another pull into the same folder would take its files away.
    work = cache.with_name(f".{cache.name}.pulling")
    cache.parent.mkdir(parents=True, exist_ok=True)
    with files.only_writer(work):
        base = [name for name in there if names.is_small(name) and "/" not in name]
        _fetch(repo, commit, work, {name: there[name] for name in base})
        frozen = plans.load(work)
        is_there = _is_there(cache, work, repo)
        old = [name for name in chosen if is_there and name in schema.columns(cache)]
        for name in old:
            _check_there(cache, frozen, name)
        new = [name for name in chosen if name not in old]
        for folder in (cache / name for name in new):
            if is_there and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
                problem = f"{folder} is there and is no column (no column.json)"
                raise ReedError(f"{problem}; rename or remove it, then rerun")

        total = _columns(repo, commit, work, there, new, frozen, progress)
        _place(cache, work, new, is_there=is_there)
    return Pulled(cache, commit, tuple(new), total)


def _chosen(repo: Repo, there: dict[str, There], wanted: Sequence[str]) -> list[str]:
    """Return the columns to fetch: those that are described are whole."""
    known = sorted(name.split("/")[0] for name in there if name.endswith("/column.json"))
    for name in wanted:
        if name not in known:
            raise ReedError(f"{repo.url} has no column {name!r}.{suggest(name, known)}")
    return list(dict.fromkeys(wanted)) or known


def _is_there(cache: Path, work: Path, repo: Repo) -> bool:
    """Whether the cache is at its place already; ReedError if something else is."""
    if not cache.exists():
        return False
    try:
        mine, theirs = schema.load_manifest(cache), schema.load_manifest(work)
    except ReedError as error:
        raise ReedError(f"{cache} is there and is no cache; name another folder") from error
    if mine.keys_sha256 != theirs.keys_sha256:
        raise ReedError(
            f"{cache} is another cache than {repo.url}: {counted(mine.samples, 'sample')} of "
            f"{mine.pipeline}, there {counted(theirs.samples, 'sample')} of {theirs.pipeline}; "
            "name another folder"
        )
    return True


def _check_there(cache: Path, frozen: Plan, name: str) -> None:
    """Raise ReedError unless a column that is there already is whole."""
    for problem in filter(None, verify.verify(cache, frozen, name)):
        raise ReedError(
            f"column {name!r} of {cache} is there and is not whole ({problem.what}); remove it "
            f"with reed-cache rm {cache / name}, then rerun"
        )


def _columns(
    repo: Repo,
    commit: str,
    work: Path,
    there: dict[str, There],
    new: list[str],
    frozen: Plan,
    progress: bool,
) -> int:
    """Fetch columns and check them; return their bytes."""
    ours = {n: f for n, f in there.items() if n.split("/")[0] in new and names.is_ours(n)}
    total = sum(f.size for f in ours.values())
    room = files.free(work) + files.size_of(work)
    if total > room:
        raise ReedError(
            f"{work.parent} needs {human(total)} and its file system has {human(room)} free; make "
            "room, or pull fewer columns with --column"
        )

    # Shards last: their markers say what they must be.
    small = {name: f for name, f in ours.items() if not names.is_shard(name)}
    shards = {name: f for name, f in ours.items() if names.is_shard(name)}
    _fetch(repo, commit, work, small)
    _fetch(repo, commit, work, shards, bar=tqdm if progress else None)
    for name in new:
        for problem in filter(None, verify.verify(work, frozen, name)):
            raise ReedError(f"{repo.url}/{problem.where}: {problem.what}; push that column again")
    return total


def _fetch(
    repo: Repo, commit: str, work: Path, wanted: dict[str, There], bar: type[tqdm] | None = None
) -> None:
    """Fetch files, several at once, and compare each with its hash."""

    def one(name: str) -> int:
        path = work / name
        if not (path.is_file() and wanted[name].is_same(path)):
            path.unlink(missing_ok=True)
            repo.fetch(name, commit, work)
        if not wanted[name].is_same(path):
            path.unlink()
            raise ReedError(f"{repo.url}/{name} came with another hash than the hub states; rerun")
        if names.is_shard(name):
            _check_shard(repo, work, name, wanted[name])
        return wanted[name].size

    order = sorted(wanted, key=lambda name: name == "manifest.json")
    total = sum(f.size for f in wanted.values())
    quiet = None if bar else True  # None: shown where there is a terminal
    with (
        ThreadPoolExecutor(_MANY, thread_name_prefix="reed-pull") as pool,
        tqdm(total=total, unit="B", unit_scale=True, disable=quiet) as shown,
    ):
        try:
            for size in pool.map(one, order):
                shown.update(size)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check_shard(repo: Repo, work: Path, name: str, stated: There) -> None:
    """Raise ReedError unless a shard, whose hash the hub states, is that of its marker."""
    column, shard = schema.load_column(work, name.split("/")[0]), int(Path(name).stem)
    marker = schema.load_marker(work, column, shard, stats=False)
    digest = stated.sha256 or file_sha256(work / name)
    if marker.sha256 != digest:
        raise ReedError(
            f"{repo.url}/{name}: sha256 {digest[:12]}, its marker says {marker.sha256[:12]}; "
            "push that column again"
        )


def _place(cache: Path, work: Path, new: Iterable[str], *, is_there: bool) -> None:
    """Give what was fetched its place: the whole cache, or a column after the other."""
    files.remove(work / _LIBRARY)
    if is_there:
        for name in new:
            os.rename(work / name, cache / name)
        files.remove(work)
    else:
        os.rename(work, cache)
    files.sync(cache.parent)
