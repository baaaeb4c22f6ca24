"""Packs quantized tensors for the kernels: QuantizedTensor to PackedMatrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.native import slabs
from pocketvlm.backends.native.packed_matrix import TILE_BYTES, TILE_OUTPUTS, PackedMatrix, packed_matrix
from pocketvlm.errors import BackendError
from pocketvlm.packfile import round_up
from pocketvlm.tensors import Block, DenseTensor, QuantizedTensor, spread

if TYPE_CHECKING:
    from pocketvlm._native import Runtime

Floats = NDArray[np.float32]

_ROW_UNIT, _GROUP_UNIT = 16, 8  # inputs are padded to a multiple of these, without and with groups
_CODEBOOK_OFFSET = 128  # the kernels hold a codebook as unsigned bytes


def pack(runtime: Runtime, tensor: QuantizedTensor) -> PackedMatrix:
    """A quantized tensor in packed layout.

    Group scales and biases are float16 relative to a float32 scale of their output: what `round_to_nearest` makes and
    scales in float16 or bfloat16 are packed exactly, biases and other scales within the rounding of float16. What
    `rounded_from` announces is quantized here, by kernels that do the same and pack in one pass. Raises BackendError
    for a tensor that the kernels cannot multiply.
    """
    bits, group = layout_of(tensor)
    if tensor.rounded_from is not None:
        return _round_and_pack(runtime, tensor, tensor.rounded_from, group)
    outputs, inputs = tensor.shape
    codes, zero = _kernel_codes(tensor, bits)
    scales, biases = _scales_and_biases(tensor, -(-inputs // group) if group else 1, zero)
    packed_codes = pack_codes(codes, bits, round_up(inputs, group or _ROW_UNIT))
    if not group:
        return packed_matrix(bits, 0, inputs, outputs, packed_codes, None, None, _padded(scales), None)
    row_scale = _row_scale(tensor, scales, biases)
    group_scale = pack_groups(scales / row_scale)
    group_bias = None if biases is None else pack_groups(biases / row_scale)
    return packed_matrix(
        bits, group, inputs, outputs, packed_codes, group_scale, group_bias, _padded(row_scale), _codebook(tensor)
    )


def layout_of(tensor: QuantizedTensor) -> tuple[int, int]:
    """Bits and group of the packed layout: 4 or 8, and the inputs that share a scale or 0 for one scale an output.

    Reads no values. Raises BackendError for a tensor that the kernels cannot multiply.
    """

    def refuse(what: str) -> BackendError:
        return BackendError(f"{tensor.name}: the native kernels cannot multiply {what}: use precision='exact'")

    inputs = tensor.shape[1]
    if tensor.permutation is not None:
        raise refuse("a matrix with permuted inputs")
    if tensor.codebook is not None and (tensor.bits != 4 or not _is_integer(tensor.codebook)):
        raise refuse(f"{tensor.bits}-bit codes with this codebook, only 4-bit ones with whole numbers from -128 to 127")
    widths = set()
    for part in (tensor.scales, tensor.zero_points, tensor.biases):
        if part is not None:
            if isinstance(part.block, int) and inputs % part.block:
                raise refuse(f"blocks of {part.block} that straddle rows of {inputs}")
            widths.add(_width(part.block))
    group = min(widths)
    if group < inputs and group % _GROUP_UNIT:
        raise refuse(f"groups of {group} inputs, only multiples of {_GROUP_UNIT}")
    if any(width < inputs and width != group for width in widths):
        raise refuse(f"blocks of different widths {sorted(widths)}")
    unbiased = tensor.zero_points is None and tensor.biases is None and tensor.codes.dtype == np.int8
    bits = 4 if tensor.bits <= 4 else 8
    if bits == 8 and group >= inputs and tensor.scales.scale is None and unbiased:
        return bits, 0
    return bits, round_up(group, _GROUP_UNIT)


def kernel_of(tensor: QuantizedTensor) -> str:
    """Which native kernel multiplies a tensor, in which container, and why: one line for people. Reads no values.

    Raises BackendError for a tensor that the kernels cannot multiply.
    """
    bits, group = layout_of(tensor)
    blocks = f"groups of {group}" if group else "one scale a row"
    return f"{bits}-bit integer products ({tensor.bits}-bit codes, {blocks})"


def pack_codes(codes: NDArray[np.uint8], bits: int, depth: int) -> NDArray[np.uint8]:
    """Codes [outputs, inputs] in packed tiles [tiles, steps, 64]: 8 bit as value + 128, 4 bit as 0..15.

    Inputs and outputs beyond the last are filled with the code of zero; `depth` is the padded number of inputs.
    """
    outputs, inputs = codes.shape
    tiles = -(-outputs // TILE_OUTPUTS)
    padded = np.full((tiles * TILE_OUTPUTS, depth), 128 if bits == 8 else 8, np.uint8)
    padded[:outputs, :inputs] = codes
    if bits == 8:
        steps = padded.reshape(tiles, TILE_OUTPUTS, depth // 4, 4)
    else:
        nibbles = padded.reshape(tiles, TILE_OUTPUTS, depth // 8, 2, 4)
        steps = nibbles[:, :, :, 0] | nibbles[:, :, :, 1] << 4
    return np.ascontiguousarray(steps.transpose(0, 2, 1, 3)).reshape(tiles, -1, TILE_BYTES)


def pack_groups(values: Sequence[Sequence[float]] | NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Scales or biases [outputs, groups] in packed tiles, float16 as uint16 [tiles, groups, 16]."""
    array = np.asarray(values, np.float16)
    outputs, groups = array.shape
    padded = np.zeros((round_up(outputs, TILE_OUTPUTS), groups), np.float16)
    padded[:outputs] = array
    return np.ascontiguousarray(padded.reshape(-1, TILE_OUTPUTS, groups).transpose(0, 2, 1)).view(np.uint16)


def _round_and_pack(runtime: Runtime, tensor: QuantizedTensor, dense: DenseTensor, group: int) -> PackedMatrix:
    """Round-to-nearest codes of a dense matrix, in packed layout."""
    outputs, inputs = dense.shape
    bf16 = dense.dtype == "bf16"
    values: NDArray[Any] = dense.data if bf16 else dense.float32()
    values = np.require(values, requirements=["C", "A"])
    depth, tiles = round_up(inputs, group or _ROW_UNIT), -(-outputs // TILE_OUTPUTS)
    codes = slabs.zeros((tiles, depth * tensor.bits // 32, TILE_BYTES), np.uint8)
    row_scale = slabs.zeros((tiles * TILE_OUTPUTS,), np.float32)
    group_scale = slabs.zeros((tiles, depth // group, TILE_OUTPUTS), np.uint16) if group else None
    codebook = _codebook(tensor)
    runtime.quantize(values, bf16, tensor.bits, group, codes, group_scale, row_scale, codebook)
    return packed_matrix(tensor.bits, group, inputs, outputs, codes, group_scale, None, row_scale, codebook)


def _kernel_codes(tensor: QuantizedTensor, bits: int) -> tuple[NDArray[np.uint8], int]:
    """Unsigned codes [outputs, inputs], and the code or level of the tensor that the kernel takes for zero."""
    codes = tensor.load_codes()
    middle = 8 if bits == 4 else 128
    if codes.dtype == np.int8:
        return (codes.astype(np.int16) + middle).astype(np.uint8), 0
    return codes, middle if tensor.codebook is None else 0


def _scales_and_biases(tensor: QuantizedTensor, groups: int, zero: int) -> tuple[Floats, Floats | None]:
    """Scales and, where any is not zero, biases float32 [outputs, groups] around the kernel's zero."""

    def grouped(numbers: Floats, block: Block) -> Floats:
        shape = (tensor.shape[0], groups)
        return numbers.reshape(shape) if isinstance(block, int) else spread(numbers, (block[0], 1), shape)

    scales = grouped(tensor.block_scales(), tensor.block)
    shift: Floats | int = zero
    if tensor.zero_points is not None:
        shift = np.float32(zero) - grouped(tensor.zero_points.numbers(), tensor.zero_points.block)
    biases = scales * np.float32(shift)
    if tensor.biases is not None:
        biases = biases + grouped(tensor.biases.numbers(), tensor.biases.block)
    return scales, biases if biases.any() else None


def _row_scale(tensor: QuantizedTensor, scales: Floats, biases: Floats | None) -> Floats:
    """The scale [outputs, 1] that makes all others of an output fit float16: the tensor's own, or a power of two."""
    second = tensor.scales.scale
    if second is not None and not isinstance(second.block, int) and _width(second.block) >= scales.shape[1]:
        own = second.spread(tensor.scales.values.shape)[:, :1]
        if own.shape == (len(scales), 1) and (own > 0).all() and biases is None:
            return own
    largest = np.abs(scales).max(1, keepdims=True)
    if biases is not None:
        largest = np.maximum(largest, np.abs(biases).max(1, keepdims=True))
    power: Floats = np.ldexp(np.float32(1), np.frexp(largest)[1]).astype(np.float32)
    return power


def _codebook(tensor: QuantizedTensor) -> NDArray[np.uint8] | None:
    return None if tensor.codebook is None else (tensor.codebook + _CODEBOOK_OFFSET).astype(np.uint8)


def _is_integer(codebook: Floats) -> bool:
    return bool((codebook == np.rint(codebook)).all() and codebook.min() >= -128 and codebook.max() <= 127)


def _padded(scales: Floats) -> Floats:
    """Scales [outputs, 1] as an array for whole tiles."""
    padded = np.zeros(round_up(len(scales), TILE_OUTPUTS), np.float32)
    padded[: len(scales)] = scales[:, 0]
    return padded


def _width(block: Block) -> int:
    return block if isinstance(block, int) else block[1]
