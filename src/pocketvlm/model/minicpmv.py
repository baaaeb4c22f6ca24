"""`MiniCPMV` joins vision tower and language model: features replace placeholder embeddings (docs/model.md 3.9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pocketvlm.backends.ops import Array, Batch, Ints, Ops
from pocketvlm.config import ModelConfig
from pocketvlm.model import text, vision
from pocketvlm.model.weights import Progress, build_weights, expected_tensors, tensor_roles
from pocketvlm.tensors import Tensor
from pocketvlm.types import View

__all__ = ["MiniCPMV", "expected_tensors", "tensor_roles"]


class MiniCPMV:
    """The network on one backend. Stateless: all sequence state comes in with each call."""

    def __init__(
        self, config: ModelConfig, ops: Ops, tensors: Mapping[str, Tensor], progress: Progress | None = None
    ) -> None:
        self.config = config
        self.ops = ops
        self.weights = build_weights(config, ops, tensors, progress)

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
            patches = self.ops.from_numpy(np.concatenate([views[i].patches for i in chosen]))
            sizes = np.array([(views[i].rows, views[i].cols) for i in chosen], dtype=np.int32)
            rows = vision.encode_views(self.ops, weights, config, patches, sizes, mode)
            start = 0
            for i in chosen:
                features[i] = rows[start : start + views[i].tokens]
                start += views[i].tokens
        return [features[i] for i in range(len(views))]

    def embed(self, ids: Ints, splices: Sequence[tuple[Ints, Array]] = ()) -> Array:
        """Embeddings [T, hidden] of ids [T] with feature rows put over the given row numbers."""
        x = self.ops.embed(self.weights.embed_tokens, ids)
        for rows, values in splices:
            self.ops.put(x, rows, values)
        return x

    def forward(self, x: Array, batch: Batch, states: tuple[text.LayerState, ...]) -> Array:
        """Hidden rows [T, hidden] before the final norm; `states` are updated in place."""
        return text.decode_layers(self.ops, self.weights, self.config.text, x, batch, states)

    def logits(self, hidden: Array, rows: Ints) -> Array:
        """Logits [n, vocab] of the chosen rows of `hidden`."""
        return text.head(self.ops, self.weights, self.config.text, self.ops.take(hidden, rows))
