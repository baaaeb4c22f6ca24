"""Updates of adapters as kernels take them: factors in blocks of 32 numbers, in bfloat16 where products may round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.batch import Ints
from pocketvlm.backends.native.matrices import NativeWeight
from pocketvlm.backends.ops import AdaptedRows
from pocketvlm.tensors import float32_to_bfloat16

Adapted = AdaptedRows[NDArray[np.float32], NativeWeight, Ints]

BLOCK = 32


def in_blocks(factor: NDArray[np.float32], bf16: bool, columns: bool = False) -> NDArray[Any]:
    """A factor [rank, n] with n filled up to whole blocks by zeros: [rank, n'], or [n' / 32, rank, 32] with columns.

    bf16: the bits of the nearest bfloat16 numbers, each block interleaved: numbers 0, 16, 1, 17, ... So the lower and
    the upper halves of neighbouring 32-bit words are neighbouring numbers.
    """
    rank, n = factor.shape
    blocks = -(-n // BLOCK)
    padded = np.zeros((rank, blocks, BLOCK), np.float32)
    padded.reshape(rank, -1)[:, :n] = factor
    if columns:
        padded = np.ascontiguousarray(padded.transpose(1, 0, 2))
    if bf16:
        pairs = padded.reshape(*padded.shape[:2], 2, BLOCK // 2).swapaxes(2, 3)
        values = float32_to_bfloat16(np.ascontiguousarray(pairs)).reshape(padded.shape)
    else:
        values = padded
    return values if columns else values.reshape(rank, -1)


def updating(adapters: Sequence[Adapted], weights: Sequence[NativeWeight]) -> bool:
    """Whether the adapters have an update of one of the weights."""
    return any(weight in adapted.updates for adapted in adapters for weight in weights)


def updates_of(adapters: Sequence[Adapted], weights: Sequence[NativeWeight]) -> list[list[tuple[Any, ...]]]:
    """The updates (rows, a, b, scale) of each of the weights, as products with quantized matrices take them."""
    if not updating(adapters, weights):
        return []
    return [
        [(adapted.rows, u.a, u.b, u.scale) for adapted in adapters if (u := adapted.updates.get(weight)) is not None]
        for weight in weights
    ]
