"""States the goal of each row and whether it was met."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from comparison.rows import Figures

BETTER = "the better peer"
BATCH_OF_1 = "pocketvlm, batch of 1"
MAIN = "llama.cpp Q4_K_M"
NO_AMX = " without AMX"


@dataclass(frozen=True)
class Goal:
    """A limit on one figure of a row.

    ratio: times as fast as `against`, at least. share: of the memory's bandwidth, at least. seconds, bytes: at most.
    """

    row: str
    kind: Literal["ratio", "share", "seconds", "bytes"]
    limit: float
    against: str = ""
    name: str = "goal"

    def text(self) -> str:
        """The goal in words."""
        if self.kind == "ratio":
            return f"{self.name}: at least {self.limit:g}x {self.against}"
        if self.kind == "share":
            return f"{self.name}: at least {self.limit:.0%} of the bandwidth"
        if self.kind == "seconds":
            return f"{self.name}: at most {self.limit * 1000:g} ms"
        return f"{self.name}: at most {self.limit / 2**30:g} GiB"


GOALS = (
    Goal("decode, depth 32, int4", "ratio", 1.6, MAIN),
    Goal("decode, depth 32, int4", "share", 0.8),
    Goal("decode, depth 1024, int4", "ratio", 1.6, MAIN),
    Goal("decode, depth 1024, int4", "share", 0.8),
    Goal("prefill 512, int4", "ratio", 2.5, BETTER),
    Goal("prefill 1280, int4", "ratio", 2.5, BETTER),
    Goal("vision 448x448, 16x", "ratio", 2.5, BETTER),
    Goal("first token, text of 25", "ratio", 2.5, BETTER),
    Goal("first token, 1 view", "ratio", 4.0, MAIN),
    Goal("first token, 1 view", "seconds", 0.72, name="far goal"),
    Goal("first token, 19 views", "ratio", 4.0, MAIN),
    Goal("decode, batch of 8", "ratio", 3.5, BATCH_OF_1),
    Goal("start of a process", "seconds", 0.8),
    Goal("memory after an image", "bytes", 1.1 * 2**30),
    Goal("AVX2: decode, depth 32", "ratio", 1.0, MAIN),
    Goal("AVX2: prefill 512", "ratio", 1.0, MAIN),
    Goal("AVX2: vision 448x448, 16x", "ratio", 1.0, "llama.cpp BF16"),
)


@dataclass(frozen=True)
class Verdict:
    """A goal and its measurement: median, minimum and maximum."""

    goal: Goal
    values: tuple[float, float, float]

    @property
    def met(self) -> bool:
        """Whether the median reaches the goal."""
        if self.goal.kind in ("ratio", "share"):
            return self.values[0] >= self.goal.limit
        return self.values[0] <= self.goal.limit


def judge(rows: Mapping[str, Figures]) -> list[Verdict]:
    """Verdicts on all goals that were measured."""
    found = []
    for goal in GOALS:
        figures = rows.get(goal.row)
        values = _values(goal, figures) if figures else []
        if values:
            found.append(Verdict(goal, (statistics.median(values), min(values), max(values))))
    return found


def _values(goal: Goal, figures: Figures) -> list[float]:
    if goal.kind == "share":
        return figures.shares()
    if goal.kind != "ratio":
        return figures.ours()
    names = [figures.better()] if goal.against == BETTER else [goal.against, f"{goal.against}{NO_AMX}"]
    peer = next((name for name in names if name in figures.pairs), None)
    return figures.ratios(peer) if peer else []
