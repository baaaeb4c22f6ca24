"""Handles of prepared matrices: as stored, packed, or both for a tied embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from pocketvlm.backends.native.packed_matrix import PackedMatrix


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A prepared matrix [out, in]: float32, or the bits of bfloat16 as uint16 (perhaps in a mapped file).

    Rows that are only looked up may be float16.
    rounds: products may round activations to bfloat16 whatever the scheme says of dense matrices.
    """

    data: NDArray[Any]
    bf16: bool
    outputs: int
    rounds: bool = False

    @property
    def inputs(self) -> int:
        """Columns."""
        return int(self.data.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.data.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Tied:
    """An embedding that is the head's matrix too: a packed matrix to multiply with, rows as stored to look up."""

    packed: PackedMatrix
    rows: Matrix

    @property
    def inputs(self) -> int:
        """Columns."""
        return self.packed.inputs

    @property
    def outputs(self) -> int:
        """Rows."""
        return self.packed.outputs

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        return self.packed.nbytes


NativeWeight = Matrix | PackedMatrix | Tied
