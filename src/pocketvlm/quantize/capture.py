"""Captures the inputs of matrices while a network runs: sums over their rows, never the rows themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.batch import Ints, Step, SubStep
from pocketvlm.backends.ops import Activation, AdaptedRows, AttentionSpec, DeltaSpec, KVCache, Ops
from pocketvlm.quantize.chunks import run_chunks

Floats = NDArray[np.float32]
_ROWS = 2048  # of a chunk, whose products one thread sums in float32
_CHUNKS_AT_ONCE = 4  # their products are in memory together


class Inputs:
    """Sums over the rows X [rows, inputs] that matrices are multiplied with, and over those of a reference.

    gram: X^T X. drift: (R - X)^T X, where R are the rows that the network has without quantization; None where no
    reference was given.
    """

    def __init__(self, inputs: int) -> None:
        self._gram = np.zeros((inputs, inputs), np.float32)
        self._drift: Floats | None = None
        self.rows = 0

    def add(self, x: Floats, reference: Floats | None = None) -> None:
        """Add rows [n, inputs]."""
        if reference is not None and self._drift is None:
            self._drift = np.zeros_like(self._gram)

        def products(chunk: slice) -> tuple[Floats, Floats | None]:
            rows = x[chunk]
            gram: Floats = rows.T @ rows
            if reference is None:
                return gram, None
            away: Floats = (reference[chunk] - rows).T
            drift: Floats = away @ rows
            return gram, drift

        # Always the same chunks: sums must not depend on the number of threads.
        chunks = [slice(start, start + _ROWS) for start in range(0, len(x), _ROWS)]
        for at in range(0, len(chunks), _CHUNKS_AT_ONCE):
            for gram, drift in run_chunks(products, chunks[at : at + _CHUNKS_AT_ONCE]):
                self._gram += gram
                if drift is not None and self._drift is not None:
                    self._drift += drift
        self.rows += len(x)

    def gram(self) -> Floats:
        """X^T X / rows, float32 [inputs, inputs]; zeros where no row was added."""
        return self._gram / np.float32(max(self.rows, 1))

    def drift(self) -> Floats | None:
        """(R - X)^T X / rows, float32 [inputs, inputs]."""
        return None if self._drift is None else self._drift / np.float32(max(self.rows, 1))


class Recorder(Ops[Any, Any, Any]):
    """The operations of another backend; records the rows that are multiplied with chosen matrices.

    Fused operations are composed of the simple ones, so that the rows in front of each product are seen.
    """

    def __init__(self, ops: AnyBackend, names: Mapping[Any, str]) -> None:
        """names: the name of each matrix to record, by its handle."""
        self._ops, self._names = ops, names
        self.inputs: dict[str, Inputs] = {}  # matrices that are multiplied with the same rows share one
        # Rows of the reference, by the name of the first matrix that is multiplied with them.
        self.reference: Mapping[str, Floats] = {}

    def _record(self, x: Any, weights: Sequence[Any]) -> None:
        names = [self._names[weight] for weight in weights if weight in self._names]
        if not names:
            return
        found = self.inputs.get(names[0])
        if found is None:
            found = Inputs(x.shape[1])
            self.inputs.update(dict.fromkeys(names, found))
        found.add(self._ops.to_numpy(x), self.reference.get(names[0]))

    def linear(
        self,
        x: Any,
        weight: Any,
        bias: Any | None = None,
        residual: Any | None = None,
        activation: Activation | None = None,
        adapters: Sequence[AdaptedRows[Any, Any, Any]] = (),
    ) -> Any:
        self._record(x, (weight,))
        return self._ops.linear(x, weight, bias, residual, activation, adapters)

    def linears(
        self,
        x: Any,
        weights: Sequence[Any],
        biases: Sequence[Any | None] = (),
        adapters: Sequence[AdaptedRows[Any, Any, Any]] = (),
    ) -> Sequence[Any]:
        self._record(x, weights)
        return self._ops.linears(x, weights, biases, adapters)

    def add_updates(
        self,
        x: Any,
        weights: Sequence[Any],
        outs: Sequence[Any],
        adapters: Sequence[AdaptedRows[Any, Any, Any]],
    ) -> None:
        self._ops.add_updates(x, weights, outs, adapters)

    def activate(self, x: Any, activation: Activation) -> Any:
        return self._ops.activate(x, activation)

    def embed(self, table: Any, ids: Any) -> Any:
        return self._ops.embed(table, ids)

    def take(self, x: Any, rows: Any) -> Any:
        return self._ops.take(x, rows)

    def put(self, x: Any, rows: Any, values: Any) -> None:
        self._ops.put(x, rows, values)

    def copy_slots(self, arrays: Sequence[Any], copies: Sequence[Sequence[Any]], part: SubStep[Any]) -> None:
        self._ops.copy_slots(arrays, copies, part)

    def concat(self, parts: Sequence[Any]) -> Any:
        return self._ops.concat(parts)

    def rms_norm(self, x: Any, weight: Any, eps: float) -> Any:
        return self._ops.rms_norm(x, weight, eps)

    def layer_norm(self, x: Any, weight: Any, bias: Any, eps: float) -> Any:
        return self._ops.layer_norm(x, weight, bias, eps)

    def swiglu(self, gate: Any, up: Any) -> Any:
        return self._ops.swiglu(gate, up)

    def attention_inputs(
        self,
        query_gate: Any,
        key: Any,
        value: Any,
        q_norm: Any,
        k_norm: Any,
        cache: KVCache[Any],
        step: Step[Any],
        spec: AttentionSpec,
    ) -> tuple[Any, Any]:
        return self._ops.attention_inputs(query_gate, key, value, q_norm, k_norm, cache, step, spec)

    def attention(self, query: Any, cache: KVCache[Any], step: Step[Any]) -> Any:
        return self._ops.attention(query, cache, step)

    def sigmoid_gate(self, x: Any, gate: Any) -> Any:
        return self._ops.sigmoid_gate(x, gate)

    def attention_views(self, query: Any, key: Any, value: Any, lengths: Ints, heads: int) -> Any:
        return self._ops.attention_views(query, key, value, lengths, heads)

    def conv_silu(self, x: Any, weight: Any, state: Any, part: SubStep[Any]) -> Any:
        return self._ops.conv_silu(x, weight, state, part)

    def gated_delta_rule(
        self,
        mixed: Any,
        b: Any,
        a: Any,
        a_log: Any,
        dt_bias: Any,
        state: Any,
        part: SubStep[Any],
        spec: DeltaSpec,
    ) -> Any:
        return self._ops.gated_delta_rule(mixed, b, a, a_log, dt_bias, state, part, spec)

    def gated_rms_norm(self, x: Any, z: Any, weight: Any, eps: float) -> Any:
        return self._ops.gated_rms_norm(x, z, weight, eps)

    def regroup_2x2(self, x: Any, sizes: Ints) -> Any:
        return self._ops.regroup_2x2(x, sizes)

    def window_mean(self, x: Any) -> Any:
        return self._ops.window_mean(x)


class RowRecorder(Recorder):
    """Retains the rows of one pass instead of sums over them."""

    def __init__(self, ops: AnyBackend, names: Mapping[Any, str]) -> None:
        super().__init__(ops, names)
        self.rows: dict[str, Floats] = {}

    def _record(self, x: Any, weights: Sequence[Any]) -> None:
        for name in [self._names[weight] for weight in weights if weight in self._names][:1]:
            self.rows[name] = self._ops.to_numpy(x)
