"""`evaluate()` gets the answers of each side, from a model or from a file, and scores them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pocketvlm.api import Model, load
from pocketvlm.api.evaluation.answer_files import check_answer_file, check_head, read_answers
from pocketvlm.api.evaluation.questions import EvalSample, read_samples
from pocketvlm.api.evaluation.requests import Side, answers_of, check_options
from pocketvlm.api.evaluation.result import Answer, Evaluation, ScoredSample, Summary
from pocketvlm.checkpoint.hub import resolve
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import OptionError
from pocketvlm.options.load import named_adapters
from pocketvlm.scoring.intervals import Estimate, difference, mean_score
from pocketvlm.train.data.samples import Turns

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Answered:
    """A side with its answers, by the ids of the samples."""

    name: str
    answers: Mapping[str, Answer]


def evaluate(
    model: str | Path | Model | None,
    data: str | Path | Sequence[str | Path],
    *,
    metric: str = "exact",
    adapter: str | Path | None = None,
    compare_base: bool = False,
    against: str | Path | Model | None = None,
    predictions: str | Path | None = None,
    answers: str | Path | None = None,
    limit: int | None = None,
    format: str = "auto",
    name: str | None = None,
    media_dir: str | Path | None = None,
    turns: Turns = "all",
    load_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **params: Any,
) -> Evaluation:
    """Answer the questions of data files and score the answers, greedy unless `temperature` says otherwise.

    model: as in `load`, or a loaded model; None with `predictions`. data, format, name, media_dir, turns: as training
    data is read; the answer of the assistant is the reference. A record may have "answers", texts of which any is
    right, an "id", and a "metric" of its own. metric: "exact", "contains", "anls" or "iou" (docs/evaluate.md). adapter:
    a directory in PEFT's format. compare_base: evaluate the model without the adapter too, as the baseline. against:
    another baseline, a model or a JSONL file of answers. predictions: JSONL with "id" and "answer", which are scored
    instead of a model's answers. answers: a JSONL file for the model's answers; with the same call it continues after
    an interruption, and those of a baseline go next to it, to NAME.baseline.jsonl. limit: only so many samples.
    load_options: keywords of `load`. params: options of requests, as in `Model.chat`.
    progress(what, done, total) is called with "download" and bytes, with "load" and tensors, then with "answers".

    A question that fails, for an image that cannot be read for instance, has an error and scores 0. Raises
    OptionError, CheckpointError, and InputError with file and line, before anything is answered.
    """
    given: dict[str, Any] = {"temperature": 0.0, **{key: value for key, value in params.items() if value is not None}}
    check_options(given)
    _check(model, adapter, compare_base, against, predictions, answers)
    paths = tuple(str(path) for path in ([data] if isinstance(data, str | Path) else data))
    where: Any = {"format": format, "name": name, "media_dir": media_dir}
    samples, notes = read_samples(paths, metric, turns=turns, limit=limit, **where)
    began = time.perf_counter()
    # These two options name files of the candidate.
    others = {key: value for key, value in (load_options or {}).items() if key not in ("revision", "mmproj")}
    files = (None, None) if answers is None else (Path(answers).expanduser(), baseline_file(answers))
    for file in files:
        if file is not None:
            check_answer_file(file)
    if against is not None and not _is_file(against):
        _check_model(against, given, files[1], progress)  # before the candidate answers anything
    read: dict[str, Answered] = {}
    for option, source in (("predictions", predictions), ("against", against)):
        if option == "predictions" or _is_file(source):
            read |= {} if source is None else {option: _read(str(source), samples, option, limit)}
    found: list[Answered] = []
    if model is None:
        found.append(read["predictions"])
    else:
        with opened(model, adapter, load_options, progress) as (loaded, own):
            sides = [Side(loaded.name if own is None else f"{loaded.name} + {own}", own, files[0])]
            sides += [Side(loaded.name, None, files[1])] if compare_base else []
            notes += _options_of_adapter(loaded, own, given) if compare_base else []
            found += _asked(loaded, sides, samples, given, progress)
    if "against" in read:
        found.append(read["against"])
    elif against is not None:
        with opened(against, None, others, progress) as (loaded, _):
            found += _asked(loaded, [Side(loaded.name, None, files[1])], samples, given, progress)
    options = given if len(read) < len(found) else {}
    return scored(samples, found, paths, metric, options, notes, time.perf_counter() - began)


def scored(
    samples: Sequence[EvalSample],
    found: Sequence[Answered],
    data: tuple[str, ...],
    metric: str,
    options: Mapping[str, Any],
    notes: Sequence[str],
    seconds: float,
) -> Evaluation:
    """Score the answers of the candidate and, if there is one, the baseline."""
    names = [sample.metric.name for sample in samples]
    answers = [[side.answers[sample.id] for sample in samples] for side in found]
    scores = [[_score(*pair) for pair in zip(samples, each, strict=True)] for each in answers]
    sides = [
        Summary.of(side.name, zip(texts, points, names, strict=True))
        for side, texts, points in zip(found, answers, scores, strict=True)
    ]
    paired = len(found) > 1
    rows = tuple(
        ScoredSample(
            sample.id,
            sample.place,
            sample.messages,
            sample.references,
            sample.metric.name,
            answers[0][index],
            scores[0][index],
            answers[1][index] if paired else None,
            scores[1][index] if paired else None,
        )
        for index, sample in enumerate(samples)
    )
    return Evaluation(
        data,
        metric,
        sides[0],
        sides[1] if paired else None,
        difference(scores[1], scores[0]) if paired else None,
        _by_metric(names, scores[0]),
        _by_metric(names, scores[1]) if paired else {},
        options,
        rows,
        (*notes, *_notes(sides)),
        seconds,
    )


@contextmanager
def opened(
    model: str | Path | Model,
    adapter: str | Path | None,
    load_options: Mapping[str, Any] | None,
    progress: Progress | None,
) -> Iterator[tuple[Model, str | None]]:
    """A loaded model and the name of the adapter in it. A model that was loaded before is left as it was."""
    adapters = {} if adapter is None else named_adapters([adapter])
    name = next(iter(adapters), None)
    if not isinstance(model, Model):
        with load(model, progress=progress, adapters=adapters, **(load_options or {})) as loaded:
            yield loaded, name
    elif adapter is not None and str(adapter) in model.adapters:
        yield model, str(adapter)
    else:
        if name is not None:
            model.add_adapter(name, adapters[name])
        try:
            yield model, name
        finally:
            if name is not None:
                model.remove_adapter(name)


def baseline_file(answers: str | Path) -> Path:
    """The file of the baseline's answers next to that of the candidate's."""
    path = Path(answers).expanduser()
    return path.with_name(f"{path.stem}.baseline{path.suffix}")


def _check_model(
    model: str | Path | Model, params: Mapping[str, Any], answers: Path | None, progress: Progress | None
) -> None:
    """Raise the errors of a baseline's name, its options, and of the file of its answers; downloads what is missing."""
    if isinstance(model, Model):
        checkpoint = model.checkpoint
    else:
        checkpoint = open_checkpoint(resolve(model, None, progress and partial(progress, "download")))
    check_options(params, checkpoint.processor)
    if answers is not None:
        check_head(answers, {"fingerprint": checkpoint.fingerprint, "adapter": None, "options": dict(params)})


def _read(path: str, samples: Sequence[EvalSample], option: str, limit: int | None) -> Answered:
    return Answered(Path(path).name, read_answers(path, samples, option, limited=limit is not None))


def _asked(
    model: Model,
    sides: Sequence[Side],
    samples: Sequence[EvalSample],
    params: Mapping[str, Any],
    progress: Progress | None,
) -> list[Answered]:
    report = partial(progress, "answers") if progress else (lambda done, total: None)
    found = answers_of(model, sides, samples, params, report)
    return [Answered(side.name, answers) for side, answers in zip(sides, found, strict=True)]


def _options_of_adapter(model: Model, adapter: str | None, given: Mapping[str, Any]) -> list[str]:
    """Say which options the adapter brings, since the base does not have them."""
    own = {} if adapter is None else dict(model.adapters[adapter].options)
    usual = model.checkpoint.processor
    differ = {name: value for name, value in own.items() if name not in given and getattr(usual, name, None) != value}
    told = ", ".join(f"{name}={value}" for name, value in differ.items())
    return [f"{adapter} brings {told}, the base has the checkpoint's; an option that is given holds for both"] * bool(
        told
    )


def _check(
    model: Any, adapter: Any, compare_base: bool, against: Any, predictions: Any, answers: str | Path | None
) -> None:
    """Refuse arguments that do not go together."""
    if (model is None) == (predictions is None):
        raise OptionError(
            "there is nothing to score: give a model, or predictions"
            if model is None
            else f"predictions={predictions}: these answers are scored instead of those of {model}: leave out the model"
        )
    if predictions is not None and (adapter is not None or compare_base):
        raise OptionError(
            f"predictions={predictions}: an adapter answers nothing here: leave it out, or the predictions"
        )
    if compare_base and adapter is None:
        raise OptionError("compare_base needs an adapter: to compare models, give against=MODEL")
    if compare_base and against is not None:
        raise OptionError(f"against={against}: the base of the adapter is the baseline already: leave one of them out")
    if answers is not None and predictions is not None and (against is None or _is_file(against)):
        raise OptionError(f"answers={answers}: no model answers here: leave it out")


def _is_file(against: Any) -> bool:
    """Whether a baseline is a file of answers, not a model."""
    return isinstance(against, str | Path) and str(against).lower().endswith((".jsonl", ".json"))


def _score(sample: EvalSample, answer: Answer) -> float:
    return 0.0 if answer.text is None else sample.metric.best(answer.text, sample.references)


def _by_metric(names: Sequence[str], scores: Sequence[float]) -> dict[str, Estimate]:
    """The score of each metric; empty where all samples have one."""
    found = {
        metric: mean_score([score for name, score in zip(names, scores, strict=True) if name == metric])
        for metric in dict.fromkeys(names)
    }
    return found if len(found) > 1 else {}


def _notes(sides: Sequence[Summary]) -> Iterator[str]:
    for side in sides:
        if side.errors:
            yield f"{side.name}: {side.errors} of {side.samples} samples have an error and score 0"
        if side.cut:
            yield f"{side.name}: {side.cut} of {side.samples} answers were cut at max_tokens"
