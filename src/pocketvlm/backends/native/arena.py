"""The arena reuses the output arrays of captured operations for results that are not alive at the same time."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class _Chunk:
    memory: memoryview
    user: weakref.ref[NDArray[np.float32]] | None = None


class Arena:
    """Allocates float32 arrays; the memory of an array is reused once neither it nor a view of it is referenced.

    Memory is never freed, so a captured graph whose results lie here can be replayed on the same addresses.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, list[_Chunk]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all memory."""
        return sum(size * 4 * len(chunks) for size, chunks in self._chunks.items())

    def take(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An array of this shape with any content."""
        size = _size_class(math.prod(shape))
        chunks = self._chunks.setdefault(size, [])
        for chunk in chunks:
            if chunk.user is None or chunk.user() is None:
                break
        else:
            chunk = _Chunk(np.empty(size, np.float32).data)
            chunks.append(chunk)
        return _use(chunk, shape)

    def rebind(self, array: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        """A function that returns a new array over the memory of `array`, which was allocated here, in its shape."""
        base, shape = array.base, array.shape
        (chunk,) = (one for one in self._chunks[_size_class(array.size)] if one.user is not None and one.user() is base)
        return lambda: _use(chunk, shape)


def _size_class(count: int) -> int:
    """A power of two, so that captured graphs of other numbers of rows reuse the memory."""
    return 1 << max(count - 1, 0).bit_length()


def _use(chunk: _Chunk, shape: tuple[int, ...]) -> NDArray[np.float32]:
    # Views of an array over a foreign buffer reference that array, not the buffer.
    array = np.frombuffer(chunk.memory, np.float32, math.prod(shape))
    chunk.user = weakref.ref(array)
    return array.reshape(shape)
