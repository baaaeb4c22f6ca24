"""Paired differences of right answers: 95 % intervals by bootstrap, and McNemar's exact test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_RESAMPLES = 20_000


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value that gains and losses are equally likely; 1 where there are none."""
    total, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(total, k) for k in range(fewer + 1)) / 2**total
    return min(1.0, 2 * tail)


def difference(reference: Sequence[bool], candidate: Sequence[bool], rng: np.random.Generator) -> dict[str, Any]:
    """Points (of 100) by which a candidate is better on the same questions, with the interval of a paired bootstrap."""
    pairs = np.asarray(candidate, np.int8) - np.asarray(reference, np.int8)
    gained, lost = int((pairs > 0).sum()), int((pairs < 0).sum())
    low, high = np.percentile(resampled(gained, lost, len(pairs), rng), [2.5, 97.5])
    return {
        "questions": len(pairs),
        "right": int(np.sum(candidate)),
        "gained": gained,
        "lost": lost,
        "points": 100 * (gained - lost) / len(pairs),
        "interval": [float(low), float(high)],
        "mcnemar_p": mcnemar(gained, lost),
    }


def resampled(gained: int, lost: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points of resampled questions: drawing questions with replacement is a multinomial of gains, losses and ties."""
    shares = [gained / count, lost / count, 1 - (gained + lost) / count]
    sampled = rng.multinomial(count, shares, _RESAMPLES)
    points: np.ndarray = 100 * (sampled[:, 0] - sampled[:, 1]) / count
    return points


def summary(
    reference: Mapping[str, Sequence[bool]], candidate: Mapping[str, Sequence[bool]], seed: int = 0
) -> dict[str, Any]:
    """Differences of each task and of the mean over tasks, whose questions are resampled within each task."""
    rng = np.random.default_rng(seed)
    rows = {name: difference(answers, candidate[name], rng) for name, answers in reference.items()}
    draws = [resampled(row["gained"], row["lost"], row["questions"], rng) for row in rows.values()]
    low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    gained, lost = (sum(row[key] for row in rows.values()) for key in ("gained", "lost"))
    mean = {
        "right": float(np.mean([100 * row["right"] / row["questions"] for row in rows.values()])),
        "points": float(np.mean([row["points"] for row in rows.values()])),
        "interval": [float(low), float(high)],
        "mcnemar_p": mcnemar(gained, lost),
    }
    return {"mean": mean, "tasks": rows}
