"""The base of all schemes: parameters as arrays of rows, codes and values from their grid, tensors from both."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.errors import TensorError
from pocketvlm.quantize.levels import Codebook, Integers, Levels
from pocketvlm.quantize.tensor_scheme import Codes, TensorScheme
from pocketvlm.tensors import Array, Floats, LazyArray, QuantizedTensor

Parameters = tuple[NDArray[Any], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One array of parameters: its dtype, and how many numbers a span has of it."""

    dtype: type[np.generic]
    count: int = 1


class GridScheme(TensorScheme):
    """Parameters are a tuple of arrays [rows, numbers of a span], one for each of `parts`.

    bits: of a code. levels: what codes stand for. width: inputs of a span, None for all. group: inputs that share a
    scale, None for all.
    """

    bits: int
    levels: Levels
    width: int | None
    group: int | None
    parts: tuple[Part, ...]

    @abstractmethod
    def fields(self, arrays: Sequence[Array], group: int) -> dict[str, Any]:
        """The fields of a tensor that hold the parameters, joined for the whole matrix; group: as in a tensor."""

    def span(self, inputs: int) -> int:
        return inputs if self.width is None else self.width

    def problem(self, shape: tuple[int, int]) -> str | None:
        if self.width is None or shape[1] % self.width == 0:
            return None
        return f"{self.name} needs rows of a multiple of {self.width} inputs, not {shape[1]}"

    def tensor(
        self,
        name: str,
        codes: Codes,
        parameters: Sequence[Any],
        permutation: NDArray[np.integer[Any]] | None = None,
        origin: str = "",
    ) -> QuantizedTensor:
        spans: Sequence[Parameters] = parameters
        arrays = [np.concatenate([span[i] for span in spans], axis=1) for i in range(len(self.parts))]
        if permutation is not None and not self.permutes:
            raise TensorError(f"{name}: {self.name} does not store a permutation of columns")
        return self._tensor(name, codes, arrays, permutation, origin)

    def placeholder(self, name: str, shape: tuple[int, int]) -> QuantizedTensor:
        def read() -> NDArray[Any]:
            raise TensorError(f"{name}: was not quantized yet: a placeholder has no values")

        rows, inputs = shape
        spans = -(-inputs // self.span(inputs))
        arrays = [LazyArray((rows, part.count * spans), np.dtype(part.dtype), read) for part in self.parts]
        permutation = np.arange(inputs) if self.permutes else None
        return self._tensor(name, LazyArray(shape, np.dtype(self._dtype), read), arrays, permutation, "")

    @property
    def _dtype(self) -> type[np.generic]:
        return self.levels.dtype if isinstance(self.levels, Integers) else np.uint8

    def _tensor(
        self,
        name: str,
        codes: Array,
        arrays: Sequence[Array],
        permutation: NDArray[np.integer[Any]] | None,
        origin: str,
    ) -> QuantizedTensor:
        rows, inputs = codes.shape
        entries = self.levels.entries if isinstance(self.levels, Codebook) else None
        return QuantizedTensor(
            name,
            self.bits,
            (rows, inputs),
            codes,
            codebook=entries,
            permutation=permutation,
            origin=origin,
            **self.fields(arrays, self.group or inputs),
        )


def column(numbers: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """Numbers [rows], or [count, rows], as an array of parameters [rows, count]."""
    return np.ascontiguousarray(np.atleast_2d(numbers).T.astype(dtype))


def by_group(parameter: NDArray[Any]) -> Floats:
    """An array of parameters [rows, count] as float32 [count, rows]."""
    return np.ascontiguousarray(parameter.T, dtype=np.float32)
