"""Row chunks of a matrix in threads: NumPy releases the interpreter's lock, and a chunk stays in a core's cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

from pocketvlm.quantize.blas import single_threaded_blas

T = TypeVar("T")


def threads_available() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def row_chunks(rows: int, size: int) -> list[slice]:
    """Slices of at most `size` rows, of nearly equal size, so that threads end together."""
    count = max(1, -(-rows // size))
    bounds = [rows * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds) if stop > start]


def run_chunks(work: Callable[[slice], T], chunks: list[slice]) -> list[T]:
    """The results of each chunk, in order."""
    threads = min(len(chunks), threads_available())
    with single_threaded_blas():
        if threads <= 1:
            return [work(chunk) for chunk in chunks]
        with ThreadPoolExecutor(threads, "quantize") as pool:
            return list(pool.map(work, chunks))
