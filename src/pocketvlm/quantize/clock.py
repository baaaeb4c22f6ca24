"""`Clock` reports the progress of a work of several stages, with the seconds that are left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

# Stage, units done, all units, and seconds left (None as long as nothing was measured).
StageProgress = Callable[[str, int, int, float | None], None]


class Clock:
    """Knows what each stage costs in the same unit of time, and learns that unit from what is done."""

    def __init__(self, costs: Mapping[str, tuple[int, float]], report: StageProgress | None) -> None:
        """costs: for each stage the number of its units, and the cost of one."""
        self._units = {stage: units for stage, (units, _) in costs.items()}
        self._cost = {stage: cost for stage, (_, cost) in costs.items()}
        self._done = dict.fromkeys(costs, 0)
        self._report = report
        self._began, self._worked = time.perf_counter(), 0.0

    def skip(self, stage: str) -> None:
        """One unit needs no work: an earlier run did it."""
        self._done[stage] += 1

    def done(self, stage: str) -> None:
        """One unit is done."""
        self._done[stage] += 1
        self._worked += self._cost[stage]
        if self._report is None:
            return
        left = sum((self._units[name] - self._done[name]) * cost for name, cost in self._cost.items())
        rate = (time.perf_counter() - self._began) / self._worked if self._worked > 0 else None
        self._report(stage, self._done[stage], self._units[stage], None if rate is None else max(0.0, left) * rate)
