"""95 % confidence intervals of mean scores and of paired differences, and McNemar's exact test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

_Z = 1.959963984540054  # of the normal distribution: 95 % lie within as many standard deviations
RESAMPLES = 10_000
_AT_ONCE = 4_000_000  # numbers that are drawn in one go


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval. method: how the interval was made, "wilson" or "bootstrap"."""

    mean: float
    low: float
    high: float
    method: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of candidate minus reference over the same samples, with the 95 % interval of a paired bootstrap.

    better, worse, equal: samples by the sign of their difference. mcnemar_p: two-sided exact p-value that better and
    worse are equally likely, None where scores are other than 0 and 1.
    """

    mean: float
    low: float
    high: float
    better: int
    worse: int
    equal: int
    mcnemar_p: float | None
    method: str = "paired bootstrap"


def mean_score(scores: Sequence[float]) -> Estimate:
    """The mean of scores from 0 to 1. Where all are 0 or 1, Wilson's interval (Wilson 1927); else a bootstrap's.

    The bootstrap's is the percentile interval of RESAMPLES means (Efron 1979), from a fixed seed. Raises ValueError
    where there are no scores.
    """
    if not scores:
        raise ValueError("no scores")
    values = np.asarray(scores, np.float64)
    mean = float(values.mean())
    if ((values == 0) | (values == 1)).all():
        return Estimate(mean, *wilson(int(values.sum()), len(values)), "wilson")
    low, high = np.percentile(_resampled_means(values, np.random.default_rng(0)), [2.5, 97.5])
    return Estimate(mean, float(low), float(high), "bootstrap")


def wilson(right: int, count: int) -> tuple[float, float]:
    """Both ends of the score interval of a share, `right` of `count` (Wilson 1927; Brown, Cai, DasGupta 2001)."""
    share, square = right / count, _Z * _Z
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return (0.0 if right == 0 else centre - half), (1.0 if right == count else centre + half)


def difference(reference: Sequence[float], candidate: Sequence[float]) -> Difference:
    """By how much a candidate's scores of the same samples are higher. Raises ValueError for no scores."""
    if not reference or len(reference) != len(candidate):
        raise ValueError(f"{len(reference)} and {len(candidate)} scores are no pairs")
    first, second = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    pairs = second - first
    better, worse = int((pairs > 0).sum()), int((pairs < 0).sum())
    rng = np.random.default_rng(0)
    right_or_wrong = bool(np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all())
    means = resampled(better, worse, len(pairs), rng) if right_or_wrong else _resampled_means(pairs, rng)
    low, high = np.percentile(means, [2.5, 97.5])
    p = mcnemar(better, worse) if right_or_wrong else None
    equal = len(pairs) - better - worse
    return Difference(float(pairs.mean()), float(low), float(high), better, worse, equal, p)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value that gains and losses are equally likely; 1 where there are none (McNemar 1947)."""
    total = gained + lost
    ways = tail = 1  # to choose k of all, and the sum of these up to k
    for k in range(min(gained, lost)):
        ways = ways * (total - k) // (k + 1)
        tail += ways
    share: float = 2 * tail / 2**total
    return min(1.0, share)


def resampled(gained: int, lost: int, count: int, rng: np.random.Generator, times: int = RESAMPLES) -> Numbers:
    """Mean differences of resampled samples that were gained, lost or equal, float64 [times].

    Drawing samples with replacement is a multinomial of gains, losses and ties.
    """
    shares = [gained / count, lost / count, 1 - (gained + lost) / count]
    sampled: NDArray[Any] = rng.multinomial(count, shares, times)
    means: Numbers = (sampled[:, 0] - sampled[:, 1]) / count
    return means


def _resampled_means(values: Numbers, rng: np.random.Generator) -> Numbers:
    """Means of values drawn with replacement, float64 [RESAMPLES]."""
    count = len(values)
    step = max(1, _AT_ONCE // count)
    parts = [
        values[rng.integers(0, count, (min(step, RESAMPLES - start), count))].mean(axis=1)
        for start in range(0, RESAMPLES, step)
    ]
    return np.concatenate(parts)
