"""Packs the fields of a quantized matrix into the blocks of a GGUF type: the inverse of `checkpoint/formats/gguf.py`.

Layouts: llama.cpp's `ggml-common.h`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.errors import TensorError

Bytes = NDArray[np.uint8]
Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Fields:
    """The fields of n blocks, under the names of `BlockType` in the reader.

    codes: uint8 or int8 [n, values of a block]. scales, biases: [n, groups of a block]. super_scales, super_biases:
    float16 [n, 1].
    """

    codes: Numbers
    scales: Numbers
    super_scales: Numbers | None = None
    biases: Numbers | None = None
    super_biases: Numbers | None = None


def pack(kind: str, fields: Fields) -> Bytes:
    """The blocks uint8 [n, bytes of a block] of one of PACKED. Raises TensorError for a number that has no room."""
    layout = _LAYOUTS[kind]
    for what, numbers, limits in (
        ("code", fields.codes, layout.codes),
        ("scale", fields.scales, layout.scales),
        ("bias", fields.biases, layout.scales),
    ):
        if numbers is not None and limits is not None and numbers.size:
            low, high = int(numbers.min()), int(numbers.max())
            if low < limits[0] or high > limits[1]:
                wrong = low if low < limits[0] else high
                raise TensorError(f"the {what} {wrong} does not fit {kind}, which holds {limits[0]} to {limits[1]}")
    blocks: Bytes = np.concatenate(layout.parts(fields), axis=1)
    return blocks


def _bytes(numbers: Numbers | None) -> Bytes:
    """Numbers [n, k] as their bytes, little-endian."""
    assert numbers is not None
    found: Bytes = np.ascontiguousarray(numbers).view(np.uint8).reshape(len(numbers), -1)
    return found


def _negated(numbers: Numbers | None) -> Bytes:
    """K-quants store what is subtracted."""
    assert numbers is not None
    return _bytes(-numbers)


def _unsigned(codes: Numbers, offset: int) -> Bytes:
    """Signed numbers as uint8: an offset makes them positive."""
    found: Bytes = (codes.astype(np.int16) + offset).astype(np.uint8)
    return found


def _nibbles(codes: Numbers, run: int) -> Bytes:
    """[n, 2 b] -> [n, b]: of each two runs the first in the low nibbles, the second in the high ones."""
    pairs = codes.reshape(len(codes), -1, 2, run)
    found: Bytes = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(codes), -1)
    return found


def _pairs_of_bits(codes: Numbers, run: int) -> Bytes:
    """[n, 4 b] -> [n, b]: of each four runs the first in the lowest two bits, then the next two, and so on."""
    runs = codes.reshape(len(codes), -1, 4, run)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    found: Bytes = np.bitwise_or.reduce(runs << shifts, axis=2).astype(np.uint8).reshape(len(codes), -1)
    return found


def _bits(codes: Numbers) -> Bytes:
    """[n, 8 b] -> [n, b]: the first b codes of one bit in the lowest bits of all bytes, and so on."""
    planes = codes.reshape(len(codes), 8, -1)
    found: Bytes = np.bitwise_or.reduce(planes << np.arange(8, dtype=np.uint8)[:, None], axis=1).astype(np.uint8)
    return found


def _five_bits(codes: Bytes) -> list[Bytes]:
    """The word of the fifth bits of 32 codes, then their nibbles."""
    return [np.packbits(codes >> 4, axis=1, bitorder="little"), _nibbles(codes & 15, 16)]


def _six_bit_scales(scales: Numbers, biases: Numbers | None) -> Bytes:
    """Eight scales and eight biases of 6 bits in 12 bytes."""
    assert biases is not None
    first = [numbers[:, :4] | numbers[:, 4:] >> 4 << 6 for numbers in (scales, biases)]
    return np.concatenate([*first, scales[:, 4:] & 15 | (biases[:, 4:] & 15) << 4], axis=1)


def _q2_k(f: Fields) -> list[Bytes]:
    assert f.biases is not None
    return [f.scales | f.biases << 4, _pairs_of_bits(f.codes, 32), _bytes(f.super_scales), _negated(f.super_biases)]


def _q3_k(f: Fields) -> list[Bytes]:
    codes, scales = _unsigned(f.codes, 4), _unsigned(f.scales, 32)
    low = [_bits(codes >> 2), _pairs_of_bits(codes & 3, 32)]
    return [*low, _nibbles(scales & 15, 8), _pairs_of_bits(scales >> 4, 4), _bytes(f.super_scales)]


def _k_scales(f: Fields) -> list[Bytes]:
    return [_bytes(f.super_scales), _negated(f.super_biases), _six_bit_scales(f.scales, f.biases)]


def _q6_k(f: Fields) -> list[Bytes]:
    codes = _unsigned(f.codes, 32)
    return [_nibbles(codes & 15, 64), _pairs_of_bits(codes >> 4, 32), _bytes(f.scales), _bytes(f.super_scales)]


def _iq4_xs(f: Fields) -> list[Bytes]:
    scales = _unsigned(f.scales, 32).reshape(len(f.scales), -1, 1)
    high = _pairs_of_bits(np.ascontiguousarray(scales >> 4), 1)
    return [_bytes(f.super_scales), high, _nibbles(scales & 15, 1), _nibbles(f.codes, 16)]


@dataclass(frozen=True, slots=True)
class _Layout:
    """parts: the bytes of a block in order. codes, scales: the smallest and largest that have room."""

    parts: Callable[[Fields], list[Bytes]]
    codes: tuple[int, int]
    scales: tuple[int, int] | None = None


_LAYOUTS: Mapping[str, _Layout] = {
    "Q8_0": _Layout(lambda f: [_bytes(f.scales), _bytes(f.codes)], (-128, 127)),
    "Q4_0": _Layout(lambda f: [_bytes(f.scales), _nibbles(_unsigned(f.codes, 8), 16)], (-8, 7)),
    "Q4_1": _Layout(lambda f: [_bytes(f.scales), _bytes(f.biases), _nibbles(f.codes, 16)], (0, 15)),
    "Q5_0": _Layout(lambda f: [_bytes(f.scales), *_five_bits(_unsigned(f.codes, 16))], (-16, 15)),
    "Q5_1": _Layout(lambda f: [_bytes(f.scales), _bytes(f.biases), *_five_bits(f.codes)], (0, 31)),
    "Q2_K": _Layout(_q2_k, (0, 3), (0, 15)),
    "Q3_K": _Layout(_q3_k, (-4, 3), (-32, 31)),
    "Q4_K": _Layout(lambda f: [*_k_scales(f), _nibbles(f.codes, 32)], (0, 15), (0, 63)),
    "Q5_K": _Layout(lambda f: [*_k_scales(f), _bits(f.codes >> 4), _nibbles(f.codes & 15, 32)], (0, 31), (0, 63)),
    "Q6_K": _Layout(_q6_k, (-32, 31), (-128, 127)),
    "IQ4_NL": _Layout(lambda f: [_bytes(f.scales), _nibbles(f.codes, 16)], (0, 15)),
    "IQ4_XS": _Layout(_iq4_xs, (0, 15), (-32, 31)),
    "MXFP4": _Layout(lambda f: [_bytes(f.scales), _nibbles(f.codes, 16)], (0, 15)),
    "NVFP4": _Layout(lambda f: [_bytes(f.scales), _nibbles(f.codes, 8)], (0, 15)),
}
PACKED = tuple(_LAYOUTS)
