"""GGUF's K-quants: super-blocks of 256 inputs whose groups have integer scales, and minima, times float16 numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from pocketvlm.quantize.grid_scheme import GridScheme, Parameters, Part, by_group, column
from pocketvlm.quantize.grids import Grid, inverse
from pocketvlm.quantize.levels import Integers
from pocketvlm.quantize.refits import refit_scale, solve_two, two_gain
from pocketvlm.quantize.searches import (
    as_float16,
    divided,
    extreme,
    scale_and_bias,
    scale_only,
    take,
    total,
    weighted,
    weights_for,
)
from pocketvlm.quantize.tensor_scheme import Codes
from pocketvlm.tensors import Array, BlockValues, Floats

SUPER = 256
_SHRINKS = {4: (0.0, 0.025, 0.05, 0.08, 0.12, 0.17), 5: (0.0, 0.015, 0.03, 0.05, 0.08)}
_SIX_BITS = np.float32(63)
_ROUNDS = 3


def _grouped(x: Floats, group: int) -> Floats:
    """[256, rows] as [group, groups, rows]: groups after one another, their inputs on axis 0."""
    return np.ascontiguousarray(x.reshape(SUPER // group, group, -1).swapaxes(0, 1))


class MinimumBlock(GridScheme):
    """Q4_K and Q5_K: value = code * (d * scale) - (dmin * minimum) in groups of 32; scales and minima have 6 bits.

    Parameters: scales uint8 [rows, 8], d float16 [rows, 1], minima uint8 [rows, 8], -dmin float16 [rows, 1].
    """

    def __init__(self, name: str, bits: int) -> None:
        self.name, self.bits, self.width, self.group = name, bits, SUPER, 32
        self.levels = Integers(0, 2**bits - 1)
        self.parts = (Part(np.uint8, 8), Part(np.float16), Part(np.uint8, 8), Part(np.float16))

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        return self.bits + (2 * 8 * 6 + 32) / SUPER

    def fields(self, arrays: Sequence[Array], group: int) -> dict[str, Any]:
        scales, d, minima, dmin = arrays
        return {
            "scales": BlockValues(scales, (1, group), scale=BlockValues(d, (1, 8))),
            "biases": BlockValues(minima, (1, group), scale=BlockValues(dmin, (1, 8))),
        }

    def fit(self, w: Floats, importance: Floats | None = None) -> Parameters:
        x = _grouped(np.ascontiguousarray(w.T), 32)
        weights = weights_for(np.empty(0, np.float32), importance)
        weights = None if weights is None else _grouped(weights, 32)
        top = 2**self.bits - 1
        scale, bias = scale_and_bias(x, weights, top, _SHRINKS[self.bits], negative_bias=True)
        best: tuple[Floats, ...] | None = None
        for factor in (1.0, 0.97, 1.03):
            d = as_float16(scale.max(0) / _SIX_BITS * np.float32(factor))
            m = as_float16(-bias.min(0) / _SIX_BITS * np.float32(factor))
            scales = np.clip(np.rint(scale * inverse(d)), 0, _SIX_BITS)
            minima = np.clip(np.rint(-bias * inverse(m)), 0, _SIX_BITS)
            found = _super_block(x, weights, np.float32(top), (scales, d, minima, m), _ROUNDS, neighbours=False)
            if best is None:
                best = found
            else:
                take(best, found, found[-1] < best[-1])
        assert best is not None
        scales, d, minima, dmin, _ = best
        found = _super_block(x, weights, np.float32(top), (scales, d, minima, -dmin), 2, neighbours=True)
        take(best, found, found[-1] < best[-1])
        scales, d, minima, dmin, _ = best
        return column(scales, np.uint8), column(d, np.float16), column(minima, np.uint8), column(dmin, np.float16)

    def grid(self, parameters: Any) -> Grid:
        scales, d, minima, dmin = (by_group(parameter) for parameter in parameters)
        return Grid(self.levels, 32, scales * d, bias=minima * dmin)

    def refit(self, parameters: Any, codes: Codes, gradient: Floats, gram: Floats) -> Parameters:
        scales, d, minima, dmin = (by_group(parameter) for parameter in parameters)
        spread = np.repeat(np.arange(8), 32)
        a = codes.astype(np.float32) * scales[spread]
        b = np.ascontiguousarray(minima[spread])
        terms, da, _ = solve_two(a, b, gradient, gram)
        _, ab, bb, _, rb = terms
        best_d, best_dmin, best = d[0].copy(), dmin[0].copy(), np.zeros_like(d[0])
        for tried in (as_float16(d[0] + da), d[0]):
            found = as_float16(dmin[0] + divided(rb - (tried - d[0]) * ab, bb))
            gain = two_gain(terms, tried - d[0], found - dmin[0])
            take((best_d, best_dmin, best), (tried, found, gain), (gain > best) & (tried != 0))
        return parameters[0], column(best_d, np.float16), parameters[2], column(best_dmin, np.float16)


def _super_block(
    x: Floats, w: Floats | None, top: np.float32, start: tuple[Floats, ...], rounds: int, neighbours: bool
) -> tuple[Floats, ...]:
    """Scales [8, rows], d [rows], minima [8, rows], -dmin [rows] and the error [rows]: the best of some rounds.

    start: scales, d, minima, dmin. neighbours: try the integers next to each, with levels rounded anew.
    """
    wx = weighted(x, w)
    count: Any = np.float32(32) if w is None else total(np.broadcast_to(w, (32, 8, w.shape[2])))
    sum_x, sum_xx = total(wx), total(wx * x)
    scales, d, minima, m = start
    t = np.empty_like(x)

    def rounded(effective: Floats, shift: Floats) -> Floats:
        """The levels nearest to x for values level * effective - shift."""
        np.add(x, shift, out=t)
        np.multiply(t, inverse(effective), out=t)
        np.rint(t, out=t)
        return np.clip(t, 0, top, out=t)

    def group_errors(scales: Floats, minima: Floats) -> Floats:
        effective, shift = scales * d, minima * m
        q = rounded(effective, shift)
        q *= effective
        q -= shift
        q -= x
        return total(weighted(q, w) * q)

    best: tuple[Floats, ...] | None = None
    for _ in range(rounds):
        if neighbours:
            scales, minima = _neighbours(scales, minima, group_errors)
        effective, shift = scales * d, minima * m
        q = rounded(effective, shift)
        wq = weighted(q, w)
        sum_q, sum_qq, sum_qx = total(wq), total(wq * q), total(wx * q)
        error = _error(sum_xx, sum_qx, sum_x, sum_qq, sum_q, count, effective, shift).sum(0)
        found = (scales, d, minima, -m, error)
        if best is None:
            best = tuple(part.copy() for part in found)
        else:
            take(best, found, error < best[-1])
        # The integers of each group, then d and dmin of the super-block; the levels stay.
        scales, minima = _integers(scales, d, m, sum_qx, sum_x, sum_qq, sum_q, count, sum_xx)
        aa, bb = (scales * scales * sum_qq).sum(0), (minima * minima * count).sum(0)
        ab = -(scales * minima * sum_q).sum(0)
        ra, rb = (scales * sum_qx).sum(0), -(minima * sum_x).sum(0)
        determinant = aa * bb - ab * ab
        usable = determinant > np.float32(1e-6) * aa * bb
        safe = np.where(usable, determinant, np.float32(1))
        d = np.maximum(as_float16(np.where(usable, (ra * bb - rb * ab) / safe, divided(ra, aa))), 0)
        m = np.maximum(as_float16(np.where(bb > 0, (rb - d * ab) * inverse(bb), m)), 0)
    assert best is not None
    return best


def _neighbours(scales: Floats, minima: Floats, errors: Callable[[Floats, Floats], Floats]) -> tuple[Floats, Floats]:
    """The best integers [8, rows] among those next to some, with levels rounded anew."""
    lowest = errors(scales, minima)
    best, best_minima = scales.copy(), minima.copy()
    for step, shift in product((-1, 0, 1), (-1, 0, 1)):
        if step or shift:
            tried = np.clip(scales + np.float32(step), 0, _SIX_BITS)
            minimum = np.clip(minima + np.float32(shift), 0, _SIX_BITS)
            error = errors(tried, minimum)
            take((best, best_minima, lowest), (tried, minimum, error), error < lowest)
    return best, best_minima


def _error(
    sum_xx: Floats, sum_qx: Floats, sum_x: Floats, sum_qq: Floats, sum_q: Floats, count: Any, s: Floats, m: Floats
) -> Floats:
    """The error of each group for values s q - m."""
    error: Floats = sum_xx - 2 * (s * sum_qx - m * sum_x)
    error += s * s * sum_qq - 2 * s * m * sum_q + m * m * count
    return error


def _integers(
    scales: Floats,
    d: Floats,
    m: Floats,
    sum_qx: Floats,
    sum_x: Floats,
    sum_qq: Floats,
    sum_q: Floats,
    count: Any,
    sum_xx: Floats,
) -> tuple[Floats, Floats]:
    """The best integer scales and minima [8, rows] for fixed levels, d and dmin."""
    inverse_d, inverse_m = inverse(d), inverse(m)
    determinant = count * sum_qq - sum_q * sum_q
    exact = divided(count * sum_qx - sum_x * sum_q, determinant) * inverse_d
    best, best_minima, lowest = scales, np.zeros_like(scales), np.full_like(scales, np.inf)
    best = best.copy()
    for candidate in (np.floor(exact), np.ceil(exact), scales):
        tried = np.clip(candidate, 0, _SIX_BITS)
        minima = np.clip(np.rint((tried * d * sum_q - sum_x) / count * inverse_m), 0, _SIX_BITS)
        error = _error(sum_xx, sum_qx, sum_x, sum_qq, sum_q, count, tried * d, minima * m)
        take((best, best_minima, lowest), (tried, minima, error), error < lowest)
    return best, best_minima


class SixBitBlock(GridScheme):
    """Q6_K: value = (code - 32) * (d * scale) in groups of 16 with scales of 8 bits, signed.

    Parameters: scales int8 [rows, 16], d float16 [rows, 1].
    """

    def __init__(self) -> None:
        self.name, self.bits, self.width, self.group = "Q6_K", 6, SUPER, 16
        self.levels = Integers(-32, 31, np.int8)
        self.parts = (Part(np.int8, 16), Part(np.float16))

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        return 6 + (16 * 8 + 16) / SUPER

    def fields(self, arrays: Sequence[Array], group: int) -> dict[str, Any]:
        return {"scales": BlockValues(arrays[0], (1, group), scale=BlockValues(arrays[1], (1, 16)))}

    def fit(self, w: Floats, importance: Floats | None = None) -> Parameters:
        x = _grouped(np.ascontiguousarray(w.T), 16)
        weights = weights_for(np.empty(0, np.float32), importance)
        weights = None if weights is None else _grouped(weights, 16)
        plain = np.abs(x).max(0) / np.float32(31.5)
        factors = tuple(np.linspace(0.85, 1.03, 10))
        scale = scale_only(x, weights, self.levels, np.copy, factors, plain)
        best: tuple[Floats, ...] | None = None
        for factor in (1.0, 0.98, 1.02):
            found = _signed_super_block(x, weights, scale, np.float32(factor))
            if best is None:
                best = found
            else:
                take(best, found, found[-1] < best[-1])
        assert best is not None
        return column(best[0], np.int8), column(best[1], np.float16)

    def grid(self, parameters: Any) -> Grid:
        scales, d = (by_group(parameter) for parameter in parameters)
        return Grid(self.levels, 16, scales * d)

    def refit(self, parameters: Any, codes: Codes, gradient: Floats, gram: Floats) -> Parameters:
        scales, d = (by_group(parameter) for parameter in parameters)
        factors = codes.astype(np.float32) * scales[np.repeat(np.arange(16), 16)]
        return parameters[0], column(refit_scale(factors, d[0], as_float16, gradient, gram), np.float16)


def _signed_super_block(x: Floats, w: Floats | None, scale: Floats, factor: np.float32) -> tuple[Floats, ...]:
    """Scales [16, rows], d [rows] and the error [rows]; scale: [16, rows], optimal for each group alone."""
    low, high = np.float32(-128), np.float32(127)
    wx = weighted(x, w)
    largest = extreme(scale)
    d = as_float16(largest / low * factor)  # the largest scale, whatever its sign, becomes -128
    scales = np.clip(np.rint(scale * inverse(d)), low, high)
    t = np.empty_like(x)
    best: tuple[Floats, ...] | None = None
    for _ in range(_ROUNDS + 1):
        effective = scales * d
        np.multiply(x, inverse(effective), out=t)
        np.rint(t, out=t)
        q = np.clip(t, -32, 31, out=t)
        wq = weighted(q, w)
        sum_qq, sum_qx = total(wq * q), total(wx * q)
        residual = q * effective
        residual -= x
        error = total(weighted(residual, w) * residual).sum(0)
        found = (scales, d, error)
        if best is None:
            best = tuple(part.copy() for part in found)
        else:
            take(best, found, error < best[-1])
        scales = np.clip(np.rint(divided(sum_qx, sum_qq) * inverse(d)), low, high)
        d = as_float16(divided((scales * sum_qx).sum(0), (scales * scales * sum_qq).sum(0)))
    assert best is not None
    return best
