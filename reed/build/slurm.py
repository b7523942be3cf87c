"""Job scripts for Slurm: an array whose jobs share the shards of a build, and a check after it.

Every job is the same command with another RANK, so Slurm needs to know nothing about shards, and a
job that starts again builds what is still missing.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reed.build.shared import MOST_WORKERS
from reed.cache import files
from reed.errors import ReedError

_BUILD = """\
#!/bin/bash
# Written by reed-cache build --slurm {jobs}: job K of the array builds every shard of which the
# number, divided by {jobs}, leaves K. Change the lines below as your cluster needs.
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={cores}
{gpu}#SBATCH --time=04:00:00
# A job that is preempted, or whose node fails, starts again; the shards that it finished stay.
#SBATCH --requeue
#SBATCH --open-mode=append
# So does one that comes to its time limit, at most 20 times: see the end.
#SBATCH --signal=B:USR1@60

cd -- {folder} || exit
export RANK="$SLURM_ARRAY_TASK_ID" WORLD_SIZE={jobs}
{command} &
build=$!

again() {{
    kill "$build"
    wait "$build"
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt 20 ]; then
        scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
    fi
    exit 1
}}
trap again USR1
wait "$build"
"""

_CHECK = """\
#!/bin/bash
# Written by reed-cache build --slurm {jobs}: looks whether every shard is there; --deep would also
# read them all. It runs when the last job of the array has ended, however it ended.
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append

cd -- {folder} || exit
{command} || {{
    echo "The cache is not complete: see the logs, and submit again to resume." >&2
    exit 1
}}
"""

_SUBMIT = """\
#!/bin/bash
# Written by reed-cache build --slurm {jobs}: submits the array and the check.
# Options are passed on for both: bash submit.sh --partition=NAME --account=NAME
set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)
logs=${{here//%/%%}}
jobs=$(sbatch --parsable --job-name={name} --output="$logs/build-%a.log" "$@" "$here/build.sbatch")
check=$(sbatch --parsable --job-name={check} --output="$logs/check.log" \\
    --dependency="afterany:${{jobs%%;*}}" "$@" "$here/check.sbatch")
echo "Submitted the array ${{jobs%%;*}} and the check ${{check%%;*}}; logs: $here/*.log"
"""


@dataclass(frozen=True)
class Script:
    """What the jobs run.

    Attributes:
        build: Words of the command that builds.
        check: Words of the command that checks what was built.
        folder: Folder in which both run.
        jobs: Number of jobs of the array.
        shards: Number of shards that they share.
        gpu: Whether each job asks for a GPU.
    """

    build: Sequence[str]
    check: Sequence[str]
    folder: Path
    jobs: int
    shards: int
    gpu: bool

    def write(self, place: Path) -> Path:
        """Write build.sbatch, check.sbatch and submit.sh into a folder; return the last one.

        Raises:
            ReedError: There are more jobs than shards, so some would have nothing to do.
        """
        if self.jobs > self.shards:
            raise ReedError(
                f"--slurm {self.jobs} is more than the cache has shards, which is {self.shards}; "
                f"use at most {self.shards}"
            )
        folder, name = shlex.quote(str(self.folder)), place.name
        every = {"jobs": self.jobs, "folder": folder}
        gpu = "#SBATCH --gres=gpu:1\n" if self.gpu else ""

        # Words are quoted one by one: a path may have spaces.
        build, check = shlex.join(self.build), shlex.join(self.check)
        texts = {
            "build.sbatch": _BUILD.format(
                **every, last=self.jobs - 1, cores=MOST_WORKERS, gpu=gpu, command=build
            ),
            "check.sbatch": _CHECK.format(**every, command=check),
            "submit.sh": _SUBMIT.format(
                **every, name=shlex.quote(name), check=shlex.quote(f"{name}-check")
            ),
        }
        place.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            files.write_atomic(place / file, text.encode())
        return place / "submit.sh"
