"""`check` measures every sample before training starts and collects what cannot be trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.errors import DataError
from pocketvlm.train.data.dataset import Dataset, listing
from pocketvlm.train.data.files import Problem
from pocketvlm.train.examples import ExampleMaker, Length
from pocketvlm.train.sample import Sample

PERCENTILES = (5, 25, 50, 75, 95, 99)


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What a dataset is made of. samples: those that can be trained on; lengths: one for each of them.

    records: read from the files, usable or not. media: number of images and videos in the usable records. problems:
    what cannot be used; too_long: samples over the maker's max_length; warnings: what is used but suspicious.
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
            raise DataError("no sample is left to train on: correct the data, or raise max_length")

    def summary(self) -> str:
        """One line: format, number of samples, images and videos, and the longest sample."""
        parts = [counted(len(self.samples), "sample")]
        parts += [counted(count, name.removesuffix("s")) for name, count in self.media.items() if count]
        if self.lengths:
            parts.append(f"longest {number(int(self.tokens.max()))} tokens")
        return f"{self.format}: {', '.join(parts)}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON data."""
        tokens = self.tokens
        longest = int(tokens.argmax()) if len(tokens) else None
        return {
            "format": self.format,
            "records": self.records,
            "samples": len(self.samples),
            **self.media,
            "tokens": {
                "total": int(tokens.sum()),
                "answers": sum(length.answer for length in self.lengths),
                "media": sum(length.media for length in self.lengths),
                "mean": round(float(tokens.mean()), 1) if len(tokens) else 0.0,
                **{f"p{p}": int(np.percentile(tokens, p, method="nearest")) for p in PERCENTILES if len(tokens)},
                "max": int(tokens.max(initial=0)),
            },
            "longest": None if longest is None else self.samples[longest].place,
            "max_length": self.max_length,
            "problems": [str(problem) for problem in self.problems],
            "too_long": [str(problem) for problem in self.too_long],
            "warnings": [str(problem) for problem in self.warnings],
        }


def number(value: int) -> str:
    """A whole number with a space between thousands."""
    return f"{value:,}".replace(",", " ")


def counted(count: int, noun: str) -> str:
    """A number and its noun: 1 204 samples."""
    return f"{number(count)} {noun}" if count == 1 else f"{number(count)} {noun}s"


def check(
    dataset: Dataset,
    maker: ExampleMaker,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure all samples of a dataset on `threads` threads (None: one for each processor).

    progress(done, total) is called after each sample, on the caller's thread. One bad sample leaves out the other
    samples of its record, too.
    """
    outcomes: list[Length | DataError] = []
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, "check") as pool:
        for outcome in pool.map(lambda sample: _measured(maker, sample), dataset.samples):
            outcomes.append(outcome)
            if progress is not None:
                progress(len(outcomes), len(dataset.samples))
    faults: dict[str, Problem] = {}
    for sample, outcome in zip(dataset.samples, outcomes, strict=True):
        if isinstance(outcome, DataError):
            text = str(outcome).removeprefix(f"{sample.place}: ")
            faults.setdefault(sample.place, Problem(sample.place, text))
    samples: list[Sample] = []
    lengths: list[Length] = []
    too_long: list[Problem] = []
    media: dict[str, dict[str, int]] = {}
    for sample, outcome in zip(dataset.samples, outcomes, strict=True):
        if isinstance(outcome, DataError) or sample.place in faults:
            continue
        if not maker.fits(outcome):
            too_long.append(Problem(sample.place, maker.too_long(outcome)))
            continue
        samples.append(sample)
        lengths.append(outcome)
        media[sample.place] = dict(sample.media)  # the last answer of a record follows all of its media
    totals = {kind: sum(each.get(kind, 0) for each in media.values()) for kind in ("images", "videos")}
    return Report(
        dataset.format,
        dataset.records,
        samples,
        lengths,
        totals,
        [*dataset.problems, *faults.values()],
        too_long,
        dataset.warnings,
        maker.max_length,
    )


def _measured(maker: ExampleMaker, sample: Sample) -> Length | DataError:
    try:
        return maker.measure(sample)
    except DataError as error:
        return error
