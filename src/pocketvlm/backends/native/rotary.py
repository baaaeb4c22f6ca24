"""Arrays of rotary positions that the native kernels take: frequencies, and the row of positions of each."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.batch import Ints
from pocketvlm.backends.ops import AttentionSpec

Floats = NDArray[np.float32]


@lru_cache(maxsize=8)
def frequencies_of(rotary_dim: int, theta: float) -> Floats:
    """1 / theta^(2i / rotary_dim), each step in float32 as the reference rounds it."""
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    frequencies: Floats = np.float32(1.0) / np.power(np.float32(theta), exponents)
    return frequencies


@lru_cache(maxsize=8)
def axes_of(spec: AttentionSpec, three_rows: bool) -> Ints:
    """The row of the rotary positions that each frequency takes."""
    return spec.rotary_axes() if three_rows else np.zeros(spec.rotary_dim // 2, np.int32)
