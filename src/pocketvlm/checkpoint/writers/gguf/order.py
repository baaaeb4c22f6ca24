"""The order of value heads: the hub has those of one key head side by side, GGUF files have them apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.format import lazy
from pocketvlm.checkpoint.gguf.names import column_order, row_order
from pocketvlm.config import TextConfig
from pocketvlm.errors import TensorError
from pocketvlm.tensors import Array, Block, BlockValues, DenseTensor, QuantizedTensor, load

Order = NDArray[np.intp]


def stored_rows(name: str, text: TextConfig) -> Order | None:
    """The hub's row that each row of the file holds; None: they are equal."""
    order = row_order(name, text)
    return None if order is None else np.argsort(order)


def reordered(name: str, tensor: DenseTensor, text: TextConfig) -> DenseTensor:
    """A dense tensor as the file holds it."""
    rows, columns = stored_rows(name, text), column_order(name, text)
    if rows is not None:
        return replace(tensor, source=lazy(tensor.shape, tensor.source.dtype, lambda: tensor.data[rows]))
    if columns is not None:
        stored = np.argsort(columns)
        return replace(tensor, source=lazy(tensor.shape, tensor.source.dtype, lambda: tensor.data[:, stored]))
    return tensor


def column_blocks(name: str, tensor: QuantizedTensor, text: TextConfig) -> QuantizedTensor:
    """A matrix whose columns lie as the file holds them, without a permutation.

    Raises TensorError where the heads are no whole groups.
    """
    order = column_order(name, text)
    if order is None:
        return tensor
    stored = np.argsort(order)
    if tensor.permutation is not None and np.array_equal(tensor.permutation, stored):
        return replace(tensor, permutation=None)
    if tensor.permutation is not None:
        return tensor

    def moved(part: BlockValues, width: int) -> BlockValues:
        """Scales or the like; width: columns that one number stands for."""
        step = _width(part.block, width)
        blocks = _blocks(tensor, stored, step)
        second = None if part.scale is None else moved(part.scale, step)
        return replace(part, values=_taken(part.values, blocks), scale=second)

    return replace(
        tensor,
        codes=_taken(tensor.codes, stored),
        scales=moved(tensor.scales, 1),
        zero_points=None if tensor.zero_points is None else moved(tensor.zero_points, 1),
        biases=None if tensor.biases is None else moved(tensor.biases, 1),
        rounded_from=None,
    )


def _width(block: Block, width: int) -> int:
    return (block if isinstance(block, int) else block[1]) * width


def _blocks(tensor: QuantizedTensor, stored: Order, step: int) -> Order:
    """The order of blocks of `step` columns."""
    if step >= len(stored):
        return np.zeros(1, np.intp)
    firsts = stored[::step]
    if (
        len(stored) % step
        or (firsts % step).any()
        or not np.array_equal(stored, (firsts[:, None] + np.arange(step)).ravel())
    ):
        raise TensorError(
            f"{tensor.label}: GGUF files have its columns in another order of heads, which groups of {step} columns "
            f"do not allow: use a type with smaller groups, such as Q4_0 or Q8_0"
        )
    return firsts // step


def _taken(array: Array, order: Order) -> Array:
    return lazy(tuple(array.shape), array.dtype, lambda: load(array)[:, order])
