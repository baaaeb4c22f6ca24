"""Ranges of JSON numbers are intersected and written as the grammar library accepts them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pocketvlm.errors import OptionError
from pocketvlm.guided.validity import fraction

# The largest float64 below 2 ** 63, because the library stores limits as float64 and counts digits in 64 bits.
LARGEST = 2**63 - 1024


@dataclass(frozen=True, slots=True)
class Range:
    """Limits of a number; None where there is none. An exclusive limit does not itself belong to the range."""

    low: Fraction | None = None
    high: Fraction | None = None
    above: bool = False
    below: bool = False
    integer: bool = False
    multiples: tuple[Fraction, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether no number is in the range."""
        step = self.step
        if self.low is None or self.high is None:
            return False
        if step is None:
            return self.low > self.high or (self.low == self.high and (self.above or self.below))
        first = math.floor(self.low / step) + 1 if self.above else math.ceil(self.low / step)
        last = math.ceil(self.high / step) - 1 if self.below else math.floor(self.high / step)
        return first > last

    @property
    def shown(self) -> str:
        """An empty range for an error."""
        low, high = (f"{float(limit or 0):g}" for limit in (self.low, self.high))
        return f"no number lies between {low} and {high} as the keywords want"

    @property
    def step(self) -> Fraction | None:
        """The number of which all in the range are multiples."""
        found: Fraction | None = Fraction(1) if self.integer else None
        for one in self.multiples:
            found = one if found is None else _common(found, one)
        return found

    def excludes(self, other: Range) -> bool:
        """Whether no number lies in both ranges, by their limits alone."""
        return _apart(self, other) or _apart(other, self)

    def schema(self) -> dict[str, Any]:
        """The range as keywords for the library, with its limits rounded inwards if need be. Raises OptionError."""
        found: dict[str, Any] = {"type": "integer" if self.integer else "number"}
        low, high, above, below = self.low, self.high, self.above, self.below
        # The library wrongly allows an exclusive whole limit if no other whole number is in the range.
        if not self.integer and low is not None and high is not None and math.ceil(high) - math.floor(low) <= 1:
            if above and low.denominator == 1:
                low, above = _next(low, True), False
            if below and high.denominator == 1:
                high, below = _next(high, False), False
            if low > high:
                raise OptionError(f"{self.shown}, or only numbers with too many digits")
        if low is not None:
            found["exclusiveMinimum" if above else "minimum"] = _limit(low, "minimum", True)
        if high is not None:
            found["exclusiveMaximum" if below else "maximum"] = _limit(high, "maximum", False)
        steps = [_written(one) for one in self.multiples]
        if steps:
            found["multipleOf"] = steps[0]
        if len(steps) > 1:
            found["allOf"] = [{"multipleOf": one} for one in steps[1:]]
        return found


UNLIMITED = Range()


def merged(parts: Sequence[Mapping[str, Any]]) -> Range:
    """The numbers that all of some keywords allow."""
    lower = [(fraction(part["minimum"]), False) for part in parts if "minimum" in part]
    lower += [(fraction(part["exclusiveMinimum"]), True) for part in parts if "exclusiveMinimum" in part]
    upper = [(fraction(part["maximum"]), False) for part in parts if "maximum" in part]
    upper += [(fraction(part["exclusiveMaximum"]), True) for part in parts if "exclusiveMaximum" in part]
    low, above = max(lower, default=(None, False))
    high, below = min(upper, key=lambda limit: (limit[0], not limit[1]), default=(None, False))
    integer = any("type" in part and "integer" in part["type"] and "number" not in part["type"] for part in parts)
    multiples = dict.fromkeys(fraction(part["multipleOf"]) for part in parts if "multipleOf" in part)
    return Range(low, high, above, below, integer, tuple(multiples))


def writable(value: Any) -> None:
    """Raise OptionError for a value with a number that the library would write as another one."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            writable(one)
    elif isinstance(value, int | float) and (abs(value) > LARGEST or float(value) != value):
        raise OptionError(f"the number {value} cannot be written exactly: use one up to {LARGEST} with 15 digits")


def _common(one: Fraction, two: Fraction) -> Fraction:
    """The least number that is a multiple of both."""
    numerator = math.lcm(one.numerator * two.denominator, two.numerator * one.denominator)
    return Fraction(numerator, one.denominator * two.denominator)


def _apart(left: Range, right: Range) -> bool:
    if left.high is None or right.low is None:
        return False
    return left.high < right.low or (left.high == right.low and (left.below or right.above))


def _next(limit: Fraction, up: bool) -> Fraction:
    """The number next to a limit with 12 decimal places or as many digits; the library rounds longer numbers."""
    step = max(Fraction(1), abs(limit)) / 10**12
    return limit + step if up else limit - step


def _limit(limit: Fraction, keyword: str, up: bool) -> float:
    """A limit rounded into the range, to a value that the library can store."""
    outside = limit < -LARGEST if up else limit > LARGEST
    if outside:
        limit = Fraction(-LARGEST if up else LARGEST)
    elif abs(limit) > LARGEST:
        raise OptionError(f'keyword "{keyword}": numbers beyond {LARGEST} cannot be enforced')
    found = float(limit)
    if up and Fraction(found) < limit and fraction(found) != limit:
        found = math.nextafter(found, math.inf)
    elif not up and Fraction(found) > limit and fraction(found) != limit:
        found = math.nextafter(found, -math.inf)
    return int(found) if found.is_integer() else found


def _written(step: Fraction) -> float:
    return step.numerator if step.denominator == 1 else float(step)
