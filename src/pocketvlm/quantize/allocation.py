"""Chooses a quantization scheme for each matrix within a budget of bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from pocketvlm.errors import OptionError


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to store the matrices of a unit. scheme: None leaves them dense. bits: of all of them. loss: expected."""

    scheme: str | None
    bits: float
    loss: float


@dataclass(frozen=True, slots=True)
class Unit:
    """Matrices that have one scheme, and the choices that there are."""

    names: tuple[str, ...]
    choices: tuple[Choice, ...]


def allocate(units: Sequence[Unit], budget: float) -> list[Choice]:
    """The choice for each unit with a small sum of losses and at most `budget` bits in all.

    Each unit begins with its smallest choice. Then the step between neighbours on the convex hull of a unit's choices
    that saves most loss for each bit is taken, as long as it fits: up to the last step this is the exact solution of
    the Lagrangian. Raises OptionError where even the smallest choices need more bits.
    """
    hulls = [_hull(unit.choices) for unit in units]
    chosen = [0] * len(units)
    spent = sum(hull[0].bits for hull in hulls)
    if spent > budget * (1 + 1e-9):
        raise OptionError(
            f"the budget of {budget:.0f} bits is less than the smallest possible {ceil(spent)}: give more bits "
            f"a weight, or keep fewer tensors as they are"
        )
    steps = sorted(
        (
            (hull[level].loss - hull[level + 1].loss) / (hull[level + 1].bits - hull[level].bits),
            -index,
            -level,
        )
        for index, hull in enumerate(hulls)
        for level in range(len(hull) - 1)
    )
    for _, index, level in reversed(steps):
        index, level = -index, -level  # noqa: PLW2901
        hull = hulls[index]
        more = hull[level + 1].bits - hull[level].bits
        if chosen[index] == level and spent + more <= budget * (1 + 1e-9):
            chosen[index], spent = level + 1, spent + more
    return [hull[level] for hull, level in zip(hulls, chosen, strict=True)]


def _hull(choices: Sequence[Choice]) -> list[Choice]:
    """The choices on the lower convex hull of loss over bits, fewest bits first."""
    found: list[Choice] = []
    for choice in sorted(choices, key=lambda each: (each.bits, each.loss)):
        if found and (choice.loss >= found[-1].loss or choice.bits <= found[-1].bits):
            continue
        while len(found) > 1 and _slope(found[-1], choice) <= _slope(found[-2], found[-1]):
            found.pop()
        found.append(choice)
    return found


def _slope(a: Choice, b: Choice) -> float:
    return (b.loss - a.loss) / (b.bits - a.bits)
