"""Packs and unpacks codes of any width that lie end to end in words of any type, least significant bit first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pocketvlm.tensors import LazyArray

Bytes = NDArray[np.uint8]
Order = NDArray[np.integer[Any]]

_CHUNK = 1 << 22  # codes that are unpacked at once


def word_count(codes: int, bits: int) -> int:
    """The 32-bit words that hold so many codes end to end."""
    return -(-codes * bits // 32)


def packed_codes(words: NDArray[Any], bits: int, shape: tuple[int, int]) -> LazyArray:
    """The codes uint8 [rows, columns] of little-endian words [rows, words], unpacked when they are used."""
    return LazyArray(shape, np.dtype(np.uint8), lambda: unpack(words, bits, shape[1]))


def unpack(words: NDArray[Any], bits: int, columns: int, order: Order | None = None) -> Bytes:
    """The codes uint8 [rows, columns] of little-endian words [rows, words] of any integer type.

    Each row is one stream: code k takes the bits from k * bits on, and may straddle words. bits: 1 to 8. order: the
    code that each column takes (None: its own). Temporary memory is bounded.
    """
    return _in_chunks(_whole if 8 % bits == 0 else _straddling, words, np.uint8, bits, columns, order)


def unpack_words(words: NDArray[Any], bits: int, columns: int, order: Order | None = None) -> Bytes:
    """The same of 32-bit words that are filled each by itself: 32 // bits codes, and some unused bits."""
    return _in_chunks(_whole, words, "<u4", bits, columns, order)


def byte_count(codes: int, bits: int) -> int:
    """The bytes that hold so many codes end to end."""
    return -(-codes * bits // 8)


def pack(codes: NDArray[Any], bits: int) -> Bytes:
    """The inverse of `unpack`: bytes [rows, bytes] of codes [rows, columns], whose higher bits are dropped."""
    rows, columns = codes.shape
    size = byte_count(columns, bits)
    packed = np.empty((rows, size), np.uint8)
    for part in chunks(rows, columns):
        packed[part] = _pack_chunk(codes[part].view(np.uint8), bits)[:, :size]
    return packed


def pack_words(codes: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """The same as little-endian words [rows, words], the last of which may have unused bits."""
    rows, columns = codes.shape
    words = np.zeros((rows, 4 * word_count(columns, bits)), np.uint8)
    words[:, : byte_count(columns, bits)] = pack(codes, bits)
    return words.view("<i4")


def chunks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows of a matrix, each with a bounded number of codes."""
    step = max(1, _CHUNK // max(1, columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _in_chunks(
    method: Callable[[NDArray[Any], int], Bytes],
    words: NDArray[Any],
    unit: DTypeLike,
    bits: int,
    columns: int,
    order: Order | None,
) -> Bytes:
    codes = np.empty((len(words), columns), np.uint8)
    for rows in chunks(len(words), columns):
        units = np.ascontiguousarray(words[rows], words.dtype.newbyteorder("<")).view(unit)
        found = method(units, bits)[:, :columns]
        codes[rows] = found if order is None else found[:, order]
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


def _pack_chunk(codes: Bytes, bits: int) -> Bytes:
    """Codes as bytes that each hold a whole number of them, or as runs of `bits` bytes that hold eight."""
    rows, columns = codes.shape
    each, unit = (8 // bits, np.uint8) if 8 % bits == 0 else (8, np.dtype("<u8"))
    padded = np.zeros((rows, -(-columns // each) * each), np.uint8)
    padded[:, :columns] = codes & np.uint8(2**bits - 1)
    words = np.zeros((rows, padded.shape[1] // each), unit)
    one = words.dtype.type
    for index in range(each):
        words |= padded[:, index::each].astype(words.dtype) << one(index * bits)
    if each == 8 // bits:
        return words.view(np.uint8)
    return np.ascontiguousarray(words.view(np.uint8).reshape(rows, -1, 8)[:, :, :bits]).reshape(rows, -1)


def _fields(units: NDArray[Any], bits: int, each: int) -> Bytes:
    """The lowest `each` codes of bytes or words."""
    rows, size = units.shape
    codes = np.empty((rows, size * each), np.uint8)
    one = units.dtype.type
    for index in range(each):
        codes[:, index::each] = units >> one(index * bits) & one(2**bits - 1)
    return codes
