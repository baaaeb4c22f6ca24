"""The stored arrays of one quantized matrix, checked when they are read, and what most formats make of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pocketvlm.checkpoint.formats.codebooks import e4m3, e5m2, e8m0
from pocketvlm.checkpoint.formats.format import Parts, Shape, StoredArray, lazy
from pocketvlm.errors import TensorError
from pocketvlm.tensors import Array, BlockValues, Floats, QuantizedTensor, bfloat16_to_float32, grid_shape

FLOATS = ("F32", "F16", "BF16")
FLOAT8 = ("F8_E4M3", "F8_E5M2")
_CODEBOOKS = {"F8_E4M3": e4m3, "F8_E5M2": e5m2, "F8_E8M0": e8m0}
WAY_OUT = "download or copy the checkpoint again, or use the 16-bit checkpoint"


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedModule:
    """One matrix as its file holds it. name: "<module>.weight". parts: its arrays by what follows "<module>."."""

    name: str
    shape: tuple[int, int]
    parts: Parts

    @classmethod
    def of(cls, name: str, shape: Shape, parts: Parts) -> QuantizedModule:
        """Raises TensorError for a tensor that is no matrix."""
        if len(shape) != 2:
            raise TensorError(f"{name}: a tensor of shape {list(shape)} is quantized, only matrices can be: {WAY_OUT}")
        return cls(name, (shape[0], shape[1]), parts)

    def label(self, suffix: str) -> str:
        """The name of one array of the matrix."""
        return self.name.removesuffix("weight") + suffix

    def fail(self, suffix: str, what: str) -> TensorError:
        """The error for one array of the matrix."""
        return TensorError(f"{self.label(suffix)}: {what}: {WAY_OUT}")

    def array(self, suffix: str, dtypes: tuple[str, ...], *shapes: Shape) -> StoredArray:
        """An array that must be there, of one of these dtypes and, where any are given, of one of these shapes."""
        stored = self.parts.get(suffix)
        if stored is None:
            raise self.fail(suffix, f"the array is missing, the file has only {', '.join(sorted(self.parts))}")
        if stored.dtype not in dtypes:
            raise self.fail(suffix, f"dtype {stored.dtype} does not belong there, {' or '.join(dtypes)} does")
        if shapes and stored.data.shape not in shapes:
            found, wanted = list(stored.data.shape), " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
            raise self.fail(suffix, f"shape {found} does not fit a matrix {list(self.shape)}, {wanted} would")
        return stored

    def sides(self, suffix: str, dtypes: tuple[str, ...]) -> tuple[int, int]:
        """Rows and columns of an array that must be there, of one of these dtypes."""
        shape = self.array(suffix, dtypes).data.shape
        if len(shape) != 2:
            raise self.fail(suffix, f"shape {list(shape)} is not rows and columns")
        return shape[0], shape[1]

    def scalar(self, suffix: str) -> float:
        """The only number of an array."""
        value = float(self.array(suffix, ("F32",), (), (1,), (1, 1)).data.reshape(()))
        if not math.isfinite(value) or value == 0:
            raise self.fail(suffix, f"{value} is no scale")
        return value

    def block_values(
        self, suffix: str, block: tuple[int, int] | None, codebook: Floats | None = None, dtypes: tuple[str, ...] = ()
    ) -> BlockValues:
        """The numbers of blocks of the matrix; block None means one for all of it or one a row, as the shape says.

        codebook: what the bytes of the array mean, where its dtype does not say it. dtypes: all that may be there.
        """
        rows, columns = self.shape
        dtypes = dtypes or (*FLOATS, "F8_E4M3", "F8_E8M0")
        if block is not None:
            shape = grid_shape(self.shape, block)
            stored = self.array(suffix, dtypes, shape)
        else:
            stored = self.array(suffix, dtypes, (), (1,), (1, 1), (rows,), (rows, 1))
            whole = stored.data.size == 1
            shape, block = ((1, 1), (rows, columns)) if whole else ((rows, 1), (1, columns))
        if codebook is None and stored.dtype in _CODEBOOKS:
            codebook = _CODEBOOKS[stored.dtype]()
        return BlockValues(numbers(stored, shape), block, codebook)

    def float8(self, scales: BlockValues) -> QuantizedTensor:
        """The matrix whose `weight` holds 8-bit floating-point numbers, which are codes of their codebook."""
        weight = self.array("weight", FLOAT8, self.shape)
        return QuantizedTensor(self.name, 8, self.shape, weight.data, scales, codebook=_CODEBOOKS[weight.dtype]())


def numbers(stored: StoredArray, shape: Shape) -> Array:
    """A stored array under another shape, as numbers: the bits of bfloat16 are converted when they are used."""
    data = stored.data.reshape(shape)
    if stored.dtype != "BF16":
        return data
    return lazy(shape, np.float32, lambda: bfloat16_to_float32(data))
