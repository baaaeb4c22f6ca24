"""Writers of AWQ, GPTQ and AutoRound arrays, from the description of the formats and with NumPy alone.

They share nothing with the readers. `CHECKS` in tests/checkpoint/formats/test_words.py ties them to the real packers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors_kit import Arrays

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def packed(codes: NDArray[np.integer], bits: int, word: int = 32) -> NDArray[np.unsignedinteger]:
    """Codes [rows, n] end to end in words [rows, ...] of so many bits, the first in the lowest bits."""
    rows = []
    for row in codes.tolist():
        number = sum(code << (bits * index) for index, code in enumerate(row))
        size = -(-len(row) * bits // word) * word // 8
        rows.append(np.frombuffer(number.to_bytes(size, "little"), f"<u{word // 8}"))
    return np.array(rows)


def pack(values: NDArray[np.integer], bits: int) -> NDArray[np.int32]:
    """The same in the signed words of AWQ and GPTQ."""
    return packed(values, bits).view(np.int32)


def interleave(values: NDArray[np.integer]) -> NDArray[np.integer]:
    """Columns in the order in which AWQ stores each eight of them."""
    return values[:, [start + i for start in range(0, values.shape[1], 8) for i in AWQ_ORDER]]


@dataclass(frozen=True)
class Matrix:
    """A quantized matrix: codes [outputs, inputs], zero points and scales [outputs, groups], group of each input."""

    bits: int
    codes: NDArray[np.integer]
    zeros: NDArray[np.integer]
    scales: NDArray[np.float16]
    g_idx: NDArray[np.int32]

    def values(self) -> NDArray[np.float32]:
        """What the formats' libraries compute, in float32."""
        zeros, scales = self.zeros[:, self.g_idx], self.scales[:, self.g_idx].astype(np.float32)
        return (self.codes.astype(np.float32) - zeros.astype(np.float32)) * scales


def random_matrix(
    outputs: int,
    inputs: int,
    bits: int,
    group: int,
    *,
    symmetric: bool = False,
    shuffled: bool = False,
    seed: int = 0,
) -> Matrix:
    """Random codes, zero points of every size but 0, scales of both signs, groups in order or not."""
    rng = np.random.default_rng(seed)
    groups = -(-inputs // group)
    codes = rng.integers(0, 2**bits, (outputs, inputs))
    zeros = np.full((outputs, groups), 2 ** (bits - 1)) if symmetric else rng.integers(1, 2**bits, (outputs, groups))
    scales = (rng.uniform(0.01, 0.1, (outputs, groups)) * rng.choice([-1, 1], (outputs, groups))).astype(np.float16)
    g_idx = (np.arange(inputs) // group).astype(np.int32)
    return Matrix(bits, codes, zeros, scales, rng.permutation(g_idx) if shuffled else g_idx)


def round_matrix(
    weight: NDArray[np.float32],
    bits: int,
    group: int,
    *,
    symmetric: bool = False,
    g_idx: NDArray[np.int32] | None = None,
    min_zero: int = 0,
) -> Matrix:
    """A matrix rounded to the nearest codes, as these tools do it without calibration."""
    inputs = weight.shape[1]
    index = (np.arange(inputs) // group).astype(np.int32) if g_idx is None else g_idx
    max_code = 2**bits - 1
    groups = int(index.max()) + 1
    low, high = (np.stack([edge(weight[:, index == g], axis=1) for g in range(groups)], 1) for edge in (np.min, np.max))
    if symmetric:
        largest = np.maximum(np.abs(low), np.abs(high))
        scales = (2 * np.maximum(largest, 1e-5) / max_code).astype(np.float16)
        zeros = np.full(scales.shape, 2 ** (bits - 1))
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scales = (np.maximum(high - low, 1e-5) / max_code).astype(np.float16)
        zeros = np.clip(np.rint(-low / scales.astype(np.float32)), min_zero, max_code).astype(np.int64)
    steps = np.rint(weight / scales.astype(np.float32)[:, index])
    codes = np.clip(steps + zeros[:, index], 0, max_code).astype(np.int64)
    return Matrix(bits, codes, zeros, scales, index)


def gptq_arrays(matrix: Matrix, version: int = 1, g_idx: bool = True) -> Arrays:
    """The arrays of GPTQ by suffix; version 1 stores zero points less one, modulo the number of codes."""
    stored = (matrix.zeros - (1 if version == 1 else 0)) % 2**matrix.bits
    arrays: Arrays = {
        "qweight": ("I32", np.ascontiguousarray(pack(matrix.codes, matrix.bits).T)),
        "qzeros": ("I32", pack(stored.T, matrix.bits)),
        "scales": ("F16", np.ascontiguousarray(matrix.scales.T)),
    }
    return {**arrays, "g_idx": ("I32", matrix.g_idx)} if g_idx else arrays


def gptqmodel_zeros(zeros: NDArray[np.integer], bits: int, subtracted: tuple[int, ...]) -> NDArray[np.int32]:
    """Zero points [outputs, groups] in the words of GPTQModel: it subtracts constants, one word after the other."""
    words = pack(zeros.T, bits).view(np.uint32)
    for column in range(words.shape[1]):
        words[:, column] -= np.uint32(subtracted[column % len(subtracted)])
    return words.view(np.int32)


def awq_arrays(matrix: Matrix) -> Arrays:
    """The arrays of AWQ's version GEMM by suffix."""
    return {
        "qweight": ("I32", pack(interleave(matrix.codes.T), matrix.bits)),
        "qzeros": ("I32", pack(interleave(matrix.zeros.T), matrix.bits)),
        "scales": ("F16", np.ascontiguousarray(matrix.scales.T)),
    }
