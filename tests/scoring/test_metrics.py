"""Metrics by name: several references, references that a metric cannot score, names that are none."""

from __future__ import annotations

import pytest

from pocketvlm.errors import OptionError
from pocketvlm.scoring.metrics import METRICS, metric_of


def test_the_best_of_several_references_counts() -> None:
    assert METRICS["exact"].best("nine", ["9", "nine"]) == 1
    assert METRICS["anls"].best("hallo", ["x", "hello", "help"]) == pytest.approx(0.8)
    assert METRICS["iou"].best("[0, 0, 10, 10]", ["[50, 50, 60, 60]", "[5, 0, 15, 10]"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("metric", "reference", "complaint"),
    [
        ("iou", "a cat", "has no box"),
        ("iou", "[10, 10, 5, 20]", "the box 10, 10, 5, 20 has no area"),
        ("iou", "[0, 0, 640, 1080]", "outside of 0 to 1000"),
        ("iou", "[0.1, 0.2, 0.5, 0.6]", "shares of 1"),
        ("iou", "<box>1 2 3 4</box>", None),
        ("contains", " . ", "is empty"),
        ("anls", "", "is empty"),
        ("exact", "", None),
        ("contains", "a", None),
    ],
)
def test_references_that_do_not_fit(metric: str, reference: str, complaint: str | None) -> None:
    found = METRICS[metric].complaint(reference)
    assert found is None if complaint is None else complaint in (found or "")


@pytest.mark.parametrize(
    ("name", "said"),
    [("exakt", "did you mean 'exact'"), ("bleu", "give one of exact, contains, anls, iou"), (None, "metric=None")],
)
def test_other_names_are_refused(name: object, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        metric_of(name)
