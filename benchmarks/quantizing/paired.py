"""Paired differences of right answers: 95 % intervals by bootstrap, and McNemar's exact test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pocketvlm.scoring.intervals import mcnemar, resampled

_RESAMPLES = 20_000


def difference(reference: Sequence[bool], candidate: Sequence[bool], rng: np.random.Generator) -> dict[str, Any]:
    """Points (of 100) by which a candidate is better on the same questions, with the interval of a paired bootstrap."""
    pairs = np.asarray(candidate, np.int8) - np.asarray(reference, np.int8)
    gained, lost = int((pairs > 0).sum()), int((pairs < 0).sum())
    low, high = np.percentile(100 * resampled(gained, lost, len(pairs), rng, _RESAMPLES), [2.5, 97.5])
    return {
        "questions": len(pairs),
        "right": int(np.sum(candidate)),
        "gained": gained,
        "lost": lost,
        "points": 100 * (gained - lost) / len(pairs),
        "interval": [float(low), float(high)],
        "mcnemar_p": mcnemar(gained, lost),
    }


def summary(
    reference: Mapping[str, Sequence[bool]], candidate: Mapping[str, Sequence[bool]], seed: int = 0
) -> dict[str, Any]:
    """Differences of each task and of the mean over tasks, whose questions are resampled within each task."""
    rng = np.random.default_rng(seed)
    rows = {name: difference(answers, candidate[name], rng) for name, answers in reference.items()}
    draws = [100 * resampled(row["gained"], row["lost"], row["questions"], rng, _RESAMPLES) for row in rows.values()]
    low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    gained, lost = (sum(row[key] for row in rows.values()) for key in ("gained", "lost"))
    mean = {
        "right": float(np.mean([100 * row["right"] / row["questions"] for row in rows.values()])),
        "points": float(np.mean([row["points"] for row in rows.values()])),
        "interval": [float(low), float(high)],
        "mcnemar_p": mcnemar(gained, lost),
    }
    return {"mean": mean, "tasks": rows}
