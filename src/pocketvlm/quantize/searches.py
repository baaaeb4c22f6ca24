"""Searches for scales, zero points and biases that minimise the weighted squared error of groups after rounding.

Groups lie on axis 0 and every other axis counts groups. For fixed levels the optimal parameters follow in closed form
(weighted least squares), and so does their error; a search tries many ranges, takes the best, and then rounds and
solves in turn, which never increases the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.quantize.grids import inverse
from pocketvlm.quantize.levels import Levels
from pocketvlm.tensors import Floats, float32_to_bfloat16

# Rounds numbers to the type that a format stores them in; the results are float32.
Store = Callable[[Floats], Floats]
_TINY = np.float32(1e-30)
_ROUNDS = 3


def as_float16(numbers: Floats) -> Floats:
    """The nearest finite float16 numbers."""
    return np.clip(numbers, -65504, 65504).astype(np.float16).astype(np.float32)


def as_bfloat16(numbers: Floats) -> Floats:
    """The nearest bfloat16 numbers."""
    return (float32_to_bfloat16(np.ascontiguousarray(numbers)).astype(np.uint32) << 16).view(np.float32)


def weights_for(x: Floats, importance: Floats | None) -> Floats | None:
    """Importance [n] or [rows, n] as weights that fit x [n, rows], around 1; inputs of importance 0 count little."""
    if importance is None:
        return None
    weights: Floats = np.atleast_2d(np.asarray(importance, np.float32))
    mean = weights.mean(1, keepdims=True)
    weights = np.where(mean > _TINY, weights / np.maximum(mean, _TINY), np.float32(1)) + np.float32(1e-4)
    return np.ascontiguousarray(weights.T, dtype=np.float32)


def total(values: Floats) -> Floats:
    """The sum over each group."""
    found: Floats = values.sum(0, dtype=np.float32)
    return found


def weighted(x: Floats, w: Floats | None) -> Floats:
    """Values times weights; the values themselves where all weights are equal."""
    return x if w is None else x * w


def divided(a: Floats, b: Floats) -> Floats:
    """a / b, and 0 where b is not positive."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > _TINY)


def take(target: Iterable[NDArray[Any]], source: Iterable[NDArray[Any]], better: NDArray[np.bool_]) -> None:
    """Replace numbers of groups for which other ones are better."""
    for old, new in zip(target, source, strict=True):
        np.copyto(old, new, where=better)


def extreme(x: Floats) -> Floats:
    """The number of the largest size in each group, with its sign."""
    low, high = x.min(0), x.max(0)
    found: Floats = np.where(-low > high, low, high)
    return found


def scale_only(
    x: Floats,
    w: Floats | None,
    levels: Levels,
    store: Store,
    factors: Iterable[float],
    plain: Floats,
    both: bool = True,
) -> Floats:
    """The stored scales [...] of groups x [n, ...] where value = level * scale.

    factors: of the scales that put the largest number on an end of the levels. plain: scales (not yet stored) that the
    result is never worse than. both: try the largest number on both ends, and so scales of both signs.
    """
    wx, end = weighted(x, w), extreme(x)
    best, top = np.zeros_like(end), np.zeros_like(end)
    t = np.empty_like(x)

    def solve(inverse_scale: Floats) -> tuple[Floats, Floats]:
        """The optimal scales for the levels that some scales choose, and by how much they reduce the error."""
        d = levels.nearest(np.multiply(x, inverse_scale, out=t))
        dot, size = total(wx * d), total(weighted(d, w) * d)
        scale = divided(dot, size)
        return scale, scale * dot

    steps = inverse(end)
    for last in levels.ends if both else levels.ends[1:]:
        for factor in factors:
            scale, gain = solve(steps * np.float32(last / factor))
            take((best, top), (scale, gain), gain > top)
    for _ in range(_ROUNDS):
        scale, gain = solve(inverse(best))
        take((best, top), (scale, gain), gain > top)

    def error(scale: Floats) -> Floats:
        d = levels.nearest(np.multiply(x, inverse(scale), out=t))
        d *= scale
        d -= x
        return total(weighted(d, w) * d)

    result, plain = store(best), store(plain)
    np.copyto(result, plain, where=error(plain) < error(result))
    return result


def shrunk_ranges(low: Floats, high: Floats, shrinks: tuple[float, ...]) -> Iterable[tuple[Floats, Floats]]:
    """Ranges with each end moved inwards by some parts of the whole."""
    width = high - low
    for a in shrinks:
        for b in shrinks:
            yield low + np.float32(a) * width, high - np.float32(b) * width


def scale_and_zero(
    x: Floats, w: Floats | None, top_level: int, store: Store, shrinks: tuple[float, ...]
) -> tuple[Floats, Floats]:
    """Stored scales and integer zero points of groups x where value = (level - zero) * scale, levels 0..top_level."""
    wx = weighted(x, w)
    low, high = np.minimum(x.min(0), 0), np.maximum(x.max(0), 0)
    best, best_zero, top = (np.zeros_like(low) for _ in range(3))
    limit = np.float32(top_level)
    t = np.empty_like(x)

    def factors(inverse_scale: Floats, zero: Floats) -> Floats:
        np.multiply(x, inverse_scale, out=t)
        np.add(t, zero, out=t)
        np.rint(t, out=t)
        np.clip(t, 0, limit, out=t)
        return np.subtract(t, zero, out=t)

    def attempt(inverse_scale: Floats, zero: Floats) -> None:
        d = factors(inverse_scale, zero)
        dot, size = total(wx * d), total(weighted(d, w) * d)
        scale = divided(dot, size)
        gain = scale * dot
        take((best, best_zero, top), (scale, zero, gain), gain > top)

    for first, last in shrunk_ranges(low, high, shrinks):
        steps = inverse(last - first) * limit
        attempt(steps, np.clip(np.rint(-first * steps), 0, limit))
    for _ in range(2):
        for shift in (-1, 1, 0):
            zero = np.clip(best_zero + np.float32(shift), 0, limit)
            attempt(inverse(best), zero)

    def error(scale: Floats, zero: Floats) -> Floats:
        d = factors(inverse(scale), zero)
        d *= scale
        d -= x
        return total(weighted(d, w) * d)

    plain = store((high - low) / limit)
    plain_zero = np.clip(np.rint(-low * inverse(plain)), 0, limit)
    scale = store(best)
    take((scale, best_zero), (plain, plain_zero), error(plain, plain_zero) < error(scale, best_zero))
    empty = scale == 0
    return np.where(empty, np.float32(1), scale), np.where(empty, np.float32(0), best_zero)


def scale_and_bias(
    x: Floats, w: Floats | None, top_level: int, shrinks: tuple[float, ...], negative_bias: bool = False
) -> tuple[Floats, Floats]:
    """Scales and biases of groups x where value = level * scale + bias, levels 0..top_level; not yet stored.

    negative_bias: biases are at most 0.
    """
    wx = weighted(x, w)
    count: Any = np.float32(len(x)) if w is None else total(np.broadcast_to(w, (len(w), *x.shape[1:])))
    low, high = x.min(0), x.max(0)
    if negative_bias:
        low = np.minimum(low, 0)
    sum_x = total(wx)
    mean = np.zeros_like(sum_x) if negative_bias else sum_x / count
    centred = sum_x - count * mean
    sum_xx = total(weighted(np.square(x - mean), w))
    best, lowest = np.zeros_like(low), sum_xx.copy()
    best_bias = np.minimum(sum_x / count, 0) if negative_bias else mean.copy()
    if negative_bias:
        lowest += best_bias * (count * best_bias - 2 * sum_x)
    limit, t = np.float32(top_level), np.empty_like(x)

    def attempt(inverse_scale: Floats, bias: Floats) -> None:
        np.subtract(x, bias, out=t)
        np.multiply(t, inverse_scale, out=t)
        np.rint(t, out=t)
        q = np.clip(t, 0, limit, out=t)
        wq = weighted(q, w)
        sum_q, sum_qq, sum_qx = total(wq), total(wq * q), total(wx * q)
        sum_qx -= mean * sum_q
        scale = divided(count * sum_qx - centred * sum_q, count * sum_qq - sum_q * sum_q)
        shift = (centred - scale * sum_q) / count
        if negative_bias:
            positive = shift > 0
            np.copyto(scale, divided(sum_qx, sum_qq), where=positive)
            np.copyto(shift, 0, where=positive)
        error = sum_xx - scale * sum_qx - shift * centred
        if negative_bias:  # the scale may be optimal for the bias 0 alone
            error = sum_xx - 2 * (scale * sum_qx + shift * centred)
            error += scale * (scale * sum_qq + 2 * shift * sum_q) + shift * shift * count
        better = (error < lowest) & (scale > 0)
        take((best, best_bias, lowest), (scale, shift + mean, error), better)

    for first, last in shrunk_ranges(low, high, shrinks):
        attempt(inverse(last - first) * limit, first)
    for _ in range(_ROUNDS):
        attempt(inverse(best), best_bias)
    return best, best_bias


def bias_error(x: Floats, w: Floats | None, top_level: int, scale: Floats, bias: Floats) -> Floats:
    """The error of groups x with scales and biases as they are stored."""
    q = x - bias
    q *= inverse(scale)
    np.rint(q, out=q)
    np.clip(q, 0, np.float32(top_level), out=q)
    q *= scale
    q += bias
    q -= x
    return total(weighted(q, w) * q)


def stored_bias(x: Floats, w: Floats | None, top_level: int, scale: Floats, bias: Floats, store: Store) -> Floats:
    """The stored biases that are optimal for stored scales, with the levels that the biases given choose."""
    q = x - bias
    q *= inverse(scale)
    np.rint(q, out=q)
    np.clip(q, 0, np.float32(top_level), out=q)
    q *= scale
    np.subtract(x, q, out=q)
    if w is None:
        return store(q.mean(0, dtype=np.float32))
    return store(total(q * w) / total(np.broadcast_to(w, (len(w), *x.shape[1:]))))
