"""`Evaluation` says how right the answers of a model are: score, interval, each sample, and the paired difference."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pocketvlm.scoring.intervals import Difference, Estimate, mean_score
from pocketvlm.scoring.metrics import METRICS

# Of the JSON object. A new field does not change it; a field with another meaning does.
VERSION = 1


def from_here(text: str) -> str:
    """A message whose paths begin in the current folder, as users name them: readers of data made them absolute."""
    return text.replace(f"{Path.cwd()}{os.sep}", "")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, or why there is none. text: without reasoning; None with an error. finish_reason: None if unknown."""

    text: str | None
    finish_reason: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSample:
    """One sample with its answer. score: 0 to 1; an error scores 0.

    id: of the record, or its line. place: file and line. messages: what was asked; media are paths, URLs or data URIs.
    references: accepted answers, any of which is right. baseline, baseline_score: None without a baseline.
    """

    id: str
    place: str
    messages: Sequence[Mapping[str, Any]]
    references: tuple[str, ...]
    metric: str
    answer: Answer
    score: float
    baseline: Answer | None = None
    baseline_score: float | None = None

    @property
    def failed(self) -> bool:
        """Whether the score is less than its metric asks for: 1, for boxes 0.5."""
        return self.score < METRICS[self.metric].passes

    @property
    def changed(self) -> bool:
        """Whether the score is not the baseline's."""
        return self.baseline_score is not None and self.score != self.baseline_score

    def to_dict(self, messages: bool = False) -> dict[str, Any]:
        """JSON-ready. messages: with the question."""
        found: dict[str, Any] = {"id": self.id, "place": self.place}
        if messages:
            found["messages"] = [dict(message) for message in self.messages]
        found |= {"answers": list(self.references), "metric": self.metric, "answer": self.answer.text}
        found |= {"finish_reason": self.answer.finish_reason, "score": self.score}
        if self.answer.error is not None:
            found["error"] = self.answer.error
        if self.baseline is not None:
            found |= {"baseline_answer": self.baseline.text, "baseline_score": self.baseline_score}
            if self.baseline.error is not None:
                found["baseline_error"] = self.baseline.error
        return found


@dataclass(frozen=True, slots=True)
class Summary:
    """The score of one side, a model or a model with an adapter.

    score: mean over all samples, with its interval. samples: how many; failed: those below what their metric asks for,
    errors included. errors: samples without an answer; they score 0. cut: answers that reached max_tokens.
    """

    name: str
    score: Estimate
    samples: int
    failed: int
    errors: int
    cut: int

    @classmethod
    def of(cls, name: str, scored: Iterable[tuple[Answer, float, str]]) -> Summary:
        """Of answers with their scores and the names of their metrics."""
        rows = list(scored)
        return cls(
            name,
            mean_score([score for _, score, _ in rows]),
            len(rows),
            sum(score < METRICS[metric].passes for _, score, metric in rows),
            sum(answer.error is not None for answer, _, _ in rows),
            sum(answer.finish_reason == "length" for answer, _, _ in rows),
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of `evaluate`.

    data: paths. metric: of samples that name none. candidate: the model with its adapter, or the answers that were
    given; baseline: what it is compared with. difference: candidate minus baseline, over the same samples. metrics:
    score by metric, if samples have several; baseline_metrics: the same of the baseline. options: of the requests, as
    they were given. samples: in the order of the data. seconds: of answering and scoring.
    """

    data: tuple[str, ...]
    metric: str
    candidate: Summary
    baseline: Summary | None
    difference: Difference | None
    metrics: Mapping[str, Estimate]
    baseline_metrics: Mapping[str, Estimate]
    options: Mapping[str, Any]
    samples: tuple[ScoredSample, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def score(self) -> float:
        """Mean score of the candidate, 0 to 1."""
        return self.candidate.score.mean

    @property
    def metric_name(self) -> str:
        """The metric of the samples, or "several"."""
        names = {sample.metric for sample in self.samples}
        return names.pop() if len(names) == 1 else "several"

    @property
    def failures(self) -> list[ScoredSample]:
        """Samples that failed, the worst first."""
        return sorted((sample for sample in self.samples if sample.failed), key=lambda sample: sample.score)

    @property
    def changes(self) -> list[ScoredSample]:
        """Samples whose score is not the baseline's, those that became worse first."""
        changed = [sample for sample in self.samples if sample.changed]
        return sorted(changed, key=lambda sample: sample.score - (sample.baseline_score or 0.0))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary, as docs/evaluate.md describes it."""
        return {
            "type": "pocketvlm.evaluation",
            "version": VERSION,
            "data": list(self.data),
            "metric": self.metric,
            "candidate": asdict(self.candidate),
            "baseline": None if self.baseline is None else asdict(self.baseline),
            "difference": None if self.difference is None else asdict(self.difference),
            "metrics": {name: asdict(score) for name, score in self.metrics.items()},
            "baseline_metrics": {name: asdict(score) for name, score in self.baseline_metrics.items()},
            "options": dict(self.options),
            "notes": list(self.notes),
            "seconds": self.seconds,
            "samples": [sample.to_dict() for sample in self.samples],
        }
