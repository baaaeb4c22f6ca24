"""Tables of an evaluation: scores of both sides with intervals, the difference, and the samples that changed."""

from __future__ import annotations

from pocketvlm.api.evaluation import Answer, Evaluation, Summary
from pocketvlm.scoring.intervals import Estimate

METHODS = {"wilson": "Wilson", "bootstrap": "bootstrap"}
SHOWN_CHANGES = 10  # at a terminal
_TEXT = 40  # characters of an answer in a table


def score_rows(found: Evaluation) -> list[list[str]]:
    """The heading and a row for each side, and for each metric if there are several."""
    rows = [["model", "metric", "score", "95 % interval", "samples", "failed", "errors"]]
    by_side = [found.metrics, found.baseline_metrics]
    for side, metrics in zip(sides(found), by_side, strict=False):
        name = "all" if metrics else found.metric_name
        rows.append([side.name, name, *estimate(side.score), str(side.samples), str(side.failed), str(side.errors)])
        rows += [["", metric, *estimate(score), "", "", ""] for metric, score in metrics.items()]
    return rows


def sides(found: Evaluation) -> list[Summary]:
    """The candidate, after the baseline if there is one."""
    return [found.candidate] if found.baseline is None else [found.candidate, found.baseline]


def estimate(score: Estimate) -> tuple[str, str]:
    """A score and its interval in percent."""
    return percent(score.mean), f"{100 * score.low:.1f} - {percent(score.high)}"


def percent(share: float) -> str:
    """A share in percent: 93.5 %."""
    return f"{100 * share:.1f} %"


def difference_line(found: Evaluation) -> str | None:
    """The difference of both sides in points of 100, in a sentence."""
    change = found.difference
    if change is None or found.baseline is None:
        return None
    p = "" if change.mcnemar_p is None else f"; McNemar p = {change.mcnemar_p:.2g}"
    return (
        f"difference: {100 * change.mean:+.1f} points, "
        f"95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f} ({change.method}); "
        f"{change.better} better, {change.worse} worse, {change.equal} equal{p}"
    )


def method_line(found: Evaluation) -> str:
    """How the intervals were made."""
    names = dict.fromkeys(METHODS[side.score.method] for side in sides(found))
    return f"intervals: {' and '.join(names)}"


def change_rows(found: Evaluation) -> list[list[str]]:
    """The heading and a row for each sample whose score is not the baseline's, those that became worse first."""
    rows = [["changed sample", "reference", "baseline", "answer", "score"]]
    for sample in found.changes:
        assert sample.baseline is not None
        assert sample.baseline_score is not None
        texts = [sample.references[0], shown(sample.baseline), shown(sample.answer)]
        scores = f"{sample.baseline_score:.2f} -> {sample.score:.2f}"
        rows.append([sample.id, *(shortened(text) for text in texts), scores])
    return rows


def shown(answer: Answer) -> str:
    """The text of an answer, or its error."""
    return f"error: {answer.error}" if answer.text is None else answer.text


def shortened(text: str, length: int = _TEXT) -> str:
    """A text on one line, cut if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."
