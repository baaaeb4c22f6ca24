"""Codebooks of the small floating-point numbers that weights and scales are stored in, made from their definitions.

The bits of a number are its sign, then exponent, then mantissa. Definitions: the OCP Microscaling (MX) and 8-bit
floating point (OFP8) specifications.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from pocketvlm.tensors import Floats


@cache
def e2m1() -> Floats:
    """FP4: float32 [16], from 0 to 6 and their negatives."""
    return _fixed(_magnitudes(4, 2, 1))


@cache
def e2m3() -> Floats:
    """FP6: float32 [64], from 0 to 7.5 and their negatives."""
    return _fixed(_magnitudes(4, 8, 1))


@cache
def e4m3() -> Floats:
    """FP8 "fn": float32 [256], up to 448 in size; the last code of each sign is NaN, there is no infinity."""
    values = _magnitudes(16, 8, 7)
    values[-1] = np.nan
    return _fixed(values)


@cache
def e5m2() -> Floats:
    """FP8 with IEEE's special values: float32 [256], up to 57344 in size, then infinity and three NaNs."""
    values = _magnitudes(32, 4, 15)
    values[-4:] = np.inf, np.nan, np.nan, np.nan
    return _fixed(values)


@cache
def e8m0() -> Floats:
    """Scales of MX blocks: float32 [256], the powers of two from 2 ** -127; the last code is NaN. There is no sign."""
    values = np.ldexp(np.ones(256, np.float64), np.arange(256) - 127)
    values[-1] = np.nan
    values = values.astype(np.float32)
    values.setflags(write=False)
    return values


def _magnitudes(exponents: int, mantissas: int, bias: int) -> Floats:
    """The numbers without a sign, in the order of their codes; the lowest exponent has no leading one."""
    exponent, mantissa = np.divmod(np.arange(exponents * mantissas), mantissas)
    fraction = mantissa / mantissas + (exponent > 0)
    values: Floats = np.ldexp(fraction, np.maximum(exponent, 1) - bias).astype(np.float32)
    return values


def _fixed(magnitudes: Floats) -> Floats:
    """The codebook of positive and then negative numbers, read-only."""
    values = np.concatenate([magnitudes, -magnitudes])
    values.setflags(write=False)
    return values
