"""`Source` gives the records of a data set and the features of their views, cached or computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pocketvlm.train.examples import ExampleMaker
from pocketvlm.train.features import Features, Floats
from pocketvlm.train.records import Record
from pocketvlm.train.sample import Sample

Progress = Callable[[int, int], None]


class Source:
    """Samples that were checked, their records, and what makes pixels of them again."""

    def __init__(self, samples: Sequence[Sample], maker: ExampleMaker, progress: Progress | None = None) -> None:
        """Prepare all samples; of images only files are read. Raises DataError, with the place of the sample."""
        self.samples, self._maker = samples, maker
        self.records: list[Record] = []
        for number, sample in enumerate(samples):
            self.records.append(Record.of(maker(sample, pending=True)))
            if progress is not None:
                progress(number + 1, len(samples))

    def views(self, index: int) -> Sequence[Any]:
        """The views of a record, with pixels."""
        return self._maker(self.samples[index], pending=True).prompt.views

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
