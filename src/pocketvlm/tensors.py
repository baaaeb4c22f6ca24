"""Tensors between formats, quantization and backends: dense numbers, or quantized ones with their formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketvlm.errors import TensorError

StoredDtype = Literal["f32", "f16", "bf16"]
# (rows, columns) of the block that shares a value; the blocks at the lower and right edge may be partial. A number n is
# a flat block: n neighbours in row-major order, which may straddle rows.
Block = tuple[int, int] | int
Floats = NDArray[np.float32]

_NUMPY: dict[StoredDtype, type[np.generic]] = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}
# The bits of infinity; those of everything that is no finite number follow them.
_INFINITY: dict[StoredDtype, int] = {"f32": 0x7F800000, "f16": 0x7C00, "bf16": 0x7F80}
_CHUNK = 1 << 18  # values that are checked or dequantized at once: they stay in the processor's cache


@dataclass(frozen=True, slots=True, eq=False)
class LazyArray:
    """An array whose shape and dtype are known and whose values `read` makes when they are needed, each time anew."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], NDArray[Any]]


Array = NDArray[Any] | LazyArray


def load(array: Array) -> NDArray[Any]:
    """The values of an array. Raises TensorError if a lazy one has another shape or dtype than it announced."""
    if not isinstance(array, LazyArray):
        return array
    values = array.read()
    if values.shape != array.shape or values.dtype != array.dtype:
        raise TensorError(
            f"an array of {values.dtype} {list(values.shape)} was read where {array.dtype} {list(array.shape)} "
            f"was announced: the file changed while it was read, load it again"
        )
    return values


def bfloat16_to_float32(bits: NDArray[np.uint16]) -> Floats:
    """The values of bfloat16 bits, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: Floats) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16 numbers, ties to even; values must be finite."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))) >> 16).astype(np.uint16)


def all_finite(values: NDArray[Any], dtype: StoredDtype) -> bool:
    """Whether no value is infinite or no number; two integer maxima are faster than `np.isfinite`, which lacks bf16."""
    flat, infinity = values.reshape(-1), _INFINITY[dtype]
    signed, unsigned = (np.dtype(f"{kind}{flat.itemsize}") for kind in "iu")
    negative = infinity + (1 << 8 * flat.itemsize - 1)
    chunks = (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))
    return all(part.view(signed).max() < infinity and part.view(unsigned).max() < negative for part in chunks)


@dataclass(frozen=True, slots=True, eq=False)
class DenseTensor:
    """A tensor of numbers as a file holds it.

    source: the values in C order, possibly lazy, memory-mapped, read-only or misaligned: float32 for "f32", float16 for
    "f16", and the raw bits as uint16 for "bf16". origin: the file that they are from, for errors. Raises TensorError
    for another dtype.
    """

    name: str
    dtype: StoredDtype
    source: Array
    origin: str = ""

    def __post_init__(self) -> None:
        """Check the dtype."""
        if self.dtype not in _NUMPY or self.source.dtype.newbyteorder("=") != _NUMPY[self.dtype]:
            raise TensorError(f"{self.name}: an array of {self.source.dtype} does not hold {self.dtype} values")

    @property
    def label(self) -> str:
        """File and name, for errors."""
        return f"{self.origin}: {self.name}" if self.origin else self.name

    @property
    def data(self) -> NDArray[Any]:
        """The stored values, unchecked; reads them if they are lazy."""
        return load(self.source)

    def finite_data(self) -> NDArray[Any]:
        """The stored values. Raises TensorError if one is infinite or no number."""
        data = self.data
        if all_finite(data, self.dtype):
            return data
        values = bfloat16_to_float32(data) if self.dtype == "bf16" else data
        wrong = np.argwhere(~np.isfinite(values))
        raise TensorError(
            f"{self.label}: {len(wrong)} of {values.size} values are infinite or NaN, the first at "
            f"{wrong[0].tolist()}: the file is damaged, or its training diverged: download or copy it again, or use "
            f"another checkpoint"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as stored."""
        return tuple(self.source.shape)

    def float32(self) -> Floats:
        """The values as float32, exactly. Raises TensorError if one is infinite or no number."""
        data = self.finite_data()
        if self.dtype == "bf16":
            return bfloat16_to_float32(data)
        return np.require(data, dtype=np.float32, requirements=["C", "A"])

    def dequantize(self) -> Floats:
        """The values as float32, as of any tensor."""
        return self.float32()

    def transposed(self) -> DenseTensor:
        """A matrix with rows and columns exchanged."""
        return self._mapped((self.shape[1], self.shape[0]), lambda data: np.ascontiguousarray(data.T))

    def reshape(self, *shape: int) -> DenseTensor:
        """The same values under another shape; one side may be -1."""
        known = -math.prod(shape) if -1 in shape else 1
        whole = tuple(math.prod(self.shape) // max(known, 1) if side == -1 else side for side in shape)
        return self._mapped(whole, lambda data: data.reshape(whole))

    def _mapped(self, shape: tuple[int, ...], change: Callable[[NDArray[Any]], NDArray[Any]]) -> DenseTensor:
        source = self.source
        if isinstance(source, LazyArray):
            return replace(self, source=LazyArray(shape, source.dtype, lambda: change(load(source))))
        return replace(self, source=change(source))


def same_values(first: DenseTensor, second: DenseTensor) -> bool:
    """Whether two tensors of one shape have the same values, whatever their dtypes; compares some rows at a time."""
    parts = [tensor.data.reshape(tensor.shape[0], -1) for tensor in (first, second)]
    step = max(_CHUNK // parts[0].shape[1], 1)

    def values(index: int, start: int) -> NDArray[Any]:
        part, dtype = parts[index][start : start + step], (first, second)[index].dtype
        return bfloat16_to_float32(part) if dtype == "bf16" else part.astype(np.float32)

    return all(np.array_equal(values(0, start), values(1, start)) for start in range(0, len(parts[0]), step))


def grid_shape(shape: tuple[int, ...], block: Block) -> tuple[int, ...]:
    """The number of blocks of an array: [block rows, block columns], or [blocks] of flat ones."""
    if isinstance(block, int):
        return (-(-math.prod(shape) // block),)
    return tuple(-(-side // step) for side, step in zip(shape, block, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class BlockValues:
    """One number for each block of an array: scales, zero points or biases; the numbers may be quantized themselves.

    The numbers are `codebook[values]` or the values as they are, times `scale` if there is a second level, plus
    `offset`, each step in float32. values: [block rows, block columns], or [blocks] for flat blocks. scale: the second
    level, whose blocks are those of `values`.
    """

    values: Array
    block: Block
    codebook: Floats | None = None
    scale: BlockValues | None = None
    offset: float = 0.0

    def check(self, shape: tuple[int, ...], what: str) -> None:
        """Raise TensorError, naming `what`, unless there is one number for each block of an array of this shape."""
        steps = (self.block,) if isinstance(self.block, int) else self.block
        if min(steps) < 1 or (not isinstance(self.block, int) and len(steps) != len(shape)):
            raise TensorError(f"{what}: {self.block} is no block of an array {list(shape)}")
        expected = grid_shape(shape, self.block)
        if tuple(self.values.shape) != expected:
            found = list(self.values.shape)
            raise TensorError(f"{what} have shape {found}: blocks {self.block} of {list(shape)} need {list(expected)}")
        if self.codebook is not None and self.values.dtype != np.uint8:
            raise TensorError(f"{what}: codes of a codebook are uint8, not {self.values.dtype}")
        if self.scale is not None:
            self.scale.check(expected, f"{what}: scales of the second level")

    def numbers(self) -> Floats:
        """The number of each block, in the shape of `values`."""
        values = load(self.values)
        found: Floats = values.astype(np.float32) if self.codebook is None else _look_up(self.codebook, values)
        with np.errstate(over="ignore", invalid="ignore"):  # `QuantizedTensor.finite` refuses the results
            if self.scale is not None:
                found = found * self.scale.spread(found.shape)
            return found + np.float32(self.offset) if self.offset else found

    def spread(self, shape: tuple[int, ...]) -> Floats:
        """The number of each element of an array of this shape, perhaps as a read-only view."""
        return spread(self.numbers(), self.block, shape)


def spread(numbers: Floats, block: Block, shape: tuple[int, ...]) -> Floats:
    """Numbers of blocks as numbers of the elements of an array of this shape."""
    if isinstance(block, int):
        return np.repeat(numbers, min(block, math.prod(shape)))[: math.prod(shape)].reshape(shape)
    for axis, (side, step) in enumerate(zip(shape, block, strict=True)):
        if step > 1 and numbers.shape[axis] > 1:
            numbers = np.repeat(numbers, step, axis)[(slice(None),) * axis + (slice(side),)]
    return np.broadcast_to(numbers, shape)


def _spread_rows(numbers: Floats, block: Block, shape: tuple[int, int], start: int, stop: int) -> Floats:
    """Numbers of the blocks of a matrix as numbers of the elements of some of its rows."""
    rows, columns = stop - start, shape[1]
    if isinstance(block, int):
        first, last = start * columns, stop * columns
        blocks = np.arange(first // block, -(-last // block))
        counts = np.minimum((blocks + 1) * block, last) - np.maximum(blocks * block, first)
        return np.repeat(numbers[blocks], counts).reshape(rows, columns)
    if len(numbers) > 1:
        numbers = numbers[start:stop] if block[0] == 1 else numbers[np.arange(start, stop) // block[0]]
    return spread(numbers, (1, block[1]), (rows, columns))


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """A matrix [rows, columns] of small integers with the formula that makes numbers of them.

    value = (level - zero point) * scale * global_scale / global_divisor + bias, where the level is `codebook[code]` or
    the code itself, in float32 and in this order; zero points and biases exclude each other.

    bits: of a code, 2 to 8. codes: uint8 or int8 [rows, columns], one code an element, possibly lazy. scales: of blocks
    of the matrix; zero_points, biases: the same, perhaps of other blocks. codebook: float32 [2 ** bits], for uint8
    codes. permutation: int [columns], the input that each stored column belongs to. rounded_from: the dense tensor that
    round-to-nearest makes these codes and scales of, for a backend that can do that on its own; None for all others.
    origin: the files that the values are from, for errors. Raises TensorError if the parts do not fit each other.
    """

    name: str
    bits: int
    shape: tuple[int, int]
    codes: Array
    scales: BlockValues
    zero_points: BlockValues | None = None
    biases: BlockValues | None = None
    codebook: Floats | None = None
    permutation: NDArray[np.integer[Any]] | None = None
    global_scale: float = 1.0
    global_divisor: float = 1.0
    rounded_from: DenseTensor | None = None
    origin: str = ""

    def __post_init__(self) -> None:
        """Check that the parts fit each other; lazy ones are not read."""
        name = self.label
        if not 2 <= self.bits <= 8:
            raise TensorError(f"{name}: {self.bits} bits a code are not supported: 2 to 8 are")
        if len(self.shape) != 2 or tuple(self.codes.shape) != tuple(self.shape):
            raise TensorError(f"{name}: codes of shape {list(self.codes.shape)} do not fit a matrix {list(self.shape)}")
        if self.codes.dtype not in (np.uint8, np.int8):
            raise TensorError(f"{name}: codes are uint8 or int8, not {self.codes.dtype}")
        if self.zero_points is not None and self.biases is not None:
            raise TensorError(f"{name}: zero points and biases exclude each other")
        if self.global_divisor == 0:
            raise TensorError(f"{name}: the global divisor is zero")
        for what, part in (("scales", self.scales), ("zero points", self.zero_points), ("biases", self.biases)):
            if part is not None:
                part.check(self.shape, f"{name}: {what}")
        if self.codebook is not None:
            if self.codebook.shape != (2**self.bits,):
                shape = list(self.codebook.shape)
                raise TensorError(f"{name}: a codebook of shape {shape} does not fit {self.bits} bits")
            if self.codes.dtype != np.uint8:
                raise TensorError(f"{name}: codes of a codebook are uint8, not {self.codes.dtype}")
        if self.permutation is not None and not np.array_equal(np.sort(self.permutation), np.arange(self.shape[1])):
            raise TensorError(f"{name}: the permutation is none of {self.shape[1]} columns")
        if self.rounded_from is not None and self.rounded_from.shape != self.shape:
            raise TensorError(f"{name}: was not rounded from a tensor of shape {list(self.rounded_from.shape)}")

    @property
    def label(self) -> str:
        """Files and name, for errors."""
        return f"{self.origin}: {self.name}" if self.origin else self.name

    @property
    def block(self) -> Block:
        """The block that shares a scale."""
        return self.scales.block

    def load_codes(self) -> NDArray[Any]:
        """The codes, checked. Raises TensorError for one that does not fit the bits."""
        codes = load(self.codes)
        if codes.size and self.bits < 8:
            low = 0 if codes.dtype == np.uint8 else -(2 ** (self.bits - 1))
            high = low + 2**self.bits - 1
            if codes.min() < low or codes.max() > high:
                raise TensorError(f"{self.label}: codes outside {low}..{high} do not fit {self.bits} bits")
        return codes

    def block_scales(self) -> Floats:
        """The scale of each block, in the shape of `scales.values`, global factors included."""
        scales = self.scales.numbers()
        with np.errstate(over="ignore", invalid="ignore"):
            if self.global_scale != 1.0:
                scales = scales * np.float32(self.global_scale)
            if self.global_divisor != 1.0:
                scales = scales / np.float32(self.global_divisor)
        return self.finite(scales, "scales")

    def block_biases(self) -> Floats | None:
        """The bias of each block, in the shape of `biases.values`; None where there are none."""
        return None if self.biases is None else self.finite(self.biases.numbers(), "biases")

    def finite(self, numbers: Floats, what: str) -> Floats:
        """The numbers, all of them finite. Raises TensorError for others, which only damaged files have."""
        if np.isfinite(numbers).all():
            return numbers
        count = int((~np.isfinite(numbers)).sum())
        raise TensorError(
            f"{self.label}: {count} of {numbers.size} {what} are infinite or NaN: the file is damaged: download "
            f"or copy it again"
        )

    def dequantize(self) -> Floats:
        """The values float32 [rows, columns]. Raises TensorError if one is infinite or no number."""
        values = np.empty(self.shape, np.float32)
        for rows, some in self._values():
            values[rows] = some
        return values

    def bfloat16(self) -> NDArray[np.uint16]:
        """The bits of the nearest bfloat16 numbers [rows, columns]; never holds the whole matrix in float32."""
        bits = np.empty(self.shape, np.uint16)
        for rows, some in self._values():
            bits[rows] = float32_to_bfloat16(some)
        return bits

    def _values(self) -> Iterator[tuple[slice, Floats]]:
        """The values of some rows at a time."""
        codes, scales, biases = self.load_codes(), self.block_scales(), self.block_biases()
        zero_points = None if self.zero_points is None else self.zero_points.numbers()
        step = max(1, _CHUNK // max(1, self.shape[1]))
        for start in range(0, self.shape[0], step):
            stop = min(start + step, self.shape[0])
            some = codes[start:stop]
            values: Floats = some.astype(np.float32) if self.codebook is None else _look_up(self.codebook, some)
            with np.errstate(over="ignore", invalid="ignore"):
                if self.zero_points is not None and zero_points is not None:
                    values -= _spread_rows(zero_points, self.zero_points.block, self.shape, start, stop)
                values *= _spread_rows(scales, self.block, self.shape, start, stop)
                if self.biases is not None and biases is not None:
                    values += _spread_rows(biases, self.biases.block, self.shape, start, stop)
            if not all_finite(values, "f32"):
                self.finite(values, f"values of rows {start} to {stop - 1}")
            if self.permutation is not None:
                ordered = np.empty_like(values)
                ordered[:, self.permutation] = values
                values = ordered
            yield slice(start, stop), values


def _look_up(codebook: Floats, codes: NDArray[Any]) -> Floats:
    """The codebook's entry of each code."""
    values: Floats = codebook.astype(np.float32, copy=False)[codes]
    return values


Tensor = DenseTensor | QuantizedTensor
