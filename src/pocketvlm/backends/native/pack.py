"""Packs quantized tensors for the kernels: QuantizedTensor to PackedMatrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.native import slabs
from pocketvlm.backends.native.group_numbers import group_numbers, row_numbers
from pocketvlm.backends.native.layout import integer_codebook, layout_of
from pocketvlm.backends.native.packed_matrix import TILE_BYTES, TILE_OUTPUTS, PackedMatrix, packed_matrix
from pocketvlm.packfile import round_up
from pocketvlm.tensors import DenseTensor, QuantizedTensor, float32_to_bfloat16

if TYPE_CHECKING:
    from pocketvlm._native import Runtime

_ROW_UNIT = 16  # inputs are padded to a multiple of this where an output has one scale
_CONVERTED = 1 << 24  # float16 values that are converted to float32 at once
_PACKED = 1 << 22  # codes that are packed at once


def pack(runtime: Runtime, tensor: QuantizedTensor) -> PackedMatrix | DenseTensor:
    """A quantized tensor as its kernel multiplies it: in packed layout, or dense in bfloat16 or float32.

    `layout_of` chooses, docs/precision.md says what is exact. If `rounded_from` announces a scheme that
    the kernels round to, they quantize and pack in one pass, with the same result.
    """
    layout = layout_of(tensor)
    bits, group = layout.bits, layout.group
    if bits == 16:
        values = tensor.dequantize()
        return DenseTensor(tensor.name, "bf16", float32_to_bfloat16(values))
    if bits == 32:
        return DenseTensor(tensor.name, "f32", tensor.dequantize())
    if tensor.rounded_from is not None and _kernels_round(tensor, group):
        return _round_and_pack(runtime, tensor, tensor.rounded_from, group)
    outputs, inputs = tensor.shape
    codes, middle, codebook = _kernel_codes(tensor, bits)
    packed = pack_codes(codes, bits, round_up(inputs, group or _ROW_UNIT))
    del codes
    numbers = group_numbers(tensor, group, middle) if group else row_numbers(tensor)
    permutation = None if tensor.permutation is None else np.ascontiguousarray(tensor.permutation, np.int32)
    return packed_matrix(
        bits, group, inputs, outputs, packed, numbers.group_scale, numbers.group_bias, numbers.row_scale, codebook,
        numbers.scale_factor, numbers.bias_factor, numbers.span, numbers.zero_points, numbers.zero, permutation,
    )  # fmt: skip


def pack_codes(codes: NDArray[np.uint8], bits: int, depth: int) -> NDArray[np.uint8]:
    """Codes [outputs, inputs], from 0 to 2^bits - 1, in packed tiles [tiles, lines, 64].

    Inputs and outputs beyond the last are filled with the code of zero; `depth` is the padded number of inputs.
    """
    outputs, inputs = codes.shape
    tiles = -(-outputs // TILE_OUTPUTS)
    packed = slabs.zeros((tiles, depth * bits // 32, TILE_BYTES), np.uint8)
    step = max(1, _PACKED // (TILE_OUTPUTS * depth))
    for tile in range(0, tiles, step):
        some = codes[tile * TILE_OUTPUTS : (tile + step) * TILE_OUTPUTS]
        padded = np.full((len(packed[tile : tile + step]) * TILE_OUTPUTS, depth), 1 << bits - 1, np.uint8)
        padded[: len(some), :inputs] = some
        words = padded.view(np.uint32).reshape(-1, TILE_OUTPUTS, depth // 4)
        packed[tile : tile + step].view(np.uint32)[...] = _lines(words, bits).transpose(0, 2, 1)
    return packed


def _lines(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """Words of four codes [..., words] as the words of lines; native/quantized/quantized.h describes their bits."""
    if bits == 8:
        return words
    nibbles = words & np.uint32(0x0F0F0F0F)
    lines: NDArray[np.uint32] = nibbles[..., ::2] | nibbles[..., 1::2] << np.uint32(4)
    if bits == 4:
        return lines
    upper_bits = bits - 4
    each = 8 // upper_bits  # words of a unit, whose upper bits fill a line
    upper = words >> np.uint32(4) & np.uint32((1 << upper_bits) - 1) * np.uint32(0x01010101)
    joined = np.zeros_like(upper[..., ::each])
    for word in range(each):
        joined |= upper[..., word::each] << np.uint32((4 + upper_bits * word) % 8)
    units = lines.reshape(*joined.shape, each // 2)
    return np.concatenate([units, joined[..., None]], -1).reshape(*words.shape[:-1], -1)


def _kernels_round(tensor: QuantizedTensor, group: int) -> bool:
    """Whether native/quantized/quantize.cpp rounds to the scheme of a tensor; `round_to_nearest` rounds to any.

    group: of the layout, which splits wide groups; the kernels round each of its groups by itself.
    """
    whole = group == 0 or tensor.block == (1, group)
    return whole and (tensor.bits == 8 or (tensor.bits == 4 and tensor.codebook is not None))


def _round_and_pack(runtime: Runtime, tensor: QuantizedTensor, dense: DenseTensor, group: int) -> PackedMatrix:
    """Round-to-nearest codes of a dense matrix, in packed layout."""
    outputs, inputs = dense.shape
    bf16 = dense.dtype == "bf16"
    stored = np.require(dense.data, requirements=["C", "A"])
    depth, tiles = round_up(inputs, group or _ROW_UNIT), -(-outputs // TILE_OUTPUTS)
    codes = slabs.zeros((tiles, depth * tensor.bits // 32, TILE_BYTES), np.uint8)
    row_scale = slabs.zeros((tiles * TILE_OUTPUTS,), np.float32)
    group_scale = slabs.zeros((tiles, depth // group, TILE_OUTPUTS), np.uint16) if group else None
    codebook = None if tensor.codebook is None else integer_codebook(tensor.codebook).packed()
    # float16 is converted some rows at a time: an output matrix in float32 would take a gigabyte.
    step = max(1, tiles if stored.dtype != np.float16 else _CONVERTED // max(1, TILE_OUTPUTS * inputs))
    for tile in range(0, tiles, step):
        some, rows = slice(tile, tile + step), slice(tile * TILE_OUTPUTS, (tile + step) * TILE_OUTPUTS)
        values = stored[rows] if bf16 else stored[rows].astype(np.float32, copy=False)
        scales = None if group_scale is None else group_scale[some]
        runtime.quantize(values, bf16, tensor.bits, group, codes[some], scales, row_scale[rows], codebook)
    return packed_matrix(tensor.bits, group, inputs, outputs, codes, group_scale, None, row_scale, codebook)


def _kernel_codes(tensor: QuantizedTensor, bits: int) -> tuple[NDArray[np.uint8], int, NDArray[np.uint8] | None]:
    """Codes [outputs, inputs] as the kernel stores them, the code that it takes for 0, and its codebook."""
    codes = tensor.load_codes()
    center = np.uint8(1 << bits - 1)
    if tensor.codebook is not None:
        book = integer_codebook(tensor.codebook)
        if bits == 4:
            return codes, 0, book.packed()
        return (book.integers + 128).astype(np.uint8)[codes], 0, None
    if codes.dtype == np.int8:
        return codes.view(np.uint8) + center, 0, None  # wraps around, as two's complement does
    middle = 1 << tensor.bits - 1
    return codes + (center - np.uint8(middle)), middle, None
