"""The formulas of quantized tensors once more, element by element in float32, and random tensors of every kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketvlm.tensors import Block, BlockValues, Floats, LazyArray, QuantizedTensor, grid_shape, load


def block_index(index: tuple[int, int], shape: tuple[int, int], block: Block) -> tuple[int, ...]:
    """The block of an element."""
    row, column = index
    if isinstance(block, int):
        return ((row * shape[1] + column) // block,)
    return row // block[0], column // block[1]


def number(part: BlockValues, at: tuple[int, ...]) -> np.float32:
    """The number of one block."""
    values = load(part.values)
    found = np.float32(values[at]) if part.codebook is None else part.codebook[values[at]]
    if part.scale is not None:
        if len(at) == 1:  # flat values have flat blocks
            assert isinstance(part.scale.block, int)
            second = number(part.scale, (at[0] // part.scale.block,))
        else:
            second = number(part.scale, block_index(at, values.shape, part.scale.block))  # type: ignore[arg-type]
        found = np.float32(found * second)
    return np.float32(found + np.float32(part.offset)) if part.offset else np.float32(found)


def dequantized(tensor: QuantizedTensor) -> Floats:
    """The values of a tensor by the formula, one by one."""
    out = np.full(tensor.shape, np.nan, np.float32)
    codes = load(tensor.codes)
    for row in range(tensor.shape[0]):
        for column in range(tensor.shape[1]):
            at = row, column
            level = np.float32(codes[at]) if tensor.codebook is None else np.float32(tensor.codebook[codes[at]])
            if tensor.zero_points is not None:
                level -= number(tensor.zero_points, block_index(at, tensor.shape, tensor.zero_points.block))
            scale = number(tensor.scales, block_index(at, tensor.shape, tensor.scales.block))
            scale = np.float32(scale * np.float32(tensor.global_scale)) / np.float32(tensor.global_divisor)
            value = np.float32(level * scale)
            if tensor.biases is not None:
                value += number(tensor.biases, block_index(at, tensor.shape, tensor.biases.block))
            out[row, column if tensor.permutation is None else tensor.permutation[column]] = value
    return out


@dataclass
class Random:
    """Random parts of tensors."""

    random: np.random.Generator

    def block_values(self, shape: tuple[int, ...], block: Block, levels: str) -> BlockValues:
        """Numbers in one level ("f16", "f32") or two ("integers" as Q4_K, "codebook" as double quantization)."""
        grid = grid_shape(shape, block)
        plain = self.random.uniform(-1, 1, grid)
        if levels in ("f16", "f32"):
            return BlockValues(plain.astype(np.float16 if levels == "f16" else np.float32), block)
        second: Block = 3 if len(grid) == 1 else (1, 2)
        scale = BlockValues(self.random.uniform(0.5, 1, grid_shape(grid, second)).astype(np.float32), second)
        if levels == "integers":
            return BlockValues(self.random.integers(0, 64, grid).astype(np.uint8), block, scale=scale)
        codebook = np.sort(self.random.uniform(-1, 1, 256)).astype(np.float32)
        values = self.random.integers(0, 256, grid).astype(np.uint8)
        return BlockValues(values, block, codebook=codebook, scale=scale, offset=0.25)

    def codes(self, shape: tuple[int, int], bits: int, signed: bool) -> NDArray[np.integer]:
        """Codes that fit the bits."""
        low = -(2 ** (bits - 1)) if signed else 0
        return self.random.integers(low, low + 2**bits, shape).astype(np.int8 if signed else np.uint8)


@st.composite
def quantized_tensors(draw: st.DrawFn) -> QuantizedTensor:
    """Any combination of parts, with partial blocks on either edge."""
    make = Random(np.random.default_rng(draw(st.integers(0, 1 << 32))))
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 21)))
    columns = shape[1]
    blocks = st.sampled_from([(1, 4), (1, 5), (1, columns), (3, 4), (128, 128), shape, 4, 7, 100])
    levels = st.sampled_from(["f16", "f32", "integers", "codebook"])
    bits, codebook = draw(st.integers(2, 8)), draw(st.booleans())
    signed = not codebook and draw(st.booleans())
    codes = make.codes(shape, bits, signed)
    shift = draw(st.sampled_from([None, "zero_points", "biases"]))
    permutation = make.random.permutation(columns) if draw(st.booleans()) else None
    lazy = draw(st.booleans())
    return QuantizedTensor(
        "w",
        bits,
        shape,
        LazyArray(shape, codes.dtype, codes.copy) if lazy else codes,
        make.block_values(shape, draw(blocks), draw(levels)),
        codebook=make.random.normal(size=2**bits).astype(np.float32) if codebook else None,
        permutation=permutation,
        global_scale=draw(st.sampled_from([1.0, 0.3])),
        global_divisor=draw(st.sampled_from([1.0, 7.0])),
        **({} if shift is None else {shift: make.block_values(shape, draw(blocks), draw(levels))}),
    )
