"""Schemes with one scale a group and nothing else: GGUF's Q4_0, Q5_0, Q8_0 and IQ4_NL, MX blocks and NVFP4."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.codebooks import e2m1, e4m3, e8m0
from pocketvlm.checkpoint.formats.gguf import BLOCK_TYPES
from pocketvlm.quantize.grid_scheme import GridScheme, Parameters, Part, by_group, column
from pocketvlm.quantize.grids import Grid, inverse
from pocketvlm.quantize.levels import Integers, Levels, codebook
from pocketvlm.quantize.refits import refit_scale
from pocketvlm.quantize.searches import as_float16, extreme, scale_only, take, total, weighted, weights_for
from pocketvlm.quantize.tensor_scheme import Codes, TensorScheme
from pocketvlm.tensors import Array, BlockValues, Floats

_TINY = np.float32(1e-30)


class ScaledBlock(GridScheme):
    """A block type of GGUF with one float16 scale, perhaps negative, for 32 values."""

    def __init__(self, name: str, levels: Levels, factors: tuple[float, ...], plain_level: float) -> None:
        """factors: see `scale_only`. plain_level: where simple rounding puts the largest number."""
        kind = BLOCK_TYPES[name]
        self.name, self.bits, self.levels = name, kind.bits, levels
        self.width = self.group = kind.group
        self.parts = (Part(np.float16),)
        self._factors, self._plain_level = factors, np.float32(plain_level)

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        return self.bits + 16 / (self.group or 1)

    def fields(self, arrays: Sequence[Array], group: int) -> dict[str, Any]:
        return {"scales": BlockValues(arrays[0], (1, group))}

    def fit(self, w: Floats, importance: Floats | None = None) -> Parameters:
        x = np.ascontiguousarray(w.T)
        end = extreme(x) / self._plain_level
        low, high = self.levels.ends
        scale = scale_only(x, weights_for(x, importance), self.levels, as_float16, self._factors, end, -low != high)
        if -low == high:
            scale = np.abs(scale)
        return (column(scale, np.float16),)

    def grid(self, parameters: Any) -> Grid:
        return Grid(self.levels, self.group or 0, by_group(parameters[0]))

    def refit(self, parameters: Any, codes: Codes, gradient: Floats, gram: Floats) -> Parameters:
        scale = by_group(parameters[0])[0]
        found = refit_scale(self.levels.decode(codes), scale, as_float16, gradient, gram)
        return (column(found, np.float16),)


def q4_0() -> ScaledBlock:
    """GGUF Q4_0."""
    return ScaledBlock("Q4_0", Integers(-8, 7, np.int8), tuple(np.linspace(0.6, 1.1, 21)), -8)


def q5_0() -> ScaledBlock:
    """GGUF Q5_0."""
    return ScaledBlock("Q5_0", Integers(-16, 15, np.int8), tuple(np.linspace(0.75, 1.05, 16)), -16)


def q8_0() -> ScaledBlock:
    """GGUF Q8_0."""
    return ScaledBlock("Q8_0", Integers(-127, 127, np.int8), (0.97, 0.98, 0.985, 0.99, 0.995, 1.0), 127)


def iq4_nl() -> ScaledBlock:
    """GGUF IQ4_NL."""
    entries = BLOCK_TYPES["IQ4_NL"].codebook
    assert entries is not None
    return ScaledBlock("IQ4_NL", codebook(entries), tuple(np.linspace(0.6, 1.1, 21)), -127)


class PowerScheme(GridScheme):
    """MX blocks: small floats whose groups of 32 share a power of two (E8M0)."""

    def __init__(self, name: str, bits: int, entries: Floats) -> None:
        self.name, self.bits, self.levels = name, bits, codebook(entries)
        self.width = self.group = 32
        self.parts = (Part(np.uint8),)

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        return self.bits + 8 / 32

    def fields(self, arrays: Sequence[Array], group: int) -> dict[str, Any]:
        return {"scales": BlockValues(arrays[0], (1, group), e8m0())}

    def fit(self, w: Floats, importance: Floats | None = None) -> Parameters:
        x = np.ascontiguousarray(w.T)
        weights = weights_for(x, importance)
        largest = np.maximum(np.abs(x).max(0), np.float32(2.0**-120))
        first = np.ceil(np.log2(largest / np.float32(self.levels.ends[1]))).astype(np.int32)
        best, lowest = np.clip(first + 127, 0, 254), np.full(first.shape, np.inf, np.float32)
        for shift in (0, -1, -2, 1):
            code = np.clip(first + 127 + shift, 0, 254)
            error = _error(x, weights, self.levels, e8m0()[code])
            take((best, lowest), (code, error), error < lowest)
        return (column(best, np.uint8),)

    def grid(self, parameters: Any) -> Grid:
        return Grid(self.levels, 32, e8m0()[np.ascontiguousarray(parameters[0].T)])


@cache
def _scale_numbers() -> tuple[Floats, NDArray[np.uint8]]:
    """The positive E4M3 numbers in order, and their codes."""
    return e4m3()[1:127], np.arange(1, 127, dtype=np.uint8)


class NvFp4Scheme(GridScheme):
    """NVFP4: E2M1 numbers whose groups of 16 share an E4M3 scale.

    shared: all scales are divided by one number of the matrix, so that they use the range of E4M3 (compressed-tensors,
    vLLM). MLX has none: there scales of less than 2 ** -6 have few bits.
    """

    def __init__(self, name: str, shared: bool, divisor: float = 1.0) -> None:
        self.name, self.bits, self.levels = name, 4, codebook(e2m1())
        self.width = self.group = 16
        self.parts = (Part(np.uint8),)
        self._shared, self._divisor = shared, divisor

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        return 4 + 8 / 16

    def bound(self, w: Floats) -> TensorScheme:
        """The scheme with the divisor that puts the largest scale of a matrix on the largest E4M3 number, 448."""
        if not self._shared:
            return self
        largest = max(float(np.abs(w[start : start + 1024]).max(initial=0)) for start in range(0, len(w), 1024))
        divisor = float(np.float32(448 * 6 / largest)) if largest > 1e-30 else 1.0
        return NvFp4Scheme(self.name, True, divisor)

    def fields(self, arrays: Sequence[Array], group: int) -> dict[str, Any]:
        return {"scales": BlockValues(arrays[0], (1, group), e4m3()), "global_divisor": self._divisor}

    def _scale(self, codes: NDArray[Any]) -> Floats:
        scale: Floats = e4m3()[codes]
        return scale / np.float32(self._divisor) if self._divisor != 1.0 else scale

    def _nearest(self, scale: Floats) -> NDArray[np.int64]:
        numbers, _ = _scale_numbers()
        middles = (numbers[1:] + numbers[:-1]) / 2
        return np.searchsorted(middles, np.abs(scale) * np.float32(self._divisor))

    def fit(self, w: Floats, importance: Floats | None = None) -> Parameters:
        x = np.ascontiguousarray(w.T)
        weights = weights_for(x, importance)
        _, codes = _scale_numbers()
        largest = np.abs(x).max(0)
        plain = self._nearest(largest / np.float32(6))
        best, lowest = codes[plain], np.full(plain.shape, np.inf, np.float32)
        tried = [largest / np.float32(level) for level in (6, 5.5, 5, 4.5, 4.2, 4, 3.8, 6.5, 7, 7.5, 8)]
        for index in [plain, *(self._nearest(scale) for scale in tried[1:])]:
            error = _error(x, weights, self.levels, self._scale(codes[index]))
            take((best, lowest), (codes[index], error), error < lowest)
        for shift in (-1, 1):
            code = np.clip(best.astype(np.int32) + shift, 1, 126).astype(np.uint8)
            error = _error(x, weights, self.levels, self._scale(code))
            take((best, lowest), (code, error), error < lowest)
        return (column(best, np.uint8),)

    def grid(self, parameters: Any) -> Grid:
        return Grid(self.levels, 16, self._scale(np.ascontiguousarray(parameters[0].T)))

    def refit(self, parameters: Any, codes: Codes, gradient: Floats, gram: Floats) -> Parameters:
        _, scale_codes = _scale_numbers()

        def store(scale: Floats) -> Floats:
            return self._scale(scale_codes[self._nearest(np.maximum(scale, _TINY))])

        found = refit_scale(self.levels.decode(codes), self._scale(parameters[0][:, 0]), store, gradient, gram)
        return (column(scale_codes[self._nearest(found)], np.uint8),)


def _error(x: Floats, w: Floats | None, levels: Levels, scale: Floats) -> Floats:
    d = levels.nearest(x * inverse(scale))
    d *= scale
    d -= x
    return total(weighted(d, w) * d)
