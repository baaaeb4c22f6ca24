"""Asks a model the questions of samples, for one side or for two that share the engine's steps and its caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pocketvlm.answers.choice import opens_reasoning
from pocketvlm.api import Model
from pocketvlm.api.about import arithmetic
from pocketvlm.api.evaluation.answer_files import AnswerFile
from pocketvlm.api.evaluation.questions import EvalSample
from pocketvlm.api.evaluation.result import Answer, from_here
from pocketvlm.api.many import in_order
from pocketvlm.api.streams import Stream
from pocketvlm.options.media import MEDIA_OPTIONS, ImageDefaults, VideoOptions
from pocketvlm.options.option import refuse_unknown
from pocketvlm.options.request import REQUEST_OPTIONS, SAMPLING_OPTIONS
from pocketvlm.parsing.answer import AnswerParser
from pocketvlm.parsing.parts import Content
from pocketvlm.types import SamplingParams

# Answers done, and answers in all.
Report = Callable[[int, int], None]


@dataclass(slots=True)
class Side:
    """A model with or without an adapter, by its name in the model. name: for people. answers_path: file to write."""

    name: str
    adapter: str | None = None
    answers_path: Path | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    side: int
    sample: EvalSample


@dataclass(slots=True)
class _Asked:
    """Whether the prompt of a question ended inside `<think>`: known once its stream is open."""

    thinking: bool = False


@dataclass(slots=True)
class _Found:
    answers: dict[str, Answer] = field(default_factory=dict)
    file: AnswerFile | None = None


class _AnyModel:
    """Image settings of a checkpoint that is not known yet: the defaults of each option, and every mode."""

    downsample_modes = ()


_ANY_MODEL = _AnyModel()


def check_options(params: Mapping[str, Any], settings: ImageDefaults = _ANY_MODEL) -> None:
    """Refuse options of requests that no model takes, or not this one. Raises OptionError."""
    refuse_unknown(params, REQUEST_OPTIONS)
    SamplingParams(**{name: value for name, value in params.items() if name in SAMPLING_OPTIONS})
    VideoOptions.resolve(settings, {name: value for name, value in params.items() if name in MEDIA_OPTIONS})


def answers_of(
    model: Model,
    sides: Sequence[Side],
    samples: Sequence[EvalSample],
    params: Mapping[str, Any],
    report: Report = lambda done, total: None,
) -> list[dict[str, Answer]]:
    """The answers of each side by the ids of samples. params: options of all requests.

    Both sides are asked about a sample one after the other, so that features of its images are computed once. Answers
    that a side's file has already are not asked for. A question that fails has an answer with an error.
    """
    check_options(params, model.checkpoint.processor)
    found = [_Found() for _ in sides]
    try:
        for side, each in zip(sides, found, strict=True):
            if side.answers_path is not None:
                each.file = AnswerFile(side.answers_path, made_by(model, side, params), samples)
                each.answers |= each.file.done
        tasks = [
            _Task(number, sample)
            for sample in samples
            for number, each in enumerate(found)
            if sample.id not in each.answers
        ]
        _ask_all(model, sides, found, tasks, params, partial(_report, report, len(samples) * len(sides) - len(tasks)))
    finally:
        for each in found:
            if each.file is not None:
                each.file.close()
    return [each.answers for each in found]


def made_by(model: Model, side: Side, params: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the answers of a side, for the first line of their file."""
    how = arithmetic(model.ops)
    return {
        "model": model.name,
        "fingerprint": model.checkpoint.fingerprint,
        "arithmetic": {name: how[name] for name in ("backend", "precision", "weights") if name in how},
        "adapter": None if side.adapter is None else model.adapters[side.adapter].digest,
        "options": dict(params),
    }


def text_of(raw: str, thinking: bool) -> str:
    """An answer without its reasoning. thinking: the prompt ended inside `<think>`."""
    parser = AnswerParser(thinking=thinking)
    parts = [*parser.feed(raw), *parser.finish()]
    return "".join(part.text for part in parts if isinstance(part, Content))


def _report(report: Report, before: int, done: int, total: int) -> None:
    report(before + done, before + total)


def _ask_all(
    model: Model,
    sides: Sequence[Side],
    found: Sequence[_Found],
    tasks: Sequence[_Task],
    params: Mapping[str, Any],
    report: Report,
) -> None:
    asked = [_Asked() for _ in tasks]
    questions = (
        partial(_open, model, sides[task.side], task.sample, params, how)
        for task, how in zip(tasks, asked, strict=True)
    )
    report(0, len(tasks))
    # Closing cancels the answers that run when this is interrupted.
    with closing(in_order(questions, model.engine.scheduler.max_seqs)) as results:
        for done, (task, how, result) in enumerate(zip(tasks, asked, results, strict=True), 1):
            if result.error is not None:
                answer = Answer(None, "error", from_here(str(result.error)))
            else:
                answer = Answer(text_of(result.text, how.thinking), result.finish_reason)
            side = found[task.side]
            side.answers[task.sample.id] = answer
            if side.file is not None:
                side.file.add(task.sample, answer)
            report(done, len(tasks))


def _open(model: Model, side: Side, sample: EvalSample, params: Mapping[str, Any], asked: _Asked) -> Stream:
    """Open the stream of an answer."""
    own: dict[str, Any] = {}
    if sample.tools:
        own["tools"] = sample.tools
    if sample.thinking:
        own["enable_thinking"] = True
    if side.adapter is not None:
        own["adapter"] = side.adapter
    stream = model.stream(sample.messages, **{**own, **params})
    asked.thinking = opens_reasoning(stream.prompt)
    return stream
