"""`MiniCPMV` joins vision tower and language model: features replace placeholder embeddings (docs/model.md 3.9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pocketvlm.adapters import Update
from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.batch import Step
from pocketvlm.backends.ops import AdaptedRows, Array
from pocketvlm.config import ModelConfig
from pocketvlm.errors import OptionError
from pocketvlm.model import text, vision
from pocketvlm.model.adapters import prepare_adapter
from pocketvlm.model.weights import Progress, build_weights, expected_tensors, tensor_roles
from pocketvlm.tensors import Tensor
from pocketvlm.types import View

__all__ = ["MiniCPMV", "expected_tensors", "tensor_roles"]


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
        self._adapters: dict[str, Mapping[Any, Any]] = {}

    @property
    def rotary_axes(self) -> tuple[int, ...]:
        """Shape of the rotary position of a token: () or (3,)."""
        return () if self.config.text.mrope_section is None else (3,)

    def add_adapter(self, name: str, updates: Mapping[str, Update]) -> None:
        """Prepare an adapter under a name that requests use. Raises OptionError for a name that is taken, and for
        updates that do not fit the language model's matrices.
        """
        if not name or name in self._adapters:
            raise OptionError(f"adapter {name!r}: give a name that is not empty and not taken")
        self._adapters[name] = prepare_adapter(self.backend, self.config, self.weights, name, updates)

    def adapter_index(self, name: str | None) -> int:
        """The index of an adapter for `Batch.adapters`; -1 for None. Raises OptionError for an unknown name."""
        if name is None:
            return -1
        if name not in self._adapters:
            raise OptionError(f"adapter {name!r} is not loaded: known are {', '.join(self._adapters) or 'none'}")
        return list(self._adapters).index(name)

    def encode(self, views: Sequence[View]) -> list[Array]:
        """Features [tokens, hidden] of each view, in order; views of one mode run together."""
        features: dict[int, Array] = {}
        weights, config = self.weights.vision, self.config.vision
        for mode in ("16x", "4x"):
            chosen = [i for i, view in enumerate(views) if view.downsample_mode == mode]
            if not chosen:
                continue
            if weights is None or config is None or mode not in self.config.downsample_modes:
                raise ValueError(f"this network encodes no views in {mode}: it has {self.config.downsample_modes}")
            patches = self.backend.from_numpy(np.concatenate([views[i].patches for i in chosen]))
            sizes = np.array([(views[i].rows, views[i].cols) for i in chosen], dtype=np.int32)
            rows = vision.encode_views(self.backend, weights, config, patches, sizes, mode)
            start = 0
            for i in chosen:
                features[i] = rows[start : start + views[i].tokens]
                start += views[i].tokens
        return [features[i] for i in range(len(views))]

    def embed(self, step: Step[Any], splices: Sequence[tuple[Any, Array]] = ()) -> Array:
        """Embeddings [T, hidden] of the step's ids with feature rows put over the given rows (index arrays)."""
        x: Array = self.backend.embed(self.weights.embed_tokens, step.ids)
        for rows, values in splices:
            self.backend.put(x, rows, values)
        return x

    def forward(self, x: Array, step: Step[Any], states: Sequence[text.LayerState]) -> Array:
        """Hidden rows [T, hidden] before the final norm; `states` are updated in place."""
        adapters: Sequence[AdaptedRows[Any, Any, Any]] = ()
        if step.adapter_rows:
            updates = list(self._adapters.values())
            adapters = [AdaptedRows(rows, updates[index]) for index, rows in step.adapter_rows]
        hidden: Array = text.decode_layers(self.backend, self.weights, self._specs, x, step, states, adapters)
        return hidden

    def logits(self, hidden: Array, step: Step[Any]) -> Array:
        """Logits [n, vocab] of the step's logit rows."""
        rows = self.backend.take(hidden, step.logit_rows)
        logits: Array = text.head(self.backend, self.weights, self._specs.attention.eps, rows)
        return logits
