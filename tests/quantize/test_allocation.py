"""Allocation of bits against all possible choices."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.errors import OptionError
from pocketvlm.quantize.allocation import Choice, Unit, allocate


def random_units(seed: int, count: int = 5) -> list[Unit]:
    random = np.random.default_rng(seed)
    units = []
    for number in range(count):
        sensitivity, size = random.uniform(0.1, 10), int(random.integers(1, 5)) * 100
        bits = sorted(random.choice(np.arange(2, 9), 4, replace=False).tolist())
        choices = [Choice(f"int{b}", b * size, sensitivity * 4.0**-b * random.uniform(0.8, 1.2)) for b in bits]
        units.append(Unit((f"w{number}",), tuple(choices)))
    return units


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_the_choice_fits_and_is_near_the_best_of_all(seed: int, part: float) -> None:
    units = random_units(seed)
    low, high = (sum(edge(c.bits for c in unit.choices) for unit in units) for edge in (min, max))
    budget = low + part * (high - low)
    chosen = allocate(units, budget)
    assert sum(choice.bits for choice in chosen) <= budget * (1 + 1e-9)
    assert all(choice in unit.choices for unit, choice in zip(units, chosen, strict=True))
    every = product(*(unit.choices for unit in units))
    best = min(sum(c.loss for c in each) for each in every if sum(c.bits for c in each) <= budget)
    # The next step of the Lagrangian solution that does not fit is all that can be lost.
    largest_step = max(a.loss - b.loss for unit in units for a, b in zip(unit.choices, unit.choices[1:], strict=False))
    assert sum(choice.loss for choice in chosen) <= best + largest_step


def test_sensitive_matrices_get_more_bits() -> None:
    same = tuple(Choice(f"int{b}", b * 100.0, 4.0**-b) for b in (3, 4, 5, 6))
    sensitive = tuple(Choice(c.scheme, c.bits, 50 * c.loss) for c in same)
    chosen = allocate([Unit(("a",), same), Unit(("b",), sensitive)], 900)
    assert [choice.scheme for choice in chosen] == ["int3", "int6"]


def test_choices_that_cost_more_and_save_nothing_are_not_taken() -> None:
    unit = Unit(("a",), (Choice("x", 4, 1.0), Choice("y", 5, 1.5), Choice(None, 16, 0.0)))
    assert allocate([unit], 15)[0].scheme == "x"
    assert allocate([unit], 16)[0].scheme is None


def test_a_budget_that_nothing_fits_is_refused() -> None:
    with pytest.raises(OptionError, match="less than the smallest possible 4"):
        allocate([Unit(("a",), (Choice("x", 4, 1.0),))], 3)
