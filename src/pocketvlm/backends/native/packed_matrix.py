"""A quantized matrix in the layout of the kernels: packed tiles of codes with their scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pocketvlm._native import QuantizedMatrix

TILE_OUTPUTS = 16
TILE_BYTES = 64  # of one line: four for each output of a tile

Numbers = NDArray[np.uint16] | NDArray[np.float32] | NDArray[np.int8]

# The arrays of a packed matrix and their dtypes; float16 numbers are uint16.
ARRAYS: dict[str, tuple[str, ...]] = {
    "codes": ("uint8",),
    "group_scale": ("uint16", "float32", "int8"),
    "group_bias": ("uint16", "float32", "int8"),
    "row_scale": ("float32",),
    "codebook": ("uint8",),
    "scale_factor": ("uint16",),
    "bias_factor": ("uint16",),
    "zero_points": ("int8",),
    "permutation": ("int32",),
}
NUMBERS = ("bits", "group", "inputs", "outputs", "span", "zero")


@dataclass(frozen=True, slots=True, eq=False)
class PackedMatrix:
    """A prepared matrix [outputs, inputs] of codes of 4, 5, 6 or 8 bits; native/quantized/quantized.h has its formula.

    group: inputs that share a scale, 0 where an output has one scale and nothing else. codes uint8 [tiles, lines, 64];
    row_scale float32 [tiles * 16]; codebook uint8 [16], or [2, 16] for a wide one, or None.

    group_scale, group_bias [tiles, groups, 16]: float16 as uint16, float32, or int8 with scale_factor and bias_factor,
    float16 as uint16 [tiles, ceil(groups / span), 16]; None without groups, or for biases of zero. zero_points int8
    [tiles, groups, 16], or None if `zero` is that of all groups. permutation int32 [inputs] or None.
    """

    bits: int
    group: int
    inputs: int
    outputs: int
    codes: NDArray[np.uint8]
    group_scale: Numbers | None
    group_bias: Numbers | None
    row_scale: NDArray[np.float32]
    codebook: NDArray[np.uint8] | None
    scale_factor: NDArray[np.uint16] | None
    bias_factor: NDArray[np.uint16] | None
    span: int
    zero_points: NDArray[np.int8] | None
    zero: int
    permutation: NDArray[np.int32] | None
    handle: QuantizedMatrix

    @property
    def depth(self) -> int:
        """Inputs with the padding."""
        return int(self.codes.shape[1]) * 32 // self.bits

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that the matrix has, by name."""
        found = {name: getattr(self, name) for name in ARRAYS}
        return {name: array for name, array in found.items() if array is not None}


def packed_matrix(
    bits: int,
    group: int,
    inputs: int,
    outputs: int,
    codes: NDArray[np.uint8],
    group_scale: Numbers | None,
    group_bias: Numbers | None,
    row_scale: NDArray[np.float32],
    codebook: NDArray[np.uint8] | None,
    scale_factor: NDArray[np.uint16] | None = None,
    bias_factor: NDArray[np.uint16] | None = None,
    span: int = 1,
    zero_points: NDArray[np.int8] | None = None,
    zero: int = 0,
    permutation: NDArray[np.int32] | None = None,
) -> PackedMatrix:
    """A matrix over arrays in packed layout. Raises ValueError for arrays that do not fit each other."""
    from pocketvlm._native import QuantizedMatrix

    handle = QuantizedMatrix(
        bits, group, inputs, outputs, codes, group_scale, group_bias, row_scale, codebook,
        scale_factor, bias_factor, span, zero_points, zero, permutation,
    )  # fmt: skip
    return PackedMatrix(
        bits, group, inputs, outputs, codes, group_scale, group_bias, row_scale, codebook,
        scale_factor, bias_factor, span, zero_points, zero, permutation, handle,
    )  # fmt: skip
