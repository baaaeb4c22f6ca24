"""`MiniCPMV` joins vision tower and language model: features replace placeholder embeddings (docs/model.md 3.9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pocketvlm.adapters import Adapter
from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.batch import Step
from pocketvlm.backends.ops import AdaptedRows, Array
from pocketvlm.config import ModelConfig
from pocketvlm.errors import OptionError
from pocketvlm.model import adapters as adapting
from pocketvlm.model import text, vision
from pocketvlm.model.adapters import LoadedAdapter
from pocketvlm.model.weights import Progress, build_weights, expected_tensors, tensor_roles
from pocketvlm.tensors import Tensor
from pocketvlm.types import DownsampleMode, View

__all__ = ["MiniCPMV", "expected_tensors", "tensor_roles"]

Adapters = Sequence[LoadedAdapter]


class MiniCPMV:
    """The network on one backend. It has no state but its adapters: each call gets the state of its sequences."""

    def __init__(
        self,
        config: ModelConfig,
        backend: AnyBackend,
        tensors: Mapping[str, Tensor],
        progress: Progress | None = None,
    ) -> None:
        self.config = config
        self.backend = backend
        self.weights = build_weights(config, backend, tensors, progress)
        self._specs = text.LayerSpecs.of(config.text)
        self._adapters: Mapping[str, LoadedAdapter] = {}  # replaced, never changed: any thread may read it

    @property
    def rotary_axes(self) -> tuple[int, ...]:
        """Shape of the rotary position of a token: () or (3,)."""
        return () if self.config.text.mrope_section is None else (3,)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters, in the order in which they were added."""
        return tuple(self._adapters)

    def load_adapter(self, name: str, adapter: Adapter) -> LoadedAdapter:
        """Check and prepare an adapter for `add_adapter`, which takes no time then. Any thread may call it.

        Raises OptionError, with the name, for tensors that do not fit the network.
        """
        return adapting.load_adapter(self.backend, self.config, self.weights, name, adapter)

    def add_adapter(self, name: str, adapter: Adapter | LoadedAdapter) -> None:
        """Give requests an adapter under a name.

        Raises OptionError for a name that is empty or taken, and for tensors that do not fit the network.
        """
        self.check_new_name(name)
        if isinstance(adapter, Adapter):
            adapter = self.load_adapter(name, adapter)
        self._adapters = {**self._adapters, name: adapter}

    def check_new_name(self, name: str) -> None:
        """Raise OptionError for the name of an adapter that is empty or taken."""
        if not name or name in self._adapters:
            raise OptionError(f"adapter {name!r}: give a name that is not empty and not taken")

    def remove_adapter(self, name: str) -> LoadedAdapter:
        """Take an adapter's name away and return it: who has it may still use it. Raises OptionError."""
        removed = self.adapter(name)
        assert removed is not None
        self._adapters = {other: adapter for other, adapter in self._adapters.items() if other != name}
        return removed

    def adapter(self, name: str | None) -> LoadedAdapter | None:
        """The adapter of a name; None for None. Raises OptionError for an unknown name."""
        if name is None:
            return None
        known = self._adapters
        if name not in known:
            raise OptionError(f"adapter {name!r} is not loaded: known are {', '.join(known) or 'none'}")
        return known[name]

    def encode(self, views: Sequence[View], adapters: Sequence[LoadedAdapter | None] = ()) -> list[Array]:
        """Features [tokens, hidden] of each view, in order.

        adapters: of each view; without any they are the checkpoint's. Views of one mode that have the same adapter in
        the vision tower run together: so a pass has one set of weights, and its matrices are read once for its views.
        """
        groups: dict[tuple[DownsampleMode, LoadedAdapter | None], list[int]] = {}
        for i, view in enumerate(views):
            adapter = adapters[i] if adapters else None
            if adapter is not None and not adapter.vision_digest:
                adapter = None
            groups.setdefault((view.downsample_mode, adapter), []).append(i)
        features: dict[int, Array] = {}
        for (mode, adapter), chosen in groups.items():
            rows = self._encode([views[i] for i in chosen], mode, adapter)
            start = 0
            for i in chosen:
                features[i] = rows[start : start + views[i].tokens]
                start += views[i].tokens
        return [features[i] for i in range(len(views))]

    def _encode(self, views: Sequence[View], mode: DownsampleMode, adapter: LoadedAdapter | None) -> Array:
        """Features of views of one mode with one adapter, end to end."""
        weights, config = self.weights.vision, self.config.vision
        if weights is None or config is None or mode not in self.config.downsample_modes:
            raise ValueError(f"this network encodes no views in {mode}: it has {self.config.downsample_modes}")
        updates: list[AdaptedRows[Any, Any, Any]] = []
        if adapter is not None:
            weights, updates = adapter.vision or weights, [AdaptedRows(None, adapter.updates)]
        patches = self.backend.from_numpy(np.concatenate([view.patches for view in views]))
        sizes = np.array([(view.rows, view.cols) for view in views], dtype=np.int32)
        rows: Array = vision.encode_views(self.backend, weights, config, patches, sizes, mode, updates)
        return rows

    def embed(self, step: Step[Any], splices: Sequence[tuple[Any, Array]] = (), adapters: Adapters = ()) -> Array:
        """Embeddings [T, hidden] of the step's ids with feature rows put over the given rows (index arrays).

        adapters: those that the step's batch names by index, here and below.
        """
        x = adapting.embed(self.backend, self.weights, step, adapters)
        for rows, values in splices:
            self.backend.put(x, rows, values)
        return x

    def forward(self, x: Array, step: Step[Any], states: Sequence[text.LayerState], adapters: Adapters = ()) -> Array:
        """Hidden rows [T, hidden] before the final norm; `states` are updated in place."""
        updates = adapting.layer_rows(step, adapters)
        hidden: Array = text.decode_layers(self.backend, self.weights, self._specs, x, step, states, updates)
        return hidden

    def logits(self, hidden: Array, step: Step[Any], adapters: Adapters = ()) -> Array:
        """Logits [n, vocab] of the step's logit rows."""
        rows = self.backend.take(hidden, step.logit_rows)
        return adapting.head(self.backend, self.weights, self._specs.attention.eps, rows, step, adapters)
