"""Damaged and random files: each is read or refused with an error of ours; no crash, no hang, bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# A file of some kilobytes that takes so long hangs.
HANGS = 60.0
MAX_BYTES = 1 << 30


def fuzz(seed: int, count: int, seconds: float) -> tuple[int, int]:
    """Files read and files refused by a process of its own."""
    path = os.pathsep.join([str(HERE.parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(HERE / "fuzzing.py"), str(seed), str(count), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": path},
    )
    last, errors = "nothing", []
    drain = threading.Thread(target=lambda: errors.append(process.stderr.read() if process.stderr else ""))
    drain.start()
    watchdog = threading.Timer(HANGS, process.kill)
    watchdog.start()
    assert process.stdout is not None
    for line in process.stdout:
        last = line.strip()
        watchdog.cancel()
        watchdog = threading.Timer(HANGS, process.kill)
        watchdog.start()
    code = process.wait()
    watchdog.cancel()
    drain.join()
    process.stdout.close()
    assert code == 0, f"seed {seed}, after {last!r}: exit {code}\n{errors[0][-3000:]}"
    assert last.startswith("done "), last
    read, refused, peak = map(int, last.split()[1:])
    assert peak < MAX_BYTES
    return read, refused


def test_a_few_damaged_files() -> None:
    read, refused = fuzz(1, 250, 120)
    assert read + refused >= 250
    assert min(read, refused) > 10


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
def test_damaged_files_for_ten_minutes(seed: int) -> None:
    read, refused = fuzz(100 + seed, 1 << 30, 300)
    assert min(read, refused) > 1000
