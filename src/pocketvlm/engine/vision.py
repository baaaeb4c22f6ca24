"""Features of views: encoded as requests come to need them, kept by digest in memory and, if wanted, on disk."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence as List

import numpy as np

from pocketvlm.backends.ops import Array
from pocketvlm.engine.featurefiles import FeatureFiles
from pocketvlm.engine.request import Sequence
from pocketvlm.model import MiniCPMV
from pocketvlm.types import View

DEFAULT_VISION_CACHE = 128 << 20


class Vision:
    """Gives sequences the features of their views."""

    def __init__(self, model: MiniCPMV, limit: int = DEFAULT_VISION_CACHE, files: FeatureFiles | None = None) -> None:
        """limit: bytes of features kept in memory."""
        self.model, self.limit, self.files = model, limit, files
        self.width = model.config.text.hidden_size
        self._kept: OrderedDict[tuple[str, str], Array] = OrderedDict()
        self.nbytes = self.hits = self.misses = 0

    def missing(self, sequence: Sequence, start: int, stop: int) -> Iterator[int]:
        """Views with ids in start..stop of the prompt whose features have to be computed.

        Features that are kept are given to the sequence on the way.
        """
        for index, view in enumerate(sequence.request.prompt.views):
            if view.start >= stop:
                break
            if view.start + view.tokens <= start or index in sequence.features:
                continue
            found = self._find(view)
            if found is None:
                yield index
            else:
                self.hits += 1
                sequence.features[index] = found

    def encode(self, due: List[tuple[Sequence, int]]) -> None:
        """Compute the features of some sequences' views in one pass, and keep them. All or none."""
        began = time.perf_counter()
        views = [sequence.request.prompt.views[index] for sequence, index in due]
        computed = self.model.encode(views)
        if len(due) > 1:  # parts of one array: a copy each, or the last one that is kept would keep all of it
            computed = [self.model.ops.take(rows, np.arange(len(rows), dtype=np.int32)) for rows in computed]
        for (_, index), view, features in zip(due, views, computed, strict=True):
            if tuple(features.shape) != (view.tokens, self.width):
                raise ValueError(f"view {index} has {view.tokens} placeholders but {len(features)} rows of features")
        for (sequence, index), view, features in zip(due, views, computed, strict=True):
            self.misses += 1
            sequence.features[index] = features
            self._keep(view, features)
            if self.files is not None and view.digest:
                self.files.write(_name(view), self.model.ops.to_numpy(features))
        spent, patches = time.perf_counter() - began, sum(view.rows * view.cols for view in views)
        for (sequence, _), view in zip(due, views, strict=True):
            sequence.seconds.vision += spent * view.rows * view.cols / patches

    def _find(self, view: View) -> Array | None:
        key = (view.digest, view.downsample_mode)
        if not view.digest:
            return None
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        found = self.files.read(_name(view), view.tokens, self.width) if self.files is not None else None
        if found is None:
            return None
        features = self.model.ops.from_numpy(found)
        self._keep(view, features)
        return features

    def _keep(self, view: View, features: Array) -> None:
        if not view.digest:
            return
        self._kept[view.digest, view.downsample_mode] = features
        self.nbytes += self._bytes(features)
        while self.nbytes > self.limit:
            self.nbytes -= self._bytes(self._kept.popitem(last=False)[1])

    def _bytes(self, features: Array) -> int:
        return len(features) * self.width * 4


def _name(view: View) -> str:
    return f"{view.digest}-{view.downsample_mode}"
