"""A quantized matrix in the layout of the kernels: packed tiles of codes with their scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pocketvlm._native import QuantizedMatrix

TILE_OUTPUTS = 16
TILE_BYTES = 64  # of one step: four for each output of a tile


@dataclass(frozen=True, slots=True, eq=False)
class PackedMatrix:
    """A prepared matrix [outputs, inputs] of 4- or 8-bit codes; native/quantized/quantized.h says what the arrays hold.

    codes uint8 [tiles, steps, 64]; group_scale, group_bias float16 as uint16 [tiles, groups, 16] (None without groups,
    or for biases of zero); row_scale float32 [tiles * 16]; codebook uint8 [16] or None. group: inputs that share a
    scale, 0 where an output has one scale.
    """

    bits: int
    group: int
    inputs: int
    outputs: int
    codes: NDArray[np.uint8]
    group_scale: NDArray[np.uint16] | None
    group_bias: NDArray[np.uint16] | None
    row_scale: NDArray[np.float32]
    codebook: NDArray[np.uint8] | None
    handle: QuantizedMatrix

    @property
    def depth(self) -> int:
        """Inputs with the padding."""
        return int(self.codes.shape[1]) * 32 // self.bits

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        parts = (self.codes, self.group_scale, self.group_bias, self.row_scale, self.codebook)
        return sum(part.nbytes for part in parts if part is not None)


def packed_matrix(
    bits: int,
    group: int,
    inputs: int,
    outputs: int,
    codes: NDArray[np.uint8],
    group_scale: NDArray[np.uint16] | None,
    group_bias: NDArray[np.uint16] | None,
    row_scale: NDArray[np.float32],
    codebook: NDArray[np.uint8] | None,
) -> PackedMatrix:
    """A matrix over arrays in packed layout. Raises ValueError for arrays that do not fit each other."""
    from pocketvlm._native import QuantizedMatrix

    handle = QuantizedMatrix(bits, group, inputs, outputs, codes, group_scale, group_bias, row_scale, codebook)
    return PackedMatrix(bits, group, inputs, outputs, codes, group_scale, group_bias, row_scale, codebook, handle)
