"""Codes of any width packed end to end, least significant bit first, as MLX and compressed-tensors pack them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.tensors import LazyArray

Bytes = NDArray[np.uint8]

_CHUNK = 1 << 20  # codes that are unpacked at once


def packed_codes(words: NDArray[Any], bits: int, shape: tuple[int, int]) -> LazyArray:
    """The codes uint8 [rows, columns] of little-endian words [rows, words], unpacked when they are used."""
    return LazyArray(shape, np.dtype(np.uint8), lambda: unpack(words, bits, shape[1]))


def unpack(words: NDArray[Any], bits: int, columns: int) -> Bytes:
    """The codes uint8 [rows, columns] of little-endian words [rows, words] of any integer type.

    Each row is one stream: code k takes the bits from k * bits on, and may straddle words. bits: 1 to 8.
    """
    stream = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1)
    return _in_chunks(_whole if 8 % bits == 0 else _straddling, stream, bits, columns)


def unpack_words(words: NDArray[Any], bits: int, columns: int) -> Bytes:
    """The same of 32-bit words that are filled each by itself: 32 // bits codes, and some unused bits."""
    return _in_chunks(_whole, np.ascontiguousarray(words).view("<u4"), bits, columns)


def _in_chunks(method: Callable[[NDArray[Any], int], Bytes], units: NDArray[Any], bits: int, columns: int) -> Bytes:
    codes = np.empty((len(units), columns), np.uint8)
    step = max(1, _CHUNK // max(1, columns))
    for at in range(0, len(units), step):
        codes[at : at + step] = method(units[at : at + step], bits)[:, :columns]
    return codes


def _whole(units: NDArray[Any], bits: int) -> Bytes:
    """Codes of bytes or words that hold a whole number of them."""
    return _fields(units, bits, 8 * units.itemsize // bits)


def _straddling(stream: Bytes, bits: int) -> Bytes:
    """Codes of which `bits` bytes hold eight."""
    rows, size = stream.shape
    groups = -(-size // bits)
    padded = np.zeros((rows, groups * bits), np.uint8)
    padded[:, :size] = stream
    words = np.zeros((rows, groups, 8), np.uint8)
    words[:, :, :bits] = padded.reshape(rows, groups, bits)
    return _fields(words.view("<u8")[:, :, 0], bits, 8)


def _fields(units: NDArray[Any], bits: int, each: int) -> Bytes:
    """The lowest `each` codes of bytes or words."""
    rows, size = units.shape
    codes = np.empty((rows, size * each), np.uint8)
    one = units.dtype.type
    for index in range(each):
        codes[:, index::each] = units >> one(index * bits) & one(2**bits - 1)
    return codes
