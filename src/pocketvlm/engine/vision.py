"""Vision features are encoded when a request needs them and cached by digest, in memory and on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from collections.abc import Sequence as List

import numpy as np

from pocketvlm.backends.ops import Array
from pocketvlm.engine.featurefiles import FeatureFiles
from pocketvlm.engine.request import Sequence
from pocketvlm.lru import LRU
from pocketvlm.model import MiniCPMV
from pocketvlm.options.load import DEFAULT_VISION_CACHE
from pocketvlm.types import PendingView, View

# Digests of pixels are cached for so many views of clips.
_MAX_NAMES = 1 << 16

_Key = tuple[str, ...]


def _key(digest: str, mode: str, adapter: str) -> _Key | None:
    """What cached features depend on; None for a view without a digest.

    adapter: digest of its part in the vision tower; "" shares the features of the checkpoint's own weights.
    """
    if not digest:
        return None
    return (digest, mode, adapter) if adapter else (digest, mode)


class Vision:
    """Gives sequences the features of their views."""

    def __init__(self, model: MiniCPMV, limit: int = DEFAULT_VISION_CACHE, files: FeatureFiles | None = None) -> None:
        """limit: bytes of features cached in memory."""
        self.model, self.limit, self.files = model, limit, files
        self.width = model.config.text.hidden_size
        self._cached: LRU[_Key, Array] = LRU(limit, self._bytes)
        self._digests: LRU[str, str] = LRU(_MAX_NAMES)  # pending view's digest -> digest of its pixels
        self.hits = self.misses = 0
        self.seconds = 0.0  # of all passes

    @property
    def nbytes(self) -> int:
        """Bytes of features that are cached in memory."""
        return self._cached.total

    def missing(self, sequence: Sequence, start: int, stop: int) -> Iterator[int]:
        """Views with ids in start..stop of the prompt whose features the sequence lacks."""
        for index, view in enumerate(sequence.request.prompt.views):
            if view.start >= stop:
                break
            if view.start + view.tokens > start and index not in sequence.features:
                yield index

    def attach_cached_features(self, sequence: Sequence, start: int, stop: int) -> None:
        """Give the sequence the cached features of its views with ids in start..stop of the prompt."""
        for index in self.missing(sequence, start, stop):
            found = self._find(sequence.request.prompt.views[index], sequence.vision_digest)
            if found is not None:
                self.hits += 1
                sequence.features[index] = found

    def encode(self, due: List[tuple[Sequence, int]]) -> None:
        """Compute the features of some sequences' views in one pass, and cache them; all or none of them.

        A view of a clip is loaded here; views with equal pixels are computed once.
        """
        views = [self._load(sequence.request.prompt.views[index]) for sequence, index in due]
        began = time.perf_counter()
        keys = [
            _key(view.digest, view.downsample_mode, sequence.vision_digest)
            for view, (sequence, _) in zip(views, due, strict=True)
        ]
        first: dict[object, int] = {}
        for i, key in enumerate(keys):
            first.setdefault(key or i, i)
        # The pixels of a clip's view are known only now; `attach_cached_features` has looked up the other views.
        pending = [
            view is not sequence.request.prompt.views[index] for view, (sequence, index) in zip(views, due, strict=True)
        ]
        found: dict[int, Array] = {}
        for i in first.values():
            if pending[i] and (cached := self._find(views[i], due[i][0].vision_digest)) is not None:
                found[i] = cached
        fresh = [i for i in first.values() if i not in found]
        computed = self.model.encode([views[i] for i in fresh], [due[i][0].adapter for i in fresh])
        if len(fresh) > 1:  # they are parts of one array: without copies, one cached part would retain the whole
            computed = [self.model.backend.take(rows, np.arange(len(rows), dtype=np.int32)) for rows in computed]
        for i, features in zip(fresh, computed, strict=True):
            tokens, index = views[i].tokens, due[i][1]
            if tuple(features.shape) != (tokens, self.width):
                raise ValueError(f"view {index} has {tokens} placeholders but {len(features)} rows of features")
        for i, features in zip(fresh, computed, strict=True):
            found[i] = features
            key = keys[i]
            self._cache(key, features)
            if self.files is not None and key is not None:
                self.files.write("-".join(key), self.model.backend.to_numpy(features))
        self.misses += len(fresh)
        self.hits += len(due) - len(fresh)
        for i, (sequence, index) in enumerate(due):
            sequence.features[index] = found[first[keys[i] or i]]
        spent, patches = time.perf_counter() - began, sum(view.rows * view.cols for view in views)
        self.seconds += spent
        for (sequence, _), view in zip(due, views, strict=True):
            sequence.seconds.vision += spent * view.rows * view.cols / patches

    def _load(self, view: View | PendingView) -> View:
        """Load the patches of a view; the digest of its pixels is cached under its own digest."""
        loaded = view.load()
        if loaded is not view and view.digest:
            self._digests.put(view.digest, loaded.digest)
        return loaded

    def _find(self, view: View | PendingView, adapter: str) -> Array | None:
        digest = view.digest if isinstance(view, View) else self._digests.use(view.digest) or ""
        key = _key(digest, view.downsample_mode, adapter)
        if key is None:
            return None
        if (cached := self._cached.use(key)) is not None:
            return cached
        found = self.files.read("-".join(key), view.tokens, self.width) if self.files is not None else None
        if found is None:
            return None
        features: Array = self.model.backend.from_numpy(found)
        self._cache(key, features)
        return features

    def _cache(self, key: _Key | None, features: Array) -> None:
        if key is not None:
            self._cached.put(key, features)

    def _bytes(self, features: Array) -> int:
        return len(features) * self.width * 4
