"""Blocks that operations free stay mapped for the next ones."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

ARRAYS = 24
# 3 MiB: NumPy asks for large pages, of which a few faults are enough, from 4 MiB on.
PROGRAM = f"""
import resource
import numpy as np
from pocketvlm.backends.native import create

create(1)
for turn in range({ARRAYS}):
    if turn == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(3 << 18, np.float32).fill(1)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / (3 << 8))
"""
NAMES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def turns_with_new_memory(**more: str) -> float:
    """How many of the last arrays got memory that was not mapped."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc has mallopt")
def test_arrays_reuse_freed_memory_unless_the_environment_says_otherwise() -> None:
    assert turns_with_new_memory() < 3
    assert turns_with_new_memory(MALLOC_MMAP_THRESHOLD_="131072") > ARRAYS / 2
