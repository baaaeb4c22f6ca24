"""The metrics by name: how an answer is scored, and which references one fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from pocketvlm.errors import OptionError
from pocketvlm.scoring import boxes, texts
from pocketvlm.suggest import nearest

MetricName = Literal["exact", "contains", "anls", "iou"]


@dataclass(frozen=True, slots=True)
class Metric:
    """score(answer, reference) is from 0 to 1. An answer fails if its score is below `passes`.

    complaint(reference) says why the metric cannot score a reference, or None.
    """

    name: MetricName
    score: Callable[[str, str], float]
    passes: float
    complaint: Callable[[str], str | None]

    def best(self, answer: str, references: Sequence[str]) -> float:
        """The score with the reference that it is best with: any of them is right."""
        return max(self.score(answer, reference) for reference in references)


def _no_text(reference: str) -> str | None:
    return None if texts.normalized(reference) else "the reference is empty"


def _no_box(reference: str) -> str | None:
    found = boxes.find_boxes(reference)
    if not found:
        return "the reference has no box: write <box>x1 y1 x2 y2</box> or [x1, y1, x2, y2]"
    for box in found:
        edges = ", ".join(f"{edge:g}" for edge in box)
        if box.area == 0:
            return f"the box {edges} has no area: give left, top, right, bottom"
        if min(box) < 0 or max(box) > boxes.LIMIT:
            return f"the box {edges} is outside of 0 to {boxes.LIMIT}: give thousandths of width and height"
        if max(box) <= 1:
            return f"the box {edges} is in shares of 1: give thousandths of width and height"
    return None


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("exact", texts.exact, 1.0, lambda reference: None),
            Metric("contains", texts.contains, 1.0, _no_text),
            Metric("anls", texts.anls, 1.0, _no_text),
            # Half is where Pascal VOC counts a box as found.
            Metric("iou", boxes.iou, 0.5, _no_box),
        )
    }
)


def metric_of(name: object, where: str = "metric") -> Metric:
    """A metric by its name. Raises OptionError."""
    found = METRICS.get(name) if isinstance(name, str) else None
    if found is None:
        near = nearest(str(name), get_args(MetricName))
        hint = f": did you mean {near!r}?" if near else ""
        raise OptionError(f"{where}={name!r} is not a metric: give one of {', '.join(METRICS)}{hint}")
    return found
