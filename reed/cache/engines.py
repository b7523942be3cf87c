"""Who calls build_shard: this process, or the ranks of a launch (which split the shards)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from reed.cache import build, schema
from reed.cache.build import Job, Timing
from reed.cache.column import calibration_shards
from reed.errors import ReedError


@dataclass(frozen=True)
class Share:
    """Which shards are ours: every `world`-th one, starting at `rank`."""

    rank: int = 0
    world: int = 1

    def of(self, shards: Sequence[int]) -> list[int]:
        """Our part of some shards."""
        return list(shards[self.rank :: self.world])


def launched_share() -> Share:
    """The share of this process under torchrun or accelerate launch, from RANK and WORLD_SIZE."""
    try:
        share = Share(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError as error:
        raise ReedError(f"RANK and WORLD_SIZE must be integers: {error}") from error
    if not 0 <= share.rank < share.world:
        raise ReedError(f"RANK={share.rank} is not below WORLD_SIZE={share.world}")
    return share


def run(job: Job, share: Share, *, progress: bool = True) -> Timing:
    """Build our missing shards of one column, with a bar; returns the seconds of each stage."""
    ours = share.of(range(job.plan.shards))
    # Every rank calibrates the columns that read this one, on its first shards, which another
    # rank may not have got to: the last thing a rank does is to see to these.
    ours += [shard for shard in calibration_shards(job.plan) if shard not in ours]
    missing = [shard for shard in ours if not build.is_done(job, shard)]
    places = (schema.shard_path, schema.marker_path)
    done = (place(job.cache, job.column, i) for i in set(ours) - set(missing) for place in places)
    schema.sweep(job.cache / job.column.name, {path.name for path in done})
    counts = {shard: len(job.plan.rows(shard)) for shard in ours}
    total = Timing()
    with tqdm(
        total=sum(counts.values()),
        initial=sum(counts[shard] for shard in set(ours) - set(missing)),
        desc=job.column.name, unit="sample", disable=not progress, dynamic_ncols=True,
    ) as bar:  # fmt: skip
        for shard in missing:
            if build.is_done(job, shard):  # by another process, in the meantime
                bar.update(counts[shard])
                continue
            marker, timing = build.build_shard(job, shard)
            total.add(timing)
            bar.set_postfix_str(total.summary())
            bar.update(counts[shard])
            for key, reason in marker.failed.items():
                bar.write(f"{job.column.name}: left out {key!r}: {reason}")
    return total
