"""Affine schemes: equal steps with zero points, symmetric ones, and those with biases, of groups or whole rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pocketvlm.quantize.grid_scheme import GridScheme, Parameters, Part, by_group, column
from pocketvlm.quantize.grids import Grid
from pocketvlm.quantize.levels import Integers
from pocketvlm.quantize.refits import refit_bias, refit_scale, refit_zero
from pocketvlm.quantize.searches import (
    Store,
    as_bfloat16,
    as_float16,
    bias_error,
    scale_and_bias,
    scale_and_zero,
    scale_only,
    stored_bias,
    take,
    weights_for,
)
from pocketvlm.quantize.tensor_scheme import Codes
from pocketvlm.tensors import Array, BlockValues, Floats

# Parts by which each end of a range is moved inwards: few bits gain from clipping, many do not.
_SHRINKS = {
    2: (0.0, 0.06, 0.12, 0.18, 0.24, 0.3),
    3: (0.0, 0.04, 0.08, 0.13, 0.18, 0.24),
    4: (0.0, 0.025, 0.05, 0.08, 0.12, 0.17),
    5: (0.0, 0.015, 0.03, 0.05, 0.08),
    6: (0.0, 0.01, 0.02, 0.04),
    8: (0.0, 0.005),
}
# Factors of the scale that puts the largest number on the last level.
_FACTORS = {
    2: tuple(np.linspace(0.4, 1.1, 15)),
    3: tuple(np.linspace(0.5, 1.1, 15)),
    4: tuple(np.linspace(0.6, 1.1, 21)),
    5: tuple(np.linspace(0.75, 1.05, 16)),
    6: tuple(np.linspace(0.85, 1.03, 13)),
    8: (0.97, 0.98, 0.99, 1.0, 1.005),
}


class AffineScheme(GridScheme):
    """Codes 0..2 ** bits - 1 with float16 scales and integer zero points: those of AWQ, GPTQ, compressed-tensors."""

    def __init__(self, name: str, bits: int, group: int, permutes: bool = False) -> None:
        self.name, self.bits, self.width, self.group, self.permutes = name, bits, group, group, permutes
        self.levels = Integers(0, 2**bits - 1)
        self.parts = (Part(np.float16), Part(np.uint8))

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        return self.bits + (16 + self.bits) * -(-shape[1] // (self.group or 1)) / shape[1]

    def fields(self, arrays: Sequence[Array], group: int) -> dict[str, Any]:
        scales, zeros = (BlockValues(array, (1, group)) for array in arrays)
        return {"scales": scales, "zero_points": zeros}

    def fit(self, w: Floats, importance: Floats | None = None) -> Parameters:
        x = np.ascontiguousarray(w.T)
        weights = weights_for(x, importance)
        scale, zero = scale_and_zero(x, weights, 2**self.bits - 1, as_float16, _SHRINKS[self.bits])
        return column(scale, np.float16), column(zero, np.uint8)

    def grid(self, parameters: Any) -> Grid:
        return Grid(self.levels, self.group or 0, by_group(parameters[0]), zero=by_group(parameters[1]))

    def refit(self, parameters: Any, codes: Codes, gradient: Floats, gram: Floats) -> Parameters:
        scale, zero = by_group(parameters[0])[0], by_group(parameters[1])[0]
        scale, zero = refit_zero(codes, scale, zero, 2**self.bits - 1, as_float16, gradient, gram)
        return column(scale, np.float16), column(zero, np.uint8)


class SymmetricScheme(GridScheme):
    """Codes with float16 scales around the middle code, which is the zero point of all groups.

    The scale may be negative: the lowest level, which has no opposite, then stands for the largest number.
    """

    def __init__(self, name: str, bits: int, group: int, permutes: bool = False) -> None:
        self.name, self.bits, self.width, self.group, self.permutes = name, bits, group, group, permutes
        self.levels = Integers(0, 2**bits - 1)
        self._middle = 2 ** (bits - 1)
        self._signed = Integers(-self._middle, self._middle - 1)
        self.parts = (Part(np.float16),)

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        return self.bits + 16 * -(-shape[1] // (self.group or 1)) / shape[1]

    def fields(self, arrays: Sequence[Array], group: int) -> dict[str, Any]:
        zeros = np.full(arrays[0].shape, self._middle, np.uint8)
        return {"scales": BlockValues(arrays[0], (1, group)), "zero_points": BlockValues(zeros, (1, group))}

    def fit(self, w: Floats, importance: Floats | None = None) -> Parameters:
        x = np.ascontiguousarray(w.T)
        plain = np.abs(x).max(0) / np.float32(self._middle - 0.5)
        scale = scale_only(x, weights_for(x, importance), self._signed, as_float16, _FACTORS[self.bits], plain)
        return (column(np.where(scale == 0, np.float32(1), scale), np.float16),)

    def grid(self, parameters: Any) -> Grid:
        scale = by_group(parameters[0])
        return Grid(self.levels, self.group or 0, scale, zero=np.full_like(scale, self._middle))

    def refit(self, parameters: Any, codes: Codes, gradient: Floats, gram: Floats) -> Parameters:
        scale = by_group(parameters[0])[0]
        factors = codes.astype(np.float32) - np.float32(self._middle)
        return (column(refit_scale(factors, scale, as_float16, gradient, gram), np.float16),)


class BiasScheme(GridScheme):
    """Codes 0..2 ** bits - 1 with a scale and a bias for each group.

    MLX stores both as bfloat16 (`half` False: float32 arrays of such numbers, as files with bfloat16 are read), GGUF's
    Q4_1 and Q5_1 as float16.
    """

    def __init__(self, name: str, bits: int, group: int, half: bool = False) -> None:
        self.name, self.bits, self.width, self.group = name, bits, group, group
        self.levels = Integers(0, 2**bits - 1)
        self._store: Store = as_float16 if half else as_bfloat16
        self._dtype_of_parts: type[np.generic] = np.float16 if half else np.float32
        self.parts = (Part(self._dtype_of_parts), Part(self._dtype_of_parts))

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        return self.bits + 32 * -(-shape[1] // (self.group or 1)) / shape[1]

    def fields(self, arrays: Sequence[Array], group: int) -> dict[str, Any]:
        scales, biases = (BlockValues(array, (1, group)) for array in arrays)
        return {"scales": scales, "biases": biases}

    def fit(self, w: Floats, importance: Floats | None = None) -> Parameters:
        x = np.ascontiguousarray(w.T)
        weights, top = weights_for(x, importance), 2**self.bits - 1
        exact, bias = scale_and_bias(x, weights, top, _SHRINKS[self.bits])
        scale = self._store(exact)
        bias = stored_bias(x, weights, top, scale, bias, self._store)
        error = bias_error(x, weights, top, scale, bias)
        low, high = x.min(0), x.max(0)
        ends = [(self._store((high - low) / np.float32(top)), self._store(low))]
        if self._dtype_of_parts is np.float32:
            ends.append(_from_zero(low, high, top, self._store))
        for other, other_bias in ends:
            for tried in (other_bias, stored_bias(x, weights, top, other, other_bias, self._store)):
                found = bias_error(x, weights, top, other, tried)
                take((scale, bias, error), (other, tried, found), found < error)
        return column(scale, self._dtype_of_parts), column(bias, self._dtype_of_parts)

    def grid(self, parameters: Any) -> Grid:
        return Grid(self.levels, self.group or 0, by_group(parameters[0]), bias=by_group(parameters[1]))

    def refit(self, parameters: Any, codes: Codes, gradient: Floats, gram: Floats) -> Parameters:
        scale, bias = by_group(parameters[0])[0], by_group(parameters[1])[0]
        found = refit_bias(codes.astype(np.float32), scale, bias, self._store, gradient, gram)
        return column(found[0], self._dtype_of_parts), column(found[1], self._dtype_of_parts)


def _from_zero(low: Floats, high: Floats, top: int, store: Store) -> tuple[Floats, Floats]:
    """Scales and biases that stand for the end of the larger size, and for 0, exactly: those of MLX's own quantizer."""
    scale = np.maximum((high - low) / np.float32(top), np.float32(1e-7))
    negative = np.abs(low) > np.abs(high)
    edge, scale = np.where(negative, low, high), np.where(negative, scale, -scale)
    first = np.rint(edge / scale)
    exact = np.divide(edge, first, out=scale.copy(), where=first != 0)
    return store(exact), store(np.where(first != 0, edge, np.float32(0)))


class RowScheme(GridScheme):
    """Signed codes -127..127 of 8 bits with one float32 scale for each output."""

    def __init__(self, name: str) -> None:
        self.name, self.bits, self.width, self.group = name, 8, None, None
        self.levels = Integers(-127, 127, np.int8)
        self.parts = (Part(np.float32),)

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        return 8 + 32 / shape[1]

    def fields(self, arrays: Sequence[Array], group: int) -> dict[str, Any]:
        return {"scales": BlockValues(arrays[0], (1, group))}

    def fit(self, w: Floats, importance: Floats | None = None) -> Parameters:
        x = np.ascontiguousarray(w.T)
        plain = np.abs(x).max(0) / np.float32(127)
        factors = (0.9, 0.93, 0.96, 0.98, 0.99, 1.0)
        scale = np.abs(scale_only(x, weights_for(x, importance), self.levels, np.copy, factors, plain, both=False))
        return (column(np.where(scale == 0, np.float32(1), scale), np.float32),)

    def grid(self, parameters: Any) -> Grid:
        return Grid(self.levels, 1 << 30, by_group(parameters[0]))
