"""`NetworkParts` runs a network part by part, so that only one part's weights are prepared at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.batch import Step
from pocketvlm.backends.ops import Array
from pocketvlm.config import ModelConfig
from pocketvlm.model import vision
from pocketvlm.model.sequences import run_layer
from pocketvlm.model.weights import VisionWeights, WeightsBuilder, preparing
from pocketvlm.tensors import Tensor
from pocketvlm.types import DownsampleMode, PendingView, View

Floats = NDArray[np.float32]


class NetworkParts:
    """A network whose parts are prepared when they run and released afterwards.

    With exact arithmetic the matrices of a quantized checkpoint become float32, which takes 5 GiB for the whole
    released shape, but 60 MB for a layer. Results are those of `MiniCPMV` with the same backend.
    """

    def __init__(self, config: ModelConfig, backend: AnyBackend, tensors: Mapping[str, Tensor]) -> None:
        self.config = config
        self.backend = backend
        self._builder = WeightsBuilder(config, preparing(backend, tensors))

    @property
    def rotary_axes(self) -> tuple[int, ...]:
        """Shape of the rotary position of a token: () or (3,)."""
        return () if self.config.text.mrope_section is None else (3,)

    @property
    def layers(self) -> int:
        """Number of layers of the language model."""
        return len(self.config.text.layer_types)

    def prepared_vision(self) -> VisionWeights[Any, Any] | None:
        """The weights of the vision tower for `encode`; None in a language model without its tower."""
        return None if self.config.vision is None else self._builder.vision(self.config.vision)

    def encode(self, prepared: VisionWeights[Any, Any], view: View | PendingView) -> Floats:
        """Features float32 [tokens, hidden] of one view."""
        config, loaded = self.config.vision, view.load()
        assert config is not None
        patches = self.backend.from_numpy(loaded.patches)
        sizes = np.array([(loaded.rows, loaded.cols)], dtype=np.int32)
        mode: DownsampleMode = loaded.downsample_mode
        rows: Array = vision.encode_views(self.backend, prepared, config, patches, sizes, mode)
        return self.backend.to_numpy(rows)

    def embed(self, ids: Sequence[NDArray[np.int32]]) -> list[Floats]:
        """Embeddings float32 [tokens, hidden] of each list of ids, without features of views."""
        table = self._builder.embedding()
        return [
            np.array(self.backend.to_numpy(self.backend.embed(table, self.backend.indices(each.astype(np.int32)))))
            for each in ids
        ]

    def layer(self, index: int, batches: Sequence[tuple[Array, Step[Any]]]) -> list[Array]:
        """Layer `index` on rows [T, hidden] of several steps (`whole_step`)."""
        prepared = self._builder.decoder_layer(index)
        return [run_layer(self.backend, self.config.text, prepared, index, x, step) for x, step in batches]

    def head(self) -> Head:
        """Final norm and output matrix, prepared."""
        return Head(self.config, self.backend, self._builder.final_norm(), self._builder.head())


class Head:
    """Makes logits of hidden rows."""

    def __init__(self, config: ModelConfig, backend: AnyBackend, norm: Any, matrix: Any) -> None:
        self._backend, self._norm, self._matrix = backend, norm, matrix
        self._eps = config.text.rms_norm_eps

    def __call__(self, rows: Floats) -> Floats:
        """Logits float32 [n, vocab] of hidden rows float32 [n, hidden]."""
        x = self._backend.from_numpy(rows)
        found = self._backend.rms_norm_linears(x, self._norm, self._eps, (self._matrix,))[0]
        return self._backend.to_numpy(found)
