"""The arena reuses the output arrays of captured operations for results that are not alive at the same time."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class _Piece:
    memory: memoryview
    user: weakref.ref[NDArray[np.float32]] | None = None


class Arena:
    """Allocates float32 arrays; the memory of an array is reused once neither it nor a view of it is referenced.

    Memory is never freed, so a captured graph whose results lie here can be replayed on the same addresses.
    """

    def __init__(self) -> None:
        self._pieces: dict[int, list[_Piece]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all memory."""
        return sum(size * 4 * len(pieces) for size, pieces in self._pieces.items())

    def take(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An array of this shape with any content."""
        size = _size_class(math.prod(shape))
        pieces = self._pieces.setdefault(size, [])
        for piece in pieces:
            if piece.user is None or piece.user() is None:
                break
        else:
            piece = _Piece(np.empty(size, np.float32).data)
            pieces.append(piece)
        return _use(piece, shape)

    def rebind(self, array: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        """A function that returns `array`, which was allocated here, again: an array of the same memory and shape."""
        base, shape = array.base, array.shape
        (piece,) = (p for p in self._pieces[_size_class(array.size)] if p.user is not None and p.user() is base)
        return lambda: _use(piece, shape)


def _size_class(count: int) -> int:
    """A power of two, so that captured graphs of other numbers of rows reuse the memory."""
    return 1 << max(count - 1, 0).bit_length()


def _use(piece: _Piece, shape: tuple[int, ...]) -> NDArray[np.float32]:
    # Views of an array over a foreign buffer reference that array, not the buffer.
    array = np.frombuffer(piece.memory, np.float32, math.prod(shape))
    piece.user = weakref.ref(array)
    return array.reshape(shape)
