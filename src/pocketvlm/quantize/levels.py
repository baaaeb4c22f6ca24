"""The numbers that codes stand for before they are scaled: integers in equal steps, or the entries of a codebook."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.tensors import Floats

Codes = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Integers:
    """Levels low..high, which are their own codes."""

    low: int
    high: int
    dtype: type[np.generic] = np.uint8

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest level."""
        return float(self.low), float(self.high)

    def nearest(self, t: Floats) -> Floats:
        """The level nearest to each number; overwrites t and returns it."""
        np.rint(t, out=t)
        return np.clip(t, self.low, self.high, out=t)

    def encode(self, t: Floats) -> Codes:
        """The code of the level nearest to each number; overwrites t."""
        return self.nearest(t).astype(self.dtype)

    def decode(self, codes: Codes) -> Floats:
        """The level of each code."""
        return codes.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """Levels that are the entries of a codebook float32 [codes]; entries that are no numbers are never chosen.

    table: the code nearest to the numbers with each upper half of float32 bits. That decides exactly, because the
    middles of neighbours among these entries have at most 8 significant bits; on a middle the larger size wins.
    """

    entries: Floats
    table: NDArray[np.uint8]
    ordered: Floats

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest level."""
        return float(self.ordered[0]), float(self.ordered[-1])

    def nearest(self, t: Floats) -> Floats:
        """The level nearest to each number; overwrites t and returns it."""
        return np.take(self.entries, self.encode(t), out=t, mode="clip")

    def encode(self, t: Floats) -> Codes:
        """The code of the level nearest to each number."""
        return np.take(self.table, t.view(np.uint32) >> np.uint32(16), mode="clip")

    def decode(self, codes: Codes) -> Floats:
        """The level of each code."""
        return np.take(self.entries, codes)


Levels = Integers | Codebook


def codebook(entries: Floats) -> Codebook:
    """The levels of a codebook. Raises ValueError if a middle of neighbours needs more than 8 significant bits."""
    return _codebook(np.ascontiguousarray(entries, np.float32).tobytes())


@lru_cache(maxsize=16)
def _codebook(data: bytes) -> Codebook:
    entries = np.frombuffer(data, np.float32)
    usable = np.flatnonzero(np.isfinite(entries) & ~((entries == 0) & np.signbit(entries)))
    ordered, first = np.unique(entries[usable], return_index=True)
    middles = (ordered[1:] + ordered[:-1]) / np.float32(2)
    if (middles.view(np.uint32) & np.uint32(0xFFFF)).any():
        raise ValueError("the middles of neighbouring entries need more than 8 significant bits")
    # A number inside each interval of equal upper halves; infinity and NaN count as large numbers of their sign.
    bits = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16) | np.uint32(0x8000)
    special = bits & np.uint32(0x7F800000) == 0x7F800000
    bits[special] = bits[special] & np.uint32(0x80000000) | np.uint32(0x7F7F0000)
    table = usable[first][np.searchsorted(middles, bits.view(np.float32))].astype(np.uint8)
    return Codebook(entries, table, ordered)
