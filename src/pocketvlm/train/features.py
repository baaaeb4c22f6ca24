"""Features of a frozen vision tower: computed once by a backend of this package, cached on disk across runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.config import ModelConfig
from pocketvlm.errors import InputError
from pocketvlm.model import vision
from pocketvlm.model.weights import WeightsBuilder, preparing
from pocketvlm.tensors import Tensor
from pocketvlm.train.records import ViewKey
from pocketvlm.types import View

Floats = NDArray[np.float32]


class FeatureStore(Protocol):
    """A bounded cache of features by name (`engine.featurefiles.FeatureFiles`)."""

    def read(self, name: str, rows: int, columns: int) -> Floats | None:
        """Features float32 [rows, columns], or None."""

    def write(self, name: str, features: Floats) -> None:
        """Save features; may evict others."""


class VisionEncoder:
    """The vision tower and its mergers alone, on a backend: no tensor of the language model is read."""

    def __init__(self, config: ModelConfig, backend: AnyBackend, tensors: Mapping[str, Tensor]) -> None:
        if config.vision is None:
            raise InputError("the checkpoint has no vision tower, and the data has images: leave them out")
        self._config, self._backend = config.vision, backend
        self._weights = WeightsBuilder(config, preparing(backend, tensors)).vision(config.vision)

    def __call__(self, view: View) -> Floats:
        """Features float32 [tokens, hidden] of a view."""
        patches = self._backend.from_numpy(view.patches)
        sizes = np.array([(view.rows, view.cols)], dtype=np.int32)
        rows = vision.encode_views(self._backend, self._weights, self._config, patches, sizes, view.downsample_mode)
        found: Floats = np.asarray(self._backend.to_numpy(rows), np.float32)
        return found


class Features:
    """Features of the views of records, from the cache or computed.

    encoder: makes the encoder when the first view is computed. views: makes the views of a record anew, for those that
    are not cached. width: of a feature, the language model's hidden size.
    """

    def __init__(self, store: FeatureStore | None, encoder: Callable[[], Callable[[View], Floats]], width: int) -> None:
        self._store, self._make, self._width = store, encoder, width
        self._encoder: Callable[[View], Floats] | None = None
        self.computed = self.cached = 0

    def read(self, key: ViewKey) -> Floats | None:
        """The cached features float32 [tokens, hidden] of a view, or None."""
        found = None if self._store is None or not key.digest else self._store.read(key.digest, key.tokens, self._width)
        self.cached += found is not None
        return found

    def compute(self, key: ViewKey, view: Any) -> Floats:
        """Compute the features of a view and save them."""
        if self._encoder is None:
            self._encoder = self._make()
        features = self._encoder(view.load())
        self.computed += 1
        if self._store is not None and key.digest:
            self._store.write(key.digest, features)
        return features

    def release(self) -> None:
        """Free the encoder's weights; they are read again if another view must be computed."""
        self._encoder = None
