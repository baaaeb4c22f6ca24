"""`check` measures every sample before training starts and collects what cannot be trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.errors import DataError, OptionError
from pocketvlm.train.data.dataset import Dataset, listing
from pocketvlm.train.data.files import Problem
from pocketvlm.train.examples import ExampleMaker, Length
from pocketvlm.train.sample import Sample

PERCENTILES = (5, 25, 50, 75, 95, 99)
_GROUP = 32  # samples in one task of a thread
NOTHING_LEFT = "no sample is left to train on: correct the data, or raise max_length"


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What a dataset is made of. samples: those that can be trained on; lengths: one for each of them.

    records: read from the files, usable or not. media: number of images and videos in the usable records. problems:
    what cannot be used; too_long: samples over the maker's max_length; warnings: what is used but
    suspicious. cut: answers that end at max_length.
    """

    format: str
    records: int
    samples: Sequence[Sample]
    lengths: Sequence[Length]
    media: Mapping[str, int]
    problems: Sequence[Problem]
    too_long: Sequence[Problem]
    warnings: Sequence[Problem]
    max_length: int | None = None
    cut: int = 0

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens of each sample, int64 [samples]."""
        return np.array([length.total for length in self.lengths], dtype=np.int64)

    def require_sound(self, skip_bad: bool = False, skip_long: bool = False) -> None:
        """Raise DataError listing problems and samples that are too long, unless they shall be skipped."""
        found = [*([] if skip_bad else self.problems), *([] if skip_long else self.too_long)]
        if found:
            raise DataError(listing(found))
        if not self.samples:
            raise DataError(NOTHING_LEFT)

    def left_out(self) -> str:
        """What is not among the samples, in one line; "" if nothing is missing."""
        parts = [(self.problems, "unusable record"), (self.too_long, "overlong sample")]
        return " and ".join(counted(len(problems), noun) for problems, noun in parts if problems)

    def summary(self) -> str:
        """One line: format, number of samples, images and videos, and the longest sample."""
        parts = [counted(len(self.samples), "sample")]
        parts += [counted(count, name.removesuffix("s")) for name, count in self.media.items() if count]
        if self.lengths:
            parts.append(f"longest {number(int(self.tokens.max()))} tokens")
        if self.cut:
            parts.append(f"{counted(self.cut, 'answer')} cut at {self.max_length} tokens")
        return f"{self.format}: {', '.join(parts)}"

    def counts(self) -> dict[str, dict[str, int]]:
        """Of questions, their media, answers and whole samples: percentiles of tokens, maximum, mean and sum."""
        columns = {
            "question": [length.prompt for length in self.lengths],
            "media": [length.media for length in self.lengths],
            "answer": [length.answer for length in self.lengths],
            "sample": [length.total for length in self.lengths],
        }
        return {name: _statistics(values) for name, values in columns.items()}

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON data."""
        tokens = self.tokens
        longest = int(tokens.argmax()) if len(tokens) else None
        return {
            "format": self.format,
            "records": self.records,
            "samples": len(self.samples),
            **self.media,
            "tokens": self.counts(),
            "longest": None if longest is None else self.samples[longest].place,
            "max_length": self.max_length,
            "cut": self.cut,
            "problems": [str(problem) for problem in self.problems],
            "too_long": [str(problem) for problem in self.too_long],
            "warnings": [str(problem) for problem in self.warnings],
        }


def _statistics(values: Sequence[int]) -> dict[str, int]:
    if not values:
        return {}
    found = {f"p{p}": int(np.percentile(values, p, method="nearest")) for p in PERCENTILES}
    return {**found, "max": max(values), "mean": round(sum(values) / len(values)), "sum": sum(values)}


def number(value: int) -> str:
    """A whole number with a space between thousands."""
    return f"{value:,}".replace(",", " ")


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number and its noun: 1 204 samples. plural: where it is not the noun with an s."""
    return f"{number(count)} {noun if count == 1 else plural or f'{noun}s'}"


def check(
    dataset: Dataset,
    maker: ExampleMaker,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure all samples of a dataset on `threads` threads (None: one for each processor).

    progress(done, total) is called now and then, on the caller's thread. One bad sample leaves out the other samples of
    its record, too; one that is too long does not. Raises OptionError.
    """
    if threads is not None and threads < 1:
        raise OptionError(f"threads={threads!r} is out of range: give a whole number of at least 1")
    outcomes: list[Length | DataError] = []
    total = len(dataset.samples)
    pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, "check")
    try:
        groups = [dataset.samples[at : at + _GROUP] for at in range(0, total, _GROUP)]
        for found in pool.map(lambda group: [_measured(maker, sample) for sample in group], groups):
            outcomes += found
            if progress is not None:
                progress(len(outcomes), total)
    finally:
        pool.shutdown(cancel_futures=True)
    faults: dict[str, Problem] = {}
    for sample, outcome in zip(dataset.samples, outcomes, strict=True):
        if isinstance(outcome, DataError):
            text = str(outcome).removeprefix(f"{sample.place}: ")
            faults.setdefault(sample.place, Problem(sample.place, text))
    samples: list[Sample] = []
    lengths: list[Length] = []
    too_long: list[Problem] = []
    cut = 0
    media: dict[str, dict[str, int]] = {}
    for sample, outcome in zip(dataset.samples, outcomes, strict=True):
        if isinstance(outcome, DataError) or sample.place in faults:
            continue
        if not maker.fits(outcome):
            too_long.append(Problem(sample.place, maker.too_long(outcome)))
            continue
        samples.append(sample)
        lengths.append(maker.cut(outcome))
        cut += not (maker.max_length is None or outcome.total <= maker.max_length)
        media[sample.place] = dict(sample.media)  # the last answer of a record follows all of its media
    totals = {kind: sum(each.get(kind, 0) for each in media.values()) for kind in ("images", "videos")}
    return Report(
        dataset.format,
        dataset.records,
        samples,
        lengths,
        totals,
        sorted([*dataset.problems, *faults.values()], key=lambda problem: problem.order),
        too_long,
        dataset.warnings,
        maker.max_length,
        cut,
    )


def _measured(maker: ExampleMaker, sample: Sample) -> Length | DataError:
    try:
        return maker.measure(sample)
    except DataError as error:
        return error
