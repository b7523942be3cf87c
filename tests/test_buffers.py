"""Large buffers are reused: after `import reed` the kernel does not map them anew each time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

MIB = 48
CODE = f"""
import resource, sys
if "reed" in sys.argv: import reed
import numpy as np
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4): np.empty({MIB} << 20, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def faults(*words: str, **variables: str) -> int:
    """Page faults of filling four buffers of 48 MiB, one after another."""
    plain = {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", CODE, *words]
    return int(subprocess.check_output(command, env=plain | variables, text=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_buffer_is_mapped_once_unless_the_user_has_decided():
    # Of huge pages, which a machine may have or not, there are fewer: 24 in a buffer.
    assert faults("reed") < 10 < 50 < faults()
    assert faults("reed", MALLOC_MMAP_MAX_="65536") > 50
    assert faults("reed", GLIBC_TUNABLES="glibc.malloc.mmap_max=65536") > 50
