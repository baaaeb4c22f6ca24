"""Long-lived arrays share large memory blocks, because the system backs those with large pages.

A separate array of 2 MB gets small pages, and products that read it wait for address translation.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.packfile import round_up

_CACHE_LINE = 64
_SLAB_BYTES = 1 << 26
_OWN_BLOCK_BYTES = 1 << 24  # larger arrays get a block of their own, which can be freed


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any] | type[np.generic]) -> NDArray[Any]:
    """A zeroed array that begins on a cache line; the system maps memory at the first write.

    A block is freed when none of its arrays is referenced.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = _block(size) if size >= _OWN_BLOCK_BYTES else _current.take(size)
    return memory[:size].view(dtype).reshape(shape)


def together(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Copies of arrays, one after the other in a block of their own, each from a cache line on.

    The block is freed when none of the copies is referenced.
    """
    ends = list(accumulate(round_up(array.nbytes, _CACHE_LINE) for array in arrays))
    memory = _block(ends[-1] if ends else 0)
    copies = []
    for array, end in zip(arrays, ends, strict=True):
        start = end - round_up(array.nbytes, _CACHE_LINE)
        copies.append(memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape))
        copies[-1][...] = array
    return copies


class _Slab:
    """The block that is being filled."""

    def __init__(self) -> None:
        self._free: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._lock = threading.Lock()

    def take(self, size: int) -> NDArray[np.uint8]:
        with self._lock:
            if size > len(self._free):
                self._free = _block(_SLAB_BYTES)
            taken, self._free = self._free[:size], self._free[round_up(size, _CACHE_LINE) :]
            return taken


_current = _Slab()


def _block(size: int) -> NDArray[np.uint8]:
    memory = mmap.mmap(-1, round_up(max(size, 1), mmap.PAGESIZE), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
