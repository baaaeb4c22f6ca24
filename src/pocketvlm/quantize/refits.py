"""Refits of scales, zero points and biases to the inputs: least squares under the Gram matrix with the codes fixed.

For one span, the error as a function of a change of its values by v is -2 v^T r + v^T G v plus a constant, where G is
the Gram matrix of the span's inputs and r the span's rows of the gradient G E of all inputs. A change that increases
the error, after its numbers are rounded to their stored type, is not made.
"""

from __future__ import annotations

import numpy as np

from pocketvlm.quantize.searches import Store, divided, take, total
from pocketvlm.quantize.tensor_scheme import Codes
from pocketvlm.tensors import Floats

_MARGIN = np.float32(1e-6)  # of the terms: a smaller gain may be rounding


def refit_scale(factors: Floats, scale: Floats, store: Store, gradient: Floats, gram: Floats) -> Floats:
    """Stored scales [rows] for what they multiply [n, rows]."""
    dot, size = total(factors * gradient), total(factors * (gram @ factors))
    found = store(scale + divided(dot, size))
    change = found - scale
    better = (change * (change * size - 2 * dot) < -_MARGIN * np.abs(change * dot)) & (found != 0)
    result = scale.copy()
    take((result,), (found,), better)
    return result


def solve_two(
    a: Floats, b: Floats, gradient: Floats, gram: Floats
) -> tuple[tuple[Floats, Floats, Floats, Floats, Floats], Floats, Floats]:
    """The changes of two numbers [rows] that multiply a and b [n, rows], and the terms of the error for `two_gain`."""
    ga = gram @ a
    gb = gram @ b
    aa, ab, bb = total(a * ga), total(a * gb), total(b * gb)
    ra, rb = total(a * gradient), total(b * gradient)
    determinant = aa * bb - ab * ab
    usable = determinant > np.float32(1e-5) * aa * bb
    safe = np.where(usable, determinant, np.float32(1))
    da = np.where(usable, (ra * bb - rb * ab) / safe, divided(ra, aa))
    db = np.where(usable, (rb * aa - ra * ab) / safe, np.float32(0))
    return (aa, ab, bb, ra, rb), da, db


def two_gain(terms: tuple[Floats, Floats, Floats, Floats, Floats], da: Floats, db: Floats) -> Floats:
    """By how much the error falls, less what rounding may feign."""
    aa, ab, bb, ra, rb = terms
    linear = 2 * (da * ra + db * rb)
    gain: Floats = linear - da * (da * aa + 2 * db * ab) - db * db * bb - _MARGIN * np.abs(linear)
    return gain


def refit_bias(
    levels: Floats, scale: Floats, bias: Floats, store: Store, gradient: Floats, gram: Floats
) -> tuple[Floats, Floats]:
    """Stored scales and biases [rows] for levels [n, rows]."""
    terms, da, _ = solve_two(levels, np.ones_like(levels), gradient, gram)
    _aa, ab, bb, _ra, rb = terms
    best_scale, best_bias, best = scale.copy(), bias.copy(), np.zeros_like(scale)
    for tried in (store(scale + da), scale):
        found = store(bias + divided(rb - (tried - scale) * ab, bb))
        gain = two_gain(terms, tried - scale, found - bias)
        take((best_scale, best_bias, best), (tried, found, gain), (gain > best) & (tried != 0))
    return best_scale, best_bias


def refit_zero(
    codes: Codes, scale: Floats, zero: Floats, top_level: int, store: Store, gradient: Floats, gram: Floats
) -> tuple[Floats, Floats]:
    """Stored scales and integer zero points [rows] for codes [n, rows]."""
    factors = codes.astype(np.float32) - zero
    ones = np.ones_like(factors)
    terms, _, _ = solve_two(factors, ones, gradient, gram)
    aa, ab, bb, ra, rb = terms
    best_scale, best_zero, best = scale.copy(), zero.copy(), np.zeros_like(scale)
    for shift in (0, 1, -1):
        tried = np.clip(zero + np.float32(shift), 0, np.float32(top_level))
        move = tried - zero
        # Values (level - zero - move) * scale: both numbers change what the scale multiplies.
        size = aa - 2 * move * ab + move * move * bb
        dot = ra - move * rb + scale * move * (ab - move * bb)
        found = store(scale + divided(dot, size))
        gain = two_gain(terms, found - scale, -move * found)
        take((best_scale, best_zero, best), (found, tried, gain), (gain > best) & (found != 0))
    return best_scale, best_zero
