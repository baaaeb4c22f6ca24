"""Samples to evaluate: questions with their references and metrics, all checked before a model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.api.evaluation.data import read_dataset
from pocketvlm.errors import InputError, OptionError
from pocketvlm.scoring.metrics import Metric, metric_of
from pocketvlm.train.sample import Sample

_SHOWN = 3  # problems in one message


@dataclass(frozen=True, slots=True, eq=False)
class EvalSample:
    """One question. id: unique. references: accepted answers. digest: of the question, hex; media count by name."""

    id: str
    place: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    thinking: bool
    references: tuple[str, ...]
    metric: Metric
    digest: str


def read_samples(
    data: str | Path | Sequence[str | Path],
    metric: str,
    *,
    format: str = "auto",
    name: str | None = None,
    media_dir: str | Path | None = None,
    limit: int | None = None,
) -> list[EvalSample]:
    """The samples of data files, in order. limit: only the first so many.

    A record may have "id", "answers" (a text or a list of texts, instead of or besides the answer of the assistant) and
    "metric". Raises InputError naming file and line, also for a reference that its metric cannot score, and OptionError.
    """
    paths = [data] if isinstance(data, str | Path) else list(data)
    default = metric_of(metric)
    if limit is not None and limit < 1:
        raise OptionError(f"limit={limit} is out of range: give at least 1, or None for all samples")
    dataset = read_dataset(paths, format=format, name=name, media_dir=media_dir)
    if dataset.problems:
        shown = "; ".join(str(problem) for problem in dataset.problems[:_SHOWN])
        more = len(dataset.problems) - _SHOWN
        raise InputError(
            f"{shown}{f'; and {more} more problems' if more > 0 else ''}: "
            "mend them (pocketvlm data check lists all of them)"
        )
    chosen = dataset.samples[:limit]
    if not chosen:
        raise InputError(f"{', '.join(map(str, paths))}: no sample is in it")
    turns = Counter(sample.place for sample in chosen)
    found = [_sample(sample, default, turns[sample.place] > 1, len(paths) > 1) for sample in chosen]
    repeated = [name for name, times in Counter(sample.id for sample in found).items() if times > 1]
    if repeated:
        places = [sample.place for sample in found if sample.id == repeated[0]]
        raise InputError(f"{places[1]}: the id {repeated[0]!r} is that of {places[0]} too: give each record its own")
    return found


def _sample(sample: Sample, default: Metric, several: bool, files: bool) -> EvalSample:
    where, extra = sample.place, sample.extra
    if several and "answers" in extra:
        raise InputError(
            f"{where}: 'answers' is for a record with one answer of the assistant, or with none, not with several"
        )
    metric = default
    if extra.get("metric") is not None:
        try:
            metric = metric_of(extra["metric"])
        except OptionError as error:
            raise InputError(f"{where}: {error}") from None
    references = _references(sample)
    for reference in references:
        if (complaint := metric.complaint(reference)) is not None:
            raise InputError(f"{where}: metric {metric.name}: {complaint}")
    asked = json.dumps([list(sample.messages), list(sample.tools)], sort_keys=True, default=str)
    return EvalSample(
        _id(sample, files),
        where,
        sample.messages,
        sample.tools,
        sample.thinking,
        references,
        metric,
        hashlib.blake2b(asked.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest(),
    )


def _references(sample: Sample) -> tuple[str, ...]:
    answers = sample.extra.get("answers")
    if answers is None:
        if sample.calls:
            raise InputError(
                f"{sample.place}: the answer is a tool call, which no metric scores: give 'answers' with texts"
            )
        return (sample.content,)
    listed = [answers] if isinstance(answers, str) else answers
    if not isinstance(listed, Sequence) or not listed or not all(isinstance(text, str) for text in listed):
        raise InputError(f"{sample.place}: 'answers' must be a text or a list of texts, at least one")
    return tuple(listed)


def _id(sample: Sample, files: bool) -> str:
    """The record's id, else the line, with the file's name where there are several; then which answer, after a slash."""
    given = sample.extra.get("id")
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
        raise InputError(f"{sample.place}: 'id' must be a text or a whole number, not {type(given).__name__}")
    file, _, line = sample.place.rpartition(":")
    own = str(given) if given is not None else f"{Path(file).name}:{line}" if files else line or sample.place
    return f"{own}/{sample.turn}" if sample.turn else own
