"""Confidence intervals, paired differences and McNemar's test against published and worked-out values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.scoring.intervals import difference, mcnemar, mean_score, wilson


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilsons_interval(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 200).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_wilsons_interval_is_in_0_to_1_and_has_the_share(counts: tuple[int, int]) -> None:
    low, high = wilson(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1
    assert low < high


def test_scores_of_0_and_1_have_wilsons_interval() -> None:
    found = mean_score([1.0] * 81 + [0.0] * 182)
    assert found.method == "wilson"
    assert (found.mean, found.low, found.high) == pytest.approx((81 / 263, *wilson(81, 263)))


def test_graded_scores_have_a_bootstrap_interval_near_the_normal_one() -> None:
    scores = np.random.default_rng(1).uniform(0.2, 0.9, 400)
    found = mean_score(list(scores))
    error = 1.96 * scores.std() / 20
    assert found.method == "bootstrap"
    assert (found.low, found.high) == pytest.approx((scores.mean() - error, scores.mean() + error), abs=0.003)
    assert mean_score(list(scores)) == found


def test_a_difference_counts_what_changed() -> None:
    reference = [1.0] * 80 + [0.0] * 20
    candidate = [1.0] * 74 + [0.0] * 6 + [1.0] * 2 + [0.0] * 18
    found = difference(reference, candidate)
    assert (found.better, found.worse, found.equal, found.mean) == (2, 6, 92, pytest.approx(-0.04))
    assert (found.low, found.high) == pytest.approx((-0.095, 0.015), abs=0.011)
    assert found.mcnemar_p == pytest.approx(mcnemar(2, 6))


def test_a_graded_difference_is_paired() -> None:
    """The interval of pairs that all differ by about as much is narrow, however far apart the samples are."""
    rng = np.random.default_rng(2)
    reference = rng.uniform(0, 0.8, 200)
    candidate = reference + rng.uniform(0.05, 0.15, 200)
    found = difference(list(reference), list(candidate))
    assert found.mcnemar_p is None
    assert found.better == 200
    assert 0.09 < found.low < found.mean < found.high < 0.11


def test_equal_scores_have_no_difference() -> None:
    found = difference([1.0, 0.0] * 50, [1.0, 0.0] * 50)
    assert (found.mean, found.low, found.high, found.mcnemar_p) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (10, 0, 2 / 1024), (0, 10, 2 / 1024), (1, 0, 1.0), (8, 2, 0.109375)],
)
def test_mcnemars_exact_p(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p)


def test_mcnemars_p_of_many_samples() -> None:
    assert mcnemar(1000, 1000) == 1.0
    assert mcnemar(1100, 900) == pytest.approx(8.6e-6, rel=0.02)


def test_no_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="no scores"):
        mean_score([])
    with pytest.raises(ValueError, match="no pairs"):
        difference([1.0], [])
