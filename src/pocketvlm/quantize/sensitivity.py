"""Measures how much the quantization of one matrix alone changes the output of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pocketvlm.quantize.runner import Runner
from pocketvlm.tensors import Tensor

Floats = NDArray[np.float32]


class Probe:
    """A few prompts, their rows before each layer of the dense network, and its logits."""

    def __init__(
        self, runner: Runner, dense: Mapping[str, Tensor], features: Mapping[str, Floats], max_rows: int
    ) -> None:
        """max_rows: positions whose logits are compared; they are spread evenly."""
        self._runner, self._dense, self._features = runner, dense, features
        rows = runner.embeddings(dense, features)
        self._before = []
        for index in range(runner.layers):
            self._before.append(rows)
            rows = runner.layer(dense, index, rows)
        self._before.append(rows)
        self._chosen = np.arange(0, runner.tokens, max(1, runner.tokens // max_rows))
        self._expected = _log_softmax(runner.logits(dense, self._pick(rows)))

    def divergence(self, changed: Mapping[str, Tensor], layer: int) -> float:
        """Mean KL divergence of the network with changed tensors, of which the first is in this layer.

        layer: -1 for the embedding, and the number of layers for the head alone.
        """
        tensors = {**self._dense, **changed}
        rows = self._runner.embeddings(tensors, self._features) if layer < 0 else self._before[layer]
        for index in range(max(layer, 0), self._runner.layers):
            rows = self._runner.layer(tensors, index, rows)
        found = _log_softmax(self._runner.logits(tensors, self._pick(rows)))
        return float(np.einsum("ij,ij->i", np.exp(self._expected), self._expected - found).mean(dtype=np.float64))

    def _pick(self, rows: Sequence[Floats]) -> Floats:
        return np.ascontiguousarray(np.concatenate(rows)[self._chosen])


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(1, keepdims=True)
    total = np.exp(shifted).sum(1, keepdims=True, dtype=np.float64)
    found: Floats = (shifted - np.log(total)).astype(np.float32)
    return found
