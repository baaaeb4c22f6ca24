"""Matrices are quantized to 4 or 8 bits here, and packed into the tiles that the kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.native import slabs
from pocketvlm.backends.ops import StoredTensor

if TYPE_CHECKING:
    from pocketvlm._native import CodedMatrix, Runtime

WeightType = Literal["stored", "int8", "int4"]

PANEL = 16  # outputs of a panel
BLOCK = 64  # bytes of a block: four for each output of a panel
GROUP = 64  # inputs that share a scale in 4-bit codes
FINE = 32  # in 8-bit codes of the language model: what they are chosen for is that they err little
WHOLE = 0  # as a group: one scale for all inputs of an output
# Sixteen values, as value + 128, fitted to groups of 64 normal numbers whose largest lies on either end; in 7 bits, so
# that products of unsigned bytes fit 16 bits. 8.0 % error against 9.0 for equal steps.
TABLE = np.array([64, 79, 89, 97, 105, 111, 117, 123, 129, 135, 140, 146, 153, 160, 169, 182], np.uint8)
_UNIT = 16  # inputs without groups are padded to a multiple of this


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A prepared matrix [outputs, inputs] of codes; native/coded/coded.h says what the arrays hold.

    codes uint8 [panels, blocks, 64]; group_scale, group_minimum float16 as uint16 [panels, groups, 16] (None without
    groups, or for minima of zero); row_scale float32 [panels * 16]; table uint8 [16] or None. `group` 0: no groups.
    """

    bits: int
    group: int
    inputs: int
    outputs: int
    codes: NDArray[np.uint8]
    group_scale: NDArray[np.uint16] | None
    group_minimum: NDArray[np.uint16] | None
    row_scale: NDArray[np.float32]
    table: NDArray[np.uint8] | None
    handle: CodedMatrix

    @property
    def depth(self) -> int:
        """Inputs with the padding."""
        return int(self.codes.shape[1]) * 32 // self.bits

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        parts = (self.codes, self.group_scale, self.group_minimum, self.row_scale, self.table)
        return sum(part.nbytes for part in parts if part is not None)


def form_of(name: str, weights: WeightType) -> tuple[int, int] | None:
    """Bits and group of the codes that a matrix gets, or None for those that stay as stored.

    The vision tower always gets 8-bit codes with one scale an output. The gates of the delta rule decide how long a
    state lives and are tiny: they get 8 bits beside 4-bit codes too, in groups that let products share the rows' bytes.
    The patch embedding reads pixels and is small.
    """
    if weights == "stored" or ".patch_embedding." in name:
        return None
    if ".vision_tower." in name or ".merger." in name:
        return 8, WHOLE
    if weights == "int8":
        return 8, FINE
    return (8 if ".in_proj_a." in name or ".in_proj_b." in name else 4), GROUP


def encode(runtime: Runtime, stored: StoredTensor, bits: int, group: int = GROUP) -> Coded:
    """Round-to-nearest codes of a stored matrix."""
    outputs, inputs = stored.shape
    bf16 = stored.dtype == "bf16"
    values: NDArray[Any] = stored.data if bf16 else stored.float32()
    values = np.require(values, requirements=["C", "A"])
    unit = group or _UNIT
    depth, panels = -(-inputs // unit) * unit, -(-outputs // PANEL)
    codes = slabs.zeros((panels, depth * bits // 32, BLOCK), np.uint8)
    row_scale = slabs.zeros((panels * PANEL,), np.float32)
    group_scale = slabs.zeros((panels, depth // group, PANEL), np.uint16) if group else None
    table = TABLE if bits == 4 else None
    runtime.encode(values, bf16, bits, group, codes, group_scale, row_scale, table)
    return coded(runtime, bits, group, inputs, outputs, codes, group_scale, None, row_scale, table)


def coded(
    runtime: Runtime,
    bits: int,
    group: int,
    inputs: int,
    outputs: int,
    codes: NDArray[np.uint8],
    group_scale: NDArray[np.uint16] | None,
    group_minimum: NDArray[np.uint16] | None,
    row_scale: NDArray[np.float32],
    table: NDArray[np.uint8] | None,
) -> Coded:
    """A matrix out of arrays in packed form; their shapes are checked."""
    from pocketvlm._native import CodedMatrix

    handle = CodedMatrix(bits, group, inputs, outputs, codes, group_scale, group_minimum, row_scale, table)
    return Coded(bits, group, inputs, outputs, codes, group_scale, group_minimum, row_scale, table, handle)


def pack(codes: NDArray[np.uint8], bits: int, depth: int) -> NDArray[np.uint8]:
    """Codes [outputs, inputs] in packed form [panels, blocks, 64]: 8 bit as value + 128, 4 bit as 0..15.

    Inputs beyond the last are filled with the code of zero, as are outputs.
    """
    outputs, inputs = codes.shape
    panels = -(-outputs // PANEL)
    padded = np.full((panels * PANEL, depth), 128 if bits == 8 else 8, np.uint8)
    padded[:outputs, :inputs] = codes
    if bits == 8:
        blocks = padded.reshape(panels, PANEL, depth // 4, 4)
    else:
        halves = padded.reshape(panels, PANEL, depth // 8, 2, 4)
        blocks = halves[:, :, :, 0] | halves[:, :, :, 1] << 4
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(panels, -1, BLOCK)


def pack_groups(values: Sequence[Sequence[float]] | NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Scales or minima [outputs, groups] in packed form, float16 as uint16 [panels, groups, 16]."""
    array = np.asarray(values, np.float16)
    outputs, groups = array.shape
    padded = np.zeros((-(-outputs // PANEL) * PANEL, groups), np.float16)
    padded[:outputs] = array
    return np.ascontiguousarray(padded.reshape(-1, PANEL, groups).transpose(0, 2, 1)).view(np.uint16)
