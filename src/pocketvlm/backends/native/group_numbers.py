"""Scales, zero points and biases of a quantized tensor, in the types in which the kernels hold them exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.native.layout import integer_codebook
from pocketvlm.backends.native.packed_matrix import TILE_OUTPUTS, Numbers
from pocketvlm.tensors import Block, BlockValues, Floats, QuantizedTensor, load, spread

_HIGHEST = 16  # float16 numbers are below 2^16


@dataclass(frozen=True, slots=True, eq=False)
class GroupNumbers:
    """The numbers of a packed matrix besides its codes; shapes and types are those of PackedMatrix."""

    row_scale: NDArray[np.float32]
    group_scale: Numbers | None = None
    scale_factor: NDArray[np.uint16] | None = None
    group_bias: Numbers | None = None
    bias_factor: NDArray[np.uint16] | None = None
    span: int = 1
    zero_points: NDArray[np.int8] | None = None
    zero: int = 0


def row_numbers(tensor: QuantizedTensor) -> GroupNumbers:
    """The scale of each output of a tensor whose blocks are whole rows, without zero points or biases."""
    return GroupNumbers(pack_rows(_Formula(tensor, tensor.shape[1]).scales(relative=False)))


def group_numbers(tensor: QuantizedTensor, group: int, middle: int) -> GroupNumbers:
    """The numbers of a tensor in groups of `group` inputs; the kernels see code - middle, or the codebook's integer.

    Scales and biases are float16, relative to a power of two of their output, if all of them fit that exactly; else
    int8 times float16 where the tensor has two such levels; else float32. What is not float32 or a power of two in the
    tensor's formula (a global scale, a codebook's unit, a float32 scale of each output) is in the scale of the output.
    """
    formula = _Formula(tensor, group)
    zero_points, zero, biases = formula.zero_points(middle)
    factor = formula.row_factor() if biases is None else None
    levels = None if factor is None and formula.factor != 1 else formula.two_levels(tensor.scales)
    bias_levels = None if tensor.biases is None or levels is None else formula.two_levels(tensor.biases)
    if bias_levels is not None and levels is not None and bias_levels[1].shape != levels[1].shape:
        bias_levels = None
    single = [] if levels else [formula.scales(factor is not None)]
    single += [] if biases is None or bias_levels else [biases]
    power, arrays = _in_float16(single, np.float32(1) if levels else None)
    row_scale = power if factor is None else power * factor
    span = 1
    scale_factor = bias_factor = None
    if levels:
        scale, scale_factor, span = pack_groups(levels[0]), pack_groups(levels[1]), levels[2]
    else:
        scale = pack_groups(arrays.pop(0))
    bias = None if biases is None else pack_groups(bias_levels[0] if bias_levels else arrays.pop(0))
    if bias_levels:
        bias_factor = pack_groups(bias_levels[1])
    row_scale = np.broadcast_to(row_scale, (tensor.shape[0], 1))
    packed_zeros = None if zero_points is None else pack_groups(zero_points)
    return GroupNumbers(pack_rows(row_scale), scale, scale_factor, bias, bias_factor, span, packed_zeros, zero)


def pack_groups(values: NDArray[Any]) -> Any:
    """Numbers [outputs, groups] in packed tiles [tiles, groups, 16], float16 as uint16."""
    outputs, groups = values.shape
    padded = np.zeros((-(-outputs // TILE_OUTPUTS) * TILE_OUTPUTS, groups), values.dtype)
    padded[:outputs] = values
    packed = np.ascontiguousarray(padded.reshape(-1, TILE_OUTPUTS, groups).transpose(0, 2, 1))
    return packed.view(np.uint16) if packed.dtype == np.float16 else packed


def pack_rows(scales: Floats) -> Floats:
    """Scales [outputs, 1] as an array for whole tiles."""
    padded = np.zeros(-(-len(scales) // TILE_OUTPUTS) * TILE_OUTPUTS, np.float32)
    padded[: len(scales)] = scales[:, 0]
    return padded


class _Formula:
    """The formula of a tensor, group by group."""

    def __init__(self, tensor: QuantizedTensor, group: int) -> None:
        self.tensor, self.group = tensor, group
        self.groups = -(-tensor.shape[1] // group)
        self.factor = np.float32(_unit(tensor)) * np.float32(tensor.global_scale) / np.float32(tensor.global_divisor)

    def grouped(self, numbers: Floats, block: Block) -> Floats:
        """Numbers of blocks as numbers [outputs, groups]."""
        outputs, inputs = self.tensor.shape
        if isinstance(block, int) and inputs % block == 0:
            numbers, block = numbers.reshape(outputs, -1), (1, block)
        if isinstance(block, int):
            starts = np.arange(outputs)[:, None] * inputs + np.arange(self.groups) * self.group
            blocks: Floats = numbers[starts // block]
            return blocks
        return spread(numbers, (block[0], max(1, block[1] // self.group)), (outputs, self.groups))

    def scales(self, relative: bool) -> Floats:
        """Scales [outputs, groups], relative to the row factor if there is one."""
        scales = self.tensor.scales
        if not relative:
            return self.grouped(self.tensor.block_scales() * np.float32(_unit(self.tensor)), scales.block)
        if self._second() is not None:
            scales = BlockValues(scales.values, scales.block, scales.codebook)
        return self.grouped(self.tensor.finite(scales.numbers(), "scales"), scales.block)

    def row_factor(self) -> Floats:
        """The factors [outputs, 1] or [1, 1] that all scales of an output have in common."""
        second = self._second()
        return np.full((1, 1), self.factor) if second is None else second * self.factor

    def zero_points(self, middle: int) -> tuple[NDArray[np.int8] | None, int, Floats | None]:
        """Zero points of the kernel, or one for all groups; and biases [outputs, groups] where there are any.

        Zero points that are no integers between -128 and 127 after the shift by `middle` become biases.
        """
        tensor = self.tensor
        biases = tensor.block_biases()
        if tensor.biases is not None and biases is not None:
            return None, -middle, self.grouped(biases, tensor.biases.block)
        if tensor.zero_points is None:
            return None, -middle, None
        numbers, block = tensor.zero_points.numbers(), tensor.zero_points.block
        shifted = numbers / np.float32(_unit(tensor)) - np.float32(middle)
        if (shifted == np.rint(shifted)).all() and np.abs(shifted + np.float32(0.5)).max() < 128:
            if (shifted == shifted.flat[0]).all():
                return None, int(shifted.flat[0]), None
            return self.grouped(shifted, block).astype(np.int8), 0, None
        return None, -middle, -self.grouped(tensor.block_scales(), tensor.block) * self.grouped(numbers, block)

    def two_levels(self, part: BlockValues) -> tuple[NDArray[np.int8], NDArray[np.float16], int] | None:
        """Small integers [outputs, groups], float16 factors of them, and the groups that share a factor, or None."""
        second = part.scale
        plain = part.codebook is None and not part.offset and part.block == (1, self.group)
        if second is None or not plain or part.values.dtype not in (np.int8, np.uint8):
            return None
        block = second.block
        if isinstance(block, int) or block[0] != 1 or not 1 < block[1] < self.groups or block[1] & (block[1] - 1):
            return None
        values, factors = load(part.values), self.tensor.finite(second.numbers(), "scales of scales or biases")
        with np.errstate(over="ignore"):
            short = factors.astype(np.float16)
        if (values.dtype == np.uint8 and values.max() > 127) or not (short == factors).all():
            return None
        return values.astype(np.int8), short, block[1]

    def _second(self) -> Floats | None:
        """The second level of the scales, if there is one number for each output."""
        second, shape = self.tensor.scales.scale, self.tensor.scales.values.shape
        if second is None or self.tensor.scales.offset or isinstance(second.block, int):
            return None
        if second.block[1] < shape[-1] or shape[0] != self.tensor.shape[0]:
            return None
        return self.tensor.finite(second.spread(shape)[:, :1], "scales of scales")


def _unit(tensor: QuantizedTensor) -> float:
    return 1.0 if tensor.codebook is None else integer_codebook(tensor.codebook).unit


def _in_float16(arrays: Sequence[Floats], only: np.float32 | None) -> tuple[Any, list[NDArray[Any]]]:
    """Numbers [outputs, groups] over a power of two of their output, as float16 where that is exact, else float32.

    Returns the powers [outputs, 1] or [1, 1] and the arrays. only: the power to use.
    """
    one: Any = np.ones((1, 1), np.float32)
    tried: list[tuple[Any, list[NDArray[Any]]]] = []
    for normalize in (False, True):
        power = one
        if normalize:
            largest = np.max([np.abs(array).max(1, keepdims=True, initial=0.0) for array in arrays], 0)
            power = np.ldexp(np.float32(1), np.frexp(largest)[1] - _HIGHEST).astype(np.float32)
        tried.append((power, [_shortest(array, power) for array in arrays]))
        if only is not None or all(array.dtype == np.float16 for array in tried[-1][1]):
            return tried[-1]
    return max(tried, key=lambda found: sum(array.dtype == np.float16 for array in found[1]))


def _shortest(array: Floats, power: Any) -> NDArray[Any]:
    """array / power as float16 if that is exact, else as float32."""
    scaled: Floats = array / power
    with np.errstate(over="ignore"):
        short = scaled.astype(np.float16)
    return short if (short == scaled).all() else scaled
