"""Paired statistics of the benchmark of quantized nanos: intervals, means over tasks."""

from __future__ import annotations

import numpy as np
import pytest
from quantizing.paired import difference, summary

RNG = np.random.default_rng(0)


def test_a_difference_counts_questions_that_changed() -> None:
    reference = [True] * 80 + [False] * 20
    candidate = [True] * 74 + [False] * 6 + [True] * 2 + [False] * 18
    found = difference(reference, candidate, RNG)
    assert (found["gained"], found["lost"], found["right"], found["points"]) == (2, 6, 76, -4.0)
    low, high = found["interval"]
    # sqrt((8 - 16 / 100)) questions of standard deviation: 2.8 points
    assert low == pytest.approx(-9.5, abs=1.1)
    assert high == pytest.approx(1.5, abs=1.1)


def test_equal_answers_have_no_difference() -> None:
    found = difference([True, False] * 50, [True, False] * 50, RNG)
    assert (found["points"], found["interval"], found["mcnemar_p"]) == (0.0, [0.0, 0.0], 1.0)


def test_the_mean_over_tasks_has_a_narrower_interval() -> None:
    reference = {name: [True] * 90 + [False] * 10 for name in "abcd"}
    candidate = {name: [False] * 5 + [True] * 90 + [False] * 5 for name in "abcd"}
    found = summary(reference, candidate)
    assert found["mean"]["points"] == 0
    assert found["mean"]["right"] == 90
    mean, task = (row["interval"][1] - row["interval"][0] for row in (found["mean"], found["tasks"]["a"]))
    assert mean == pytest.approx(task / 2, rel=0.1)
