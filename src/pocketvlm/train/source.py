"""`Source` gives the records of a data set and the features of their views, cached or computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pocketvlm.errors import InputError
from pocketvlm.train.features import Features, Floats
from pocketvlm.train.records import Record
from pocketvlm.train.sample import Example, Sample

Maker = Callable[[Sample], Example]
Progress = Callable[[int, int], None]
_SHOWN = 4


class Source:
    """Samples, their records, and what makes pixels of them again."""

    def __init__(self, samples: Sequence[Sample], maker: Maker, progress: Progress | None = None) -> None:
        """Prepare all samples. Raises InputError that lists the samples that cannot be used, with their places."""
        self.samples, self._maker = samples, maker
        self.records: list[Record] = []
        problems: list[str] = []
        for number, sample in enumerate(samples):
            try:
                record = Record.of(maker(sample))
                if record.loss_tokens == 0:
                    raise InputError("the answer has no token to learn: write one, or leave the sample out")
                self.records.append(record)
            except InputError as error:
                text = str(error)
                problems.append(text if text.startswith(sample.place) else f"{sample.place}: {text}")
            if progress is not None:
                progress(number + 1, len(samples))
        if problems:
            more = (
                f"\nand {len(problems) - _SHOWN} more: `pocketvlm data check` lists all"
                if len(problems) > _SHOWN
                else ""
            )
            raise InputError("\n".join(problems[:_SHOWN]) + more)
        if not self.records:
            raise InputError("the data has no sample: give a file with at least one answer of the assistant")

    def views(self, index: int) -> Sequence[Any]:
        """The views of a record, with pixels."""
        return self._maker(self.samples[index]).prompt.views

    def features(self, index: int, features: Features) -> list[Floats]:
        """The features of the views of a record."""
        record, views = self.records[index], None
        found = []
        for number, key in enumerate(record.views):
            rows = features.read(key)
            if rows is None:
                views = self.views(index) if views is None else views
                rows = features.compute(key, views[number])
            found.append(rows)
        return found

    @property
    def view_count(self) -> int:
        """Number of views of all records."""
        return sum(len(record.views) for record in self.records)
