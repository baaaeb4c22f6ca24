"""Samples to evaluate: questions with their references and metrics, all checked before a model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.errors import DataError, OptionError
from pocketvlm.scoring.metrics import Metric, metric_of
from pocketvlm.train.data import Dataset, Problem, read_dataset
from pocketvlm.train.data.dataset import refuse
from pocketvlm.train.data.files import PLACE, kind_of
from pocketvlm.train.data.samples import Turns
from pocketvlm.train.sample import Sample


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
    turns: Turns = "all",
    limit: int | None = None,
) -> tuple[list[EvalSample], list[str]]:
    """The samples of data files, in order, and notes about them. limit: only the first so many.

    A record may have "answers", the accepted texts, instead of a last answer of the assistant or beside it; then only
    its last answer is a sample. It may also have an "id" and a "metric". Raises DataError with file and line of all
    records that cannot be used, also for a reference that its metric cannot score, and OptionError.
    """
    paths = [data] if isinstance(data, str | Path) else list(data)
    default = metric_of(metric)
    if limit is not None and limit < 1:
        raise OptionError(f"limit={limit} is out of range: give at least 1, or None for all samples")
    dataset = read_dataset(paths, format=format, name=name, media_dir=media_dir, turns=turns)
    files = len({_place(sample)[0] for sample in dataset.samples}) > 1
    found: list[EvalSample] = []
    problems = list(dataset.problems)
    seen: dict[str, str] = {}
    for sample in _chosen(dataset):
        try:
            each = _sample(sample, default, files)
            if each.id in seen:
                raise DataError(f"the id {each.id!r} is that of {seen[each.id]} too: give each record its own")
            seen[each.id] = each.place
            found.append(each)
        except DataError as error:
            problems.append(Problem(sample.place, str(error)))
    refuse(sorted(problems, key=lambda problem: problem.order))
    dataset.require_sound()
    return found[:limit], _warnings(dataset)


def _chosen(dataset: Dataset) -> list[Sample]:
    """All samples, but of a record with "answers" only the last one."""
    last = {sample.place: sample for sample in dataset.samples}
    return [sample for sample in dataset.samples if "answers" not in sample.extra or last[sample.place] is sample]


def _warnings(dataset: Dataset) -> list[str]:
    if not dataset.warnings:
        return []
    more = len(dataset.warnings) - 1
    return [f"{dataset.warnings[0]}{f' ({more} more warnings: pocketvlm data check)' if more else ''}"]


def _sample(sample: Sample, default: Metric, files: bool) -> EvalSample:
    """The question of a record. Raises DataError without the place."""
    where, extra = sample.place, sample.extra
    metric = default
    if extra.get("metric") is not None:
        try:
            metric = metric_of(extra["metric"])
        except OptionError as error:
            raise DataError(str(error)) from None
    references = _references(sample)
    for reference in references:
        if (complaint := metric.complaint(reference)) is not None:
            raise DataError(f"metric {metric.name}: {complaint}")
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
            raise DataError("the answer is a tool call, which no metric scores: give 'answers' with texts")
        return (sample.content,)
    if not isinstance(answers, list) or not answers or not all(isinstance(text, str) for text in answers):
        raise DataError("'answers' must be a list of texts with at least one: give the accepted answers")
    return tuple(answers)


def _id(sample: Sample, files: bool) -> str:
    """The record's id, else its line or number, after the file if there are several; then a slash and which answer."""
    given = sample.extra.get("id")
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
        raise DataError(f"'id' must be a text or a whole number, not {kind_of(given)}: correct it")
    file, line = _place(sample)
    own = str(given) if given is not None else f"{file}:{line}" if files else line
    return f"{own}/{sample.turn}" if sample.turn and "answers" not in sample.extra else own


def _place(sample: Sample) -> tuple[str, str]:
    """The file of a sample, and its line there, or its number in an array."""
    found = PLACE.fullmatch(sample.place)
    return (sample.place, sample.place) if found is None else (found["file"], found["number"] or found["line"])
