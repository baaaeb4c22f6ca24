"""How the writers of GPTQ files store zero points: as they are, or less one, which each subtracts in its own way.

GPTQModel subtracts constants from whole words, so that a zero point 0 borrows from its neighbour. Before 7.3.2 it took
the constants of the settings' bits for every matrix, and before 7.0 it exchanged those of the first and the third word
of 3-bit zero points. Adding the same constants restores the zero points in each case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.bitstream import unpack
from pocketvlm.checkpoint.formats.format import Settings

Words = NDArray[np.uint32]
Codes = NDArray[np.uint8]

_CODES_LESS_ONE, _OWN_BITS = (7, 0, 0), (7, 3, 2)  # versions of GPTQModel that changed the subtraction
_EXCHANGED = (0x24924924, 0x92492492, 0x49249249)


@dataclass(frozen=True, slots=True)
class Zeros:
    """Zero points in words as they are. offset: what is added to each, where the format says that it is never 0."""

    offset: float = 0.0

    def problem(self, bits: int) -> str | None:
        """Why zero points of this many bits cannot be read; None if they can."""
        return None

    def values(self, words: Words, bits: int, count: int) -> Codes:
        """The zero points [groups, count] in words [groups, n]."""
        return unpack(words, bits, count)


@dataclass(frozen=True, slots=True)
class LessOneZeros(Zeros):
    """Zero points less one, modulo the number of codes."""

    def values(self, words: Words, bits: int, count: int) -> Codes:
        return unpack(words, bits, count) + np.uint8(1) & np.uint8(2**bits - 1)


@dataclass(frozen=True, slots=True)
class GPTQModelZeros(LessOneZeros):
    """Zero points of GPTQModel. bits: of the settings. version: None if the settings do not say it."""

    bits: int = 4
    version: tuple[int, int, int] | None = None

    def problem(self, bits: int) -> str | None:
        if self.version is None and (bits == 3 or bits != self.bits):
            return "how its zero points are stored depends on the version of GPTQModel, which meta.quantizer lacks"
        if self.version is not None and _CODES_LESS_ONE <= self.version < _OWN_BITS and self.bits == 3 != bits:
            return "GPTQModel 7.0 to 7.3.1 stored wrong zero points for matrices of other bits than the settings' 3"
        return None

    def values(self, words: Words, bits: int, count: int) -> Codes:
        own = self.version is None or self.version >= _OWN_BITS
        subtracted = bits if own else self.bits
        if subtracted != 3:
            constants: tuple[int, ...] = (sum(1 << shift for shift in range(0, 32, subtracted)),)
        elif self.version is None or self.version >= _CODES_LESS_ONE:
            return LessOneZeros.values(self, words, bits, count)
        else:
            constants = _EXCHANGED
        return unpack(words + np.resize(np.array(constants, np.uint32), words.shape[1]), bits, count)


def version_1_zeros(settings: Settings, bits: int) -> Zeros:
    """How the tool that the settings name under `meta` stores zero points of version 1. bits: of the settings."""
    meta: Any = settings.get("meta")
    tools: Any = meta.get("quantizer") if isinstance(meta, dict) else None
    for tool in tools if isinstance(tools, list) else [tools]:
        if isinstance(tool, str) and tool.lower().startswith("gptqmodel"):
            numbers = re.match(r"gptqmodel:(\d+)\.(\d+)(?:\.(\d+))?", tool.lower())
            if numbers is None:
                return GPTQModelZeros(bits=bits)
            major, minor, patch = (int(number or 0) for number in numbers.groups())
            return GPTQModelZeros(bits=bits, version=(major, minor, patch))
    return LessOneZeros()
