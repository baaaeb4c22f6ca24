"""`IntegerMatrix` is the common form of integer formats: unsigned codes, zero points and scales of groups of inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.errors import TensorError
from pocketvlm.tensors import (
    BlockValues,
    Floats,
    QuantizedTensor,
    bfloat16_to_float32,
    float32_to_bfloat16,
    grid_shape,
    spread,
)

Bytes = NDArray[np.uint8]

ENGINE_GROUPS = (32, 64, 128)
NARROW = ("F16", "BF16")  # the types, as files name them, that scales are stored in


@dataclass(frozen=True, slots=True, eq=False)
class IntegerMatrix:
    """A matrix whose values are (code - zero point) * scale, computed in float32 from integers and narrow scales.

    group: neighbouring stored columns that share a scale; the number of all columns for one scale an output. Nothing is
    read before a method is called.
    """

    tensor: QuantizedTensor
    group: int

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.tensor.bits

    @property
    def shape(self) -> tuple[int, int]:
        """[outputs, inputs]."""
        return self.tensor.shape

    @property
    def groups(self) -> int:
        """Groups of an output; the last one may be partial."""
        return -(-self.shape[1] // self.group)

    @property
    def permutation(self) -> NDArray[Any] | None:
        """The input of each stored column; None where columns are stored in order."""
        return self.tensor.permutation

    @property
    def middle(self) -> int:
        """The zero point of symmetric codes."""
        return 1 << self.bits - 1

    def codes(self) -> Bytes:
        """The codes uint8 [outputs, inputs] without a sign, columns in the order of their groups."""
        codes = self.tensor.load_codes()
        if codes.dtype == np.uint8:
            return codes
        return codes.view(np.uint8) + np.uint8(self.middle) & np.uint8(2**self.bits - 1)

    def input_codes(self) -> Bytes:
        """The codes uint8 [outputs, inputs], columns in the order of the inputs."""
        codes = self.codes()
        if self.permutation is None:
            return codes
        ordered = np.empty_like(codes)
        ordered[:, self.permutation] = codes
        return ordered

    def input_groups(self) -> NDArray[np.int32]:
        """The group of each input."""
        groups = (np.arange(self.shape[1]) // self.group).astype(np.int32)
        if self.permutation is None:
            return groups
        ordered = np.empty_like(groups)
        ordered[self.permutation] = groups
        return ordered

    def scales(self) -> Floats:
        """The scales float32 [outputs, groups]."""
        return self._by_group(self.tensor.block_scales(), self.tensor.scales)

    def biases(self) -> Floats:
        """What is added to code * scale: float32 [outputs, groups], for tensors with biases."""
        biases, values = self.tensor.biases, self.tensor.block_biases()
        assert biases is not None
        assert values is not None
        return self._by_group(values, biases)

    def zero_points(self) -> Bytes:
        """The zero points uint8 [outputs, groups]. Raises TensorError, which says why, if there are none."""
        tensor, max_code = self.tensor, 2**self.bits - 1
        offset = self.middle if tensor.codes.dtype == np.int8 else 0  # of signed codes, and so of their zero points
        if tensor.biases is not None:
            scales, biases = self.scales().astype(np.float64), self.biases().astype(np.float64)
            zeros = np.divide(-biases, scales, out=np.full(biases.shape, 0.0), where=scales != 0)
            wrong = np.rint(zeros) * scales != -biases
            if wrong.any():
                at = tuple(np.argwhere(wrong)[0])
                raise TensorError(
                    f"there is no integer zero point in {int(wrong.sum())} of {wrong.size} groups: bias "
                    f"{biases[at]:.6g} is no multiple of scale {scales[at]:.6g}"
                )
            if narrow_dtype(self.scales()) is None:
                raise TensorError(f"zero points in place of biases would change values of {inexact(self.scales())}")
            zeros = np.where(scales == 0, self.middle - offset, np.rint(zeros))
        elif tensor.zero_points is not None:
            numbers = tensor.finite(tensor.zero_points.numbers(), "zero points")
            zeros = self._by_group(numbers, tensor.zero_points).astype(np.float64)
            if (np.rint(zeros) != zeros).any():
                raise TensorError("its zero points are no integers")
        else:
            zeros = np.zeros((self.shape[0], self.groups))
        zeros = zeros + offset
        if zeros.size and (zeros.min() < 0 or zeros.max() > max_code):
            raise TensorError(
                f"zero points {zeros.min():g} to {zeros.max():g} do not fit {self.bits} bits (0 to {max_code})"
            )
        found: Bytes = zeros.astype(np.uint8)
        return found

    def unsigned_biases(self) -> Floats:
        """What is added to (code without a sign) * scale. Raises TensorError, which says why, if that is not exact."""
        scales = self.scales().astype(np.float64)
        if self.tensor.biases is not None:
            biases = self.biases().astype(np.float64)
            if self.tensor.codes.dtype == np.int8:
                biases = biases - self.middle * scales
        else:
            biases = -(self.zero_points() * scales)
        found: Floats = biases.astype(np.float32)
        if not np.array_equal(found, biases):
            raise TensorError("its biases are not exact in float32")
        return found

    def split(self, group: int) -> IntegerMatrix:
        """The same matrix in smaller groups, which repeat the scales; `group` divides that of this matrix."""
        return replace(self, group=group)

    def _by_group(self, numbers: Floats, values: BlockValues) -> Floats:
        """Numbers of blocks as numbers [outputs, groups]; blocks consist of whole groups."""
        assert not isinstance(values.block, int)
        rows, step = values.block
        steps = max(1, -(-min(step, self.shape[1]) // self.group))
        return spread(numbers, (rows, steps), (self.shape[0], self.groups))


def integer_problem(tensor: QuantizedTensor) -> str | None:
    """Why a matrix has no form of integers with scales of groups; None if it has one. Reads no values."""
    if tensor.codebook is not None:
        return "its codes are entries of a codebook, not integers in equal steps"
    for values in (tensor.scales, tensor.zero_points, tensor.biases):
        if values is not None and isinstance(values.block, int):
            return "its blocks continue from one row to the next"
        if values is not None and values.scale is not None:
            return "its scales have two levels (super-blocks), and the format has one"
    return None


def integers(tensor: QuantizedTensor) -> IntegerMatrix:
    """The form of a matrix that passed `integer_problem`."""
    columns, group = tensor.shape[1], 0
    for values in (tensor.scales, tensor.zero_points, tensor.biases):
        if values is not None:
            assert not isinstance(values.block, int)
            group = math.gcd(group, min(values.block[1], columns))
    sizes = [grid_shape(tensor.shape, (1, group))[1]] if group else []
    return IntegerMatrix(tensor, group if sizes else columns)


def engine_group(matrix: IntegerMatrix) -> int:
    """The size of groups that engines load: the matrix's own, or one that divides it and repeats its scales.

    The number of all inputs means one scale an output. Raises TensorError where there is none.
    """
    group, inputs = matrix.group, matrix.shape[1]
    if group >= inputs:
        return inputs
    if inputs % group:
        raise TensorError(f"groups of {group} do not divide {inputs} inputs")
    fitting = [size for size in ENGINE_GROUPS if group % size == 0]
    if not fitting:
        sizes = ", ".join(map(str, ENGINE_GROUPS))
        raise TensorError(f"engines load groups of {sizes} in this format, and those of {group} cannot be split so")
    return max(fitting)


def narrow_dtype(*numbers: Floats, preferred: Sequence[str] = NARROW) -> str | None:
    """The first of the preferred types that holds all numbers exactly; None if there is none."""
    return next((dtype for dtype in preferred if all(_exact(values, dtype).all() for values in numbers)), None)


def narrow(numbers: Floats, dtype: str) -> NDArray[Any]:
    """Numbers as a file of this dtype holds them: bfloat16 as its bits."""
    if dtype == "BF16":
        return float32_to_bfloat16(np.ascontiguousarray(numbers))
    return np.ascontiguousarray(numbers, np.float16 if dtype == "F16" else np.float32)


def inexact(numbers: Floats, what: str = "scale") -> str:
    """Why numbers fit no narrow type, with an example."""
    wrong = ~(_exact(numbers, "F16") | _exact(numbers, "BF16"))
    if wrong.any():
        return f"{what} {numbers[wrong][0]:.9g} ({int(wrong.sum())} of {wrong.size}), which is not exact in 16 bits"
    return f"{what}s that need float16 in some groups and bfloat16 in others"


def _exact(values: Floats, dtype: str) -> NDArray[np.bool_]:
    """Which values a 16-bit type holds exactly."""
    with np.errstate(over="ignore"):
        if dtype == "F16":
            found: Floats = values.astype(np.float16).astype(np.float32)
        else:
            found = bfloat16_to_float32(float32_to_bfloat16(np.ascontiguousarray(values)))
    equal: NDArray[np.bool_] = found == values
    return equal
