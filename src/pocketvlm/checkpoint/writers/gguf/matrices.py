"""Quantized matrices as GGUF blocks: those of a block type as they are, others where a type holds their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.codebooks import e2m1, e4m3, e8m0
from pocketvlm.checkpoint.formats.format import lazy
from pocketvlm.checkpoint.formats.gguf import BLOCK_TYPES, BlockType
from pocketvlm.checkpoint.writers.gguf.blocks import Bytes, Fields, pack
from pocketvlm.errors import TensorError
from pocketvlm.tensors import Block, BlockValues, Floats, QuantizedTensor, load

Order = NDArray[np.intp]

_CHUNK = 1 << 22  # values that are packed at once
# Types with signed codes and one scale, with their bits; and types with unsigned codes, a scale and a bias.
_SIGNED = {4: "Q4_0", 5: "Q5_0", 8: "Q8_0"}
_BIASED = {4: "Q4_1", 5: "Q5_1"}
_FLOATS = ("MXFP4", "NVFP4")
_INSTEAD = "quantize the 16-bit checkpoint to a GGUF type, such as Q4_K_M"


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A matrix in the fields of a block type. tensor: has the type's own fields. factor: of the whole matrix."""

    kind: str
    tensor: QuantizedTensor
    factor: float = 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        rows, columns = self.tensor.shape
        return rows * columns // BLOCK_TYPES[self.kind].values * BLOCK_TYPES[self.kind].nbytes

    def rows(self, order: Order | None = None) -> Iterator[Bytes]:
        """The packed rows, some at a time. order: the row to write at each index. Raises TensorError."""
        type_, tensor = BLOCK_TYPES[self.kind], self.tensor
        codes, step = tensor.load_codes(), max(1, _CHUNK // tensor.shape[1])
        parts = [_loaded(tensor, part) for part in (tensor.scales, tensor.biases)]
        blocks = tensor.shape[1] // type_.values
        for start in range(0, tensor.shape[0], step):
            some = slice(start, start + step) if order is None else order[start : start + step]
            count = len(codes[some]) * blocks
            fields = [None if part is None else part[some].reshape(count, -1) for pair in parts for part in pair]
            try:
                yield pack(self.kind, Fields(codes[some].reshape(count, -1), *_checked(fields)))
            except TensorError as error:
                raise TensorError(f"{tensor.label}: {error}") from None


def _loaded(tensor: QuantizedTensor, part: BlockValues | None) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """The stored values of scales or biases, and those of the super-blocks."""
    if part is None:
        return None, None
    tensor.finite(part.numbers(), "scales or biases")
    return load(part.values), None if part.scale is None else load(part.scale.values)


def _checked(fields: list[NDArray[Any] | None]) -> tuple[Any, ...]:
    scales, super_scales, biases, super_biases = fields
    return scales, super_scales, biases, super_biases


def problem(tensor: QuantizedTensor) -> str | None:
    """Why no block type holds the matrix, and what to do; None if one does, as far as that shows without its values."""
    if _own_type(tensor) is not None:
        return None
    columns, block = tensor.shape[1], tensor.block
    if tensor.permutation is not None:
        return f"its columns are in another order (desc_act), which GGUF files cannot say: {_INSTEAD}"
    if isinstance(block, int) or block[0] != 1:
        return f"blocks of {block} share a scale, GGUF blocks lie in one row: {_INSTEAD}"
    group = min(block[1], columns)
    size = 16 if _is_nvfp4(tensor) else 32
    if group % size or columns % (64 if size == 16 else 32):
        return f"groups of {group} in rows of {columns} are no whole GGUF blocks of {size}: {_INSTEAD}"
    if tensor.codebook is not None:
        return None if _is_mxfp4(tensor) or _is_nvfp4(tensor) or _is_iq4(tensor) else (
            f"no GGUF type has its codebook: {_INSTEAD}"
        )  # fmt: skip
    if tensor.scales.scale is not None or tensor.scales.codebook is not None:
        return f"its scales are quantized in a way that no GGUF type has: {_INSTEAD}"
    for part, whole in ((tensor.biases, False), (tensor.zero_points, True)):
        if part is not None and part.block != block and not (whole and _rows_share(part.block, tensor.shape)):
            return f"its biases or zero points have other blocks than its scales: {_INSTEAD}"
    if tensor.biases is not None and tensor.bits > max(_BIASED):
        return f"no GGUF type has {tensor.bits} bits and biases: {_INSTEAD}, or Q8_0"
    if tensor.bits == 8 and tensor.codes.dtype == np.int8 and tensor.zero_points is not None:
        return f"no GGUF type has 8 bits and zero points: {_INSTEAD}, or Q8_0"
    return None


def _rows_share(block: Block, shape: tuple[int, int]) -> bool:
    """Whether one number belongs to the whole matrix, or each to part of a row."""
    return not isinstance(block, int) and (block[0] == 1 or (block[0] >= shape[0] and block[1] >= shape[1]))


def as_blocks(tensor: QuantizedTensor) -> Blocks:
    """The matrix in a block type that holds exactly its numbers; reads scales and zero points, but no codes.

    Integer codes with zero points become the smallest type that holds all levels, so four bits with any zero points are
    Q5_0, or Q4_1 where -zero point * scale is a float16. Raises TensorError where no type holds the numbers.
    """
    found = problem(tensor)
    if found is not None:
        raise TensorError(f"{tensor.label}: {found}")
    own = _own_type(tensor)
    if own is not None:
        return Blocks(own, tensor, tensor.global_scale)
    if tensor.codebook is None:
        return _integers(tensor)
    if _is_iq4(tensor):
        return Blocks("IQ4_NL", _filled(tensor, BLOCK_TYPES["IQ4_NL"], _half(tensor, tensor.block_scales(), "scales")))
    return _small_floats(tensor, "NVFP4" if _is_nvfp4(tensor) else "MXFP4")


def _own_type(tensor: QuantizedTensor) -> str | None:
    """The block type whose fields the matrix has."""
    for kind, type_ in BLOCK_TYPES.items():
        whole = tensor.global_divisor == 1 and (tensor.global_scale == 1 or kind in _FLOATS)
        fields = tensor.bits == type_.bits and tensor.codes.dtype == type_.dtype and tensor.zero_points is None
        if (
            whole
            and fields
            and tensor.shape[1] % type_.values == 0
            and _equal(tensor.codebook, type_.codebook)
            and _has(tensor.scales, type_, type_.scale_dtype, type_.super_scales is not None, type_.scale_codebook)
            and (type_.biases is None) == (tensor.biases is None)
            and (
                tensor.biases is None
                or _has(tensor.biases, type_, type_.bias_dtype, type_.super_biases is not None, None)
            )
        ):
            return kind
    return None


def _has(part: BlockValues, type_: BlockType, dtype: type, above: bool, codebook: Floats | None) -> bool:
    """Whether scales or biases are stored as a type stores them."""
    if part.block != (1, type_.group) or part.values.dtype != dtype or part.offset:
        return False
    if not _equal(part.codebook, codebook) or (part.scale is not None) != above:
        return False
    second = part.scale
    return second is None or (
        second.block == (1, type_.values // type_.group)
        and second.values.dtype == np.float16
        and second.scale is None
        and second.codebook is None
        and not second.offset
    )


def _equal(one: Floats | None, other: Floats | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other, equal_nan=True)


def _is_mxfp4(tensor: QuantizedTensor) -> bool:
    scales = tensor.scales
    return _equal(tensor.codebook, e2m1()) and _equal(scales.codebook, e8m0()) and scales.scale is None


def _is_nvfp4(tensor: QuantizedTensor) -> bool:
    scales = tensor.scales
    return _equal(tensor.codebook, e2m1()) and _equal(scales.codebook, e4m3()) and scales.scale is None


def _is_iq4(tensor: QuantizedTensor) -> bool:
    scales = tensor.scales
    simple = scales.codebook is None and scales.scale is None
    return simple and _equal(tensor.codebook, BLOCK_TYPES["IQ4_NL"].codebook)


def _small_floats(tensor: QuantizedTensor, kind: str) -> Blocks:
    """FP4 with bytes as scales: the same codes and bytes; GGUF's codebook is doubled and its scales are halved."""
    type_, stored = BLOCK_TYPES[kind], load(tensor.scales.values)
    last = 254 if kind == "MXFP4" else 126  # above that lie NaN and, in E4M3, the negative numbers
    if stored.size and stored.max() > last:
        raise TensorError(f"{tensor.label}: the scale byte {stored.max()} has no meaning in {kind}: {_INSTEAD}")
    factor = np.float32(tensor.global_scale) / np.float32(tensor.global_divisor)
    scales = np.repeat(stored, _size(tensor) // type_.group, axis=1)
    part = BlockValues(scales, (1, type_.group), type_.scale_codebook)
    matrix = replace(
        tensor, scales=part, codebook=type_.codebook, global_scale=1.0, global_divisor=1.0, rounded_from=None
    )
    return Blocks(kind, matrix, float(factor))


def _integers(tensor: QuantizedTensor) -> Blocks:
    """Integer codes with scales, and perhaps zero points or biases, of groups."""
    scales = _half(tensor, tensor.block_scales(), "scales")
    biases = tensor.block_biases()
    if biases is not None:
        return _biased(tensor, scales, _half(tensor, biases, "biases"))
    zeros = np.zeros(1, np.float32) if tensor.zero_points is None else tensor.zero_points.numbers()
    low = 0 if tensor.codes.dtype == np.uint8 else -(2 ** (tensor.bits - 1))
    low, high = low - float(zeros.max()), low + 2**tensor.bits - 1 - float(zeros.min())
    fitting = [bits for bits in _SIGNED if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1)]
    whole = bool((zeros == np.rint(zeros)).all())
    bits = fitting[0] if whole and fitting else None
    if _biased_is_smaller(tensor, bits) and zeros.shape == scales.shape:
        with np.errstate(over="ignore"):
            products = -zeros * scales.astype(np.float32)
            stored = products.astype(np.float16)
        if (stored.astype(np.float32) == products).all():
            return _biased(tensor, scales, stored)
    if bits is None:
        raise TensorError(
            f"{tensor.label}: no GGUF type holds {tensor.bits} bits with zero points from {zeros.min():g} to "
            f"{zeros.max():g} exactly: {_INSTEAD}"
        )
    type_ = BLOCK_TYPES[_SIGNED[bits]]
    return Blocks(_SIGNED[bits], replace(_filled(tensor, type_, scales), bits=bits, codes=_levels(tensor)))


def _biased_is_smaller(tensor: QuantizedTensor, bits: int | None) -> bool:
    """Whether a type with a bias has smaller blocks than the one with signed codes, or there is none of these."""
    if tensor.codes.dtype != np.uint8 or tensor.bits > max(_BIASED):
        return False
    biased = _BIASED[4 if tensor.bits <= 4 else 5]
    return bits is None or BLOCK_TYPES[biased].nbytes < BLOCK_TYPES[_SIGNED[bits]].nbytes


def _levels(tensor: QuantizedTensor) -> Any:
    """Codes minus zero points, as int8."""

    def read() -> NDArray[np.int8]:
        codes = tensor.load_codes()
        if tensor.zero_points is None:
            return codes.astype(np.int8)
        zeros = tensor.zero_points.numbers().astype(np.int16)
        levels = np.empty(tensor.shape, np.int8)
        block = tensor.zero_points.block
        step = max(1, _CHUNK // tensor.shape[1])
        for start in range(0, len(codes), step):
            some = slice(start, start + step)
            points = zeros if len(zeros) == 1 else zeros[some]
            width = 1 if isinstance(block, int) else min(block[1], tensor.shape[1])
            levels[some] = codes[some].astype(np.int16) - np.repeat(points, width, axis=1)
        return levels

    return lazy(tensor.shape, np.int8, read)


def _biased(tensor: QuantizedTensor, scales: NDArray[np.float16], biases: NDArray[np.float16]) -> Blocks:
    """Unsigned codes with a scale and a bias."""
    kind = _BIASED[4 if tensor.bits <= 4 else 5]
    matrix = _filled(tensor, BLOCK_TYPES[kind], scales)
    repeated = np.repeat(biases, _size(tensor) // BLOCK_TYPES[kind].group, axis=1)
    part = BlockValues(repeated, (1, BLOCK_TYPES[kind].group))
    return Blocks(kind, replace(matrix, bits=4 if tensor.bits <= 4 else 5, biases=part))


def _filled(tensor: QuantizedTensor, type_: BlockType, scales: NDArray[np.float16]) -> QuantizedTensor:
    """The matrix with a scale for each of the type's groups, and without anything else but codes and codebook."""
    part = BlockValues(np.repeat(scales, _size(tensor) // type_.group, axis=1), (1, type_.group))
    return replace(
        tensor, scales=part, zero_points=None, biases=None, global_scale=1.0, global_divisor=1.0, rounded_from=None
    )


def _size(tensor: QuantizedTensor) -> int:
    """Neighbours in a row that share a scale."""
    block = tensor.block
    assert not isinstance(block, int)
    return min(block[1], tensor.shape[1])


def _half(tensor: QuantizedTensor, numbers: Floats, what: str) -> NDArray[np.float16]:
    """The numbers as float16. Raises TensorError if that would change one."""
    with np.errstate(over="ignore"):
        stored = numbers.astype(np.float16)
    changed = stored.astype(np.float32) != numbers
    if changed.any():
        raise TensorError(
            f"{tensor.label}: {int(changed.sum())} of {numbers.size} {what}, such as {numbers[changed][0]:g}, are no "
            f"16-bit floats (F16), which GGUF blocks have: {_INSTEAD}"
        )
    return stored


def estimated_nbytes(tensor: QuantizedTensor) -> int:
    """About how many bytes the blocks take; reads no values."""
    own, count = _own_type(tensor), tensor.shape[0] * tensor.shape[1]
    if own is not None:
        return count // BLOCK_TYPES[own].values * BLOCK_TYPES[own].nbytes
    # Four bits with zero points may need the five of Q5_0.
    return count * (22 if tensor.bits <= 4 else 34) // 32
