"""The values that the codes of one span of inputs can have: levels, scales and zero points or biases of its groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pocketvlm.quantize.levels import Codes, Levels
from pocketvlm.tensors import Floats


def inverse(numbers: Floats) -> Floats:
    """1 / numbers, and 0 where they are 0."""
    return np.divide(np.float32(1), numbers, out=np.zeros_like(numbers), where=numbers != 0)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """value = (level - zero) * scale + bias, in float32 and in this order; inputs lie on axis 0 of every array.

    scale, zero, bias: float32 [groups, rows]; group: inputs that share them. Zero and bias exclude each other.
    """

    levels: Levels
    group: int
    scale: Floats
    zero: Floats | None = None
    bias: Floats | None = None
    inverse: Floats = field(init=False)

    def __post_init__(self) -> None:
        """Invert the scales once."""
        object.__setattr__(self, "inverse", inverse(self.scale))

    def steps(self, w: Floats, g: int) -> Floats:
        """w [n, rows] of group g in steps of the scale: numbers to round to levels. A new array."""
        if self.bias is not None:
            t: Floats = w - self.bias[g]
            t *= self.inverse[g]
        else:
            t = w * self.inverse[g]
        if self.zero is not None:
            t += self.zero[g]
        return t

    def factors(self, levels: Floats, g: int) -> Floats:
        """What the scale multiplies: levels less the zero point; overwrites them."""
        if self.zero is not None:
            levels -= self.zero[g]
        return levels

    def values(self, levels: Floats, g: int) -> Floats:
        """The values of levels [n, rows] of group g; overwrites the levels."""
        levels = self.factors(levels, g)
        levels *= self.scale[g]
        if self.bias is not None:
            levels += self.bias[g]
        return levels

    def round(self, w: Floats, g: int) -> tuple[Codes, Floats]:
        """The nearest codes of w [n, rows] of group g, and their values."""
        codes = self.levels.encode(self.steps(w, g))
        return codes, self.values(self.levels.decode(codes), g)

    def encode(self, w: Floats) -> Codes:
        """The nearest codes of w [n, rows], the first inputs of the span."""
        parts = [self.levels.encode(self.steps(w[part], g)) for g, part in self._groups(len(w))]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def decode(self, codes: Codes) -> Floats:
        """The values of codes [n, rows]."""
        values = self.levels.decode(codes)
        for g, part in self._groups(len(codes)):
            self.values(values[part], g)
        return values

    def _groups(self, count: int) -> Iterator[tuple[int, slice]]:
        """Each group among the first `count` inputs, and which of them are its own."""
        for g, start in enumerate(range(0, count, self.group)):
            yield g, slice(start, min(start + self.group, count))
