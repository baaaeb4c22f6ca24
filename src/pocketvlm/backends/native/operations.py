"""`NativeOps` implements the operations: each allocates its output and calls a checked kernel."""

from __future__ import annotations

from collections.abc import Sequence
from threading import get_ident
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.batch import Ints, Step, SubStep
from pocketvlm.backends.native.arena import Arena
from pocketvlm.backends.native.low_rank import Adapted, updates_of, updating
from pocketvlm.backends.native.matrices import NativeWeight, Tied
from pocketvlm.backends.native.packed_matrix import PackedMatrix
from pocketvlm.backends.native.rotary import axes_of, frequencies_of
from pocketvlm.backends.ops import Activation, AttentionSpec, DeltaSpec, KVCache, Ops
from pocketvlm.backends.options import Scheme

if TYPE_CHECKING:
    from pocketvlm._native import Runtime

Floats = NDArray[np.float32]

_ACTIVATIONS: dict[str | None, int] = {None: 0, "gelu_tanh": 1, "gelu_erf": 2, "silu": 3}
_ROW_OPERATIONS = {"rms_norm": 1, "layer_norm": 2, "gated_rms_norm": 3, "sigmoid_gate": 4}
_F32 = np.dtype(np.float32)
_empty = np.empty


class NativeOps(Ops[Floats, NativeWeight, Ints]):
    """The operations on NumPy arrays. Any thread may call them; operations of one object run one at a time."""

    def __init__(self, runtime: Runtime, scheme: Scheme) -> None:
        self._native = runtime
        self._fast = scheme.precision == "fast"
        self._bfloat16 = scheme.products == "bfloat16"
        # Scores in bytes err as much as integer products do, and more than all other operations with stored weights.
        self._byte_scores = scheme.products == "int8"
        self._arena = Arena()
        self._capturing: int | None = None  # the thread whose operations are being captured
        self._retained: list[Ints | Floats] = []

    def _new(self, shape: tuple[int, ...]) -> Floats:
        if self._capturing is not None and self._capturing == get_ident():
            return self._arena.take(shape)
        return _empty(shape, _F32)

    def _retain(self, array: Ints | Floats) -> None:
        """Retain an operation's own array as long as the graph that is being captured."""
        if self._capturing is not None:
            self._retained.append(array)

    def embed(self, table: NativeWeight, ids: Ints) -> Floats:
        if isinstance(table, Tied):
            table = table.rows
        out = self._new((len(ids), table.inputs))
        if isinstance(table, PackedMatrix):
            self._native.quantized_embed(table.handle, ids, out)
        else:
            self._native.embed(table.data, ids, out)
        return out

    def take(self, x: Floats, rows: Ints) -> Floats:
        out = self._new((len(rows), x.shape[-1]))
        self._native.take(x, rows, out)
        return out

    def put(self, x: Floats, rows: Ints, values: Floats) -> None:
        self._native.put(x, rows, values)

    def copy_slots(self, arrays: Sequence[Floats], copies: Sequence[Sequence[Floats]], part: SubStep[Ints]) -> None:
        assert part.copy_slots is not None
        for row, copy in enumerate(part.copy_slots.tolist()):
            if copy < 0:
                continue
            slot = part.write_slots[row : row + 1]
            for array, target in zip(arrays, copies[copy], strict=True):
                self._native.take(array.reshape(len(array), -1), slot, target)

    def concat(self, parts: Sequence[Floats]) -> Floats:
        out = self._new((sum(map(len, parts)), parts[0].shape[1]))
        start = 0
        for part in parts:
            rows = np.arange(start, start + len(part), dtype=np.int32)
            self._retain(rows)
            self.put(out, rows, part)
            start += len(part)
        return out

    def linear(
        self,
        x: Floats,
        weight: NativeWeight,
        bias: Floats | None = None,
        residual: Floats | None = None,
        activation: Activation | None = None,
        adapters: Sequence[Adapted] = (),
    ) -> Floats:
        if activation is not None and updating(adapters, (weight,)):
            if residual is not None:
                raise ValueError("adapters, an activation and a residual need two operations")
            return self.activate(self.linear(x, weight, bias, adapters=adapters), activation)
        handle = weight
        if isinstance(weight, Tied):
            weight = weight.packed
        out = self._new((len(x), weight.outputs))
        if isinstance(weight, PackedMatrix):
            self._native.quantized_linear(
                x, [weight.handle], [bias], [residual], [out], _ACTIVATIONS[activation],
                updates=updates_of(adapters, (handle,)), bf16_updates=self._fast,
            )  # fmt: skip
        else:
            rounds = self._bfloat16 or weight.rounds
            self._native.linear(x, weight.data, weight.bf16, bias, residual, _ACTIVATIONS[activation], rounds, out)
            self.add_updates(x, (handle,), (out,), adapters)
        return out

    def add_updates(
        self, x: Floats, weights: Sequence[NativeWeight], outs: Sequence[Floats], adapters: Sequence[Adapted]
    ) -> None:
        found = [
            (adapted.rows, update.a, update.b, update.scale, out)
            for adapted in adapters
            for weight, out in zip(weights, outs, strict=True)
            if (update := adapted.updates.get(weight)) is not None
        ]
        if found:
            self._native.add_low_rank(x, found, self._fast)

    def activate(self, x: Floats, activation: Activation) -> Floats:
        out = self._new(x.shape)
        self._native.activate(x, _ACTIVATIONS[activation], out)
        return out

    def linears(
        self,
        x: Floats,
        weights: Sequence[NativeWeight],
        biases: Sequence[Floats | None] = (),
        adapters: Sequence[Adapted] = (),
    ) -> Sequence[Floats]:
        handles = [weight.handle for weight in weights if isinstance(weight, PackedMatrix)]
        if len(handles) < len(weights):
            return super().linears(x, weights, biases, adapters)
        outs = [self._new((len(x), weight.outputs)) for weight in weights]
        updates = updates_of(adapters, weights)
        self._native.quantized_linear(x, handles, list(biases), [], outs, 0, updates=updates, bf16_updates=self._fast)
        return outs

    def _fused(
        self,
        operation: str,
        x: Floats,
        weights: Sequence[NativeWeight],
        adapters: Sequence[Adapted],
        *,
        other: Floats | None = None,
        norm: tuple[Floats | None, Floats | None] = (None, None),
        eps: float = 0.0,
        biases: Sequence[Floats | None] = (),
        residuals: Sequence[Floats | None] = (),
        activation: Activation | None = None,
        gates: bool = False,
    ) -> Sequence[Floats] | None:
        """Products of the rows x after an operation, in one kernel; None if that takes two.

        One kernel serves quantized matrices that share their activations in the order of the inputs, with the updates
        of adapters. An activation comes after the updates, in an operation of its own.
        """
        packed = [weight.packed if isinstance(weight, Tied) else weight for weight in weights]
        handles = [weight.handle for weight in packed if isinstance(weight, PackedMatrix)]
        alike = len(handles) == len(packed) and all(handles[0].quantized_alike(handle) for handle in handles)
        updates = updates_of(adapters, weights)
        if not alike or (updates and activation is not None):
            return None
        outs = [self._new((len(x), weight.outputs)) for weight in (packed[:1] if gates else packed)]
        self._native.quantized_linear(
            x, handles, list(biases), list(residuals), outs, _ACTIVATIONS[activation], _ROW_OPERATIONS[operation],
            other, *norm, eps, gates, updates, self._fast,
        )  # fmt: skip
        return outs

    def rms_norm_linears(
        self,
        x: Floats,
        norm: Floats,
        eps: float,
        weights: Sequence[NativeWeight],
        adapters: Sequence[Adapted] = (),
    ) -> Sequence[Floats]:
        outs = self._fused("rms_norm", x, weights, adapters, norm=(norm, None), eps=eps)
        return super().rms_norm_linears(x, norm, eps, weights, adapters) if outs is None else outs

    def rms_norm_swiglu(
        self,
        x: Floats,
        norm: Floats,
        eps: float,
        gate: NativeWeight,
        up: NativeWeight,
        adapters: Sequence[Adapted] = (),
    ) -> Floats:
        outs = self._fused("rms_norm", x, (gate, up), adapters, norm=(norm, None), eps=eps, gates=True)
        return super().rms_norm_swiglu(x, norm, eps, gate, up, adapters) if outs is None else outs[0]

    def layer_norm_linears(
        self,
        x: Floats,
        norm: tuple[Floats, Floats],
        eps: float,
        weights: Sequence[NativeWeight],
        biases: Sequence[Floats | None] = (),
        activation: Activation | None = None,
        adapters: Sequence[Adapted] = (),
    ) -> Sequence[Floats]:
        outs = self._fused("layer_norm", x, weights, adapters, norm=norm, eps=eps, biases=biases, activation=activation)
        if outs is None:
            return super().layer_norm_linears(x, norm, eps, weights, biases, activation, adapters)
        return outs

    def gated_rms_norm_linear(
        self,
        x: Floats,
        z: Floats,
        norm: Floats,
        eps: float,
        weight: NativeWeight,
        residual: Floats,
        adapters: Sequence[Adapted] = (),
    ) -> Floats:
        outs = self._fused(
            "gated_rms_norm", x, (weight,), adapters, other=z, norm=(norm, None), eps=eps, residuals=(residual,)
        )
        return super().gated_rms_norm_linear(x, z, norm, eps, weight, residual, adapters) if outs is None else outs[0]

    def sigmoid_gate_linear(
        self, x: Floats, gate: Floats, weight: NativeWeight, residual: Floats, adapters: Sequence[Adapted] = ()
    ) -> Floats:
        outs = self._fused("sigmoid_gate", x, (weight,), adapters, other=gate, residuals=(residual,))
        return super().sigmoid_gate_linear(x, gate, weight, residual, adapters) if outs is None else outs[0]

    def rms_norm(self, x: Floats, weight: Floats, eps: float) -> Floats:
        out = self._new(x.shape)
        self._native.rms_norm(x, weight, eps, out)
        return out

    def layer_norm(self, x: Floats, weight: Floats, bias: Floats, eps: float) -> Floats:
        out = self._new(x.shape)
        self._native.layer_norm(x, weight, bias, eps, out)
        return out

    def swiglu(self, gate: Floats, up: Floats) -> Floats:
        out = self._new(up.shape)
        self._native.swiglu(gate, up, out)
        return out

    def attention_inputs(
        self,
        query_gate: Floats,
        key: Floats,
        value: Floats,
        q_norm: Floats,
        k_norm: Floats,
        cache: KVCache[Floats],
        step: Step[Ints],
        spec: AttentionSpec,
    ) -> tuple[Floats, Floats]:
        head_dim = cache.keys.shape[-1]
        rows, width = query_gate.shape
        query = self._new((rows, width // (2 * head_dim), head_dim))
        gate = self._new((rows, width // 2))
        frequencies = frequencies_of(spec.rotary_dim, spec.rope_theta)
        self._retain(frequencies)
        axes = axes_of(spec, step.rotary_positions.ndim == 2)
        self._retain(axes)
        self._native.attention_inputs(
            query_gate, key, value, q_norm, k_norm, frequencies, axes, cache.arrays, step.rotary_positions,
            step.offsets, step.context_lens, step.pages, step.host.page_size, spec.eps, query, gate,
        )  # fmt: skip
        return query, gate

    def attention(self, query: Floats, cache: KVCache[Floats], step: Step[Ints]) -> Floats:
        rows, heads, head_dim = query.shape
        out = self._new((rows, heads * head_dim))
        self._native.attention(
            query, cache.arrays, step.offsets, step.context_lens, step.pages, step.host.page_size, self._fast, out
        )
        return out

    def sigmoid_gate(self, x: Floats, gate: Floats) -> Floats:
        out = self._new(x.shape)
        self._native.sigmoid_gate(gate, x, out)
        return out

    def attention_views(self, query: Floats, key: Floats, value: Floats, lengths: Ints, heads: int) -> Floats:
        offsets = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        self._retain(offsets)
        out = self._new(query.shape)
        self._native.attention_views(query, key, value, offsets, heads, self._fast, self._byte_scores, out)
        return out

    def conv_silu(self, x: Floats, weight: Floats, state: Floats, part: SubStep[Ints]) -> Floats:
        out = self._new(x.shape)
        self._native.conv_silu(
            x, weight, state, part.offsets, part.context_lens, part.read_slots, part.write_slots, out
        )
        return out

    def gated_delta_rule(
        self,
        mixed: Floats,
        b: Floats,
        a: Floats,
        a_log: Floats,
        dt_bias: Floats,
        state: Floats,
        part: SubStep[Ints],
        spec: DeltaSpec,
    ) -> Floats:
        out = self._new((len(mixed), spec.value_heads * spec.value_dim))
        self._native.gated_delta_rule(
            mixed, b, a, a_log, dt_bias, state, part.offsets, part.context_lens, part.read_slots, part.write_slots,
            spec.key_heads, spec.value_heads, spec.key_dim, spec.value_dim, self._fast, out,
        )  # fmt: skip
        return out

    def gated_rms_norm(self, x: Floats, z: Floats, weight: Floats, eps: float) -> Floats:
        out = self._new(x.shape)
        self._native.gated_rms_norm(x, z, weight, eps, out)
        return out

    def regroup_2x2(self, x: Floats, sizes: Ints) -> Floats:
        offsets = np.zeros(len(sizes) + 1, np.int32)
        np.cumsum(sizes[:, 0] * sizes[:, 1], out=offsets[1:])
        self._retain(offsets)
        rows, channels = x.shape
        out = self._new((rows // 4, 4 * channels))
        self._native.regroup_2x2(x, sizes, offsets, out)
        return out

    def window_mean(self, x: Floats) -> Floats:
        rows, width = x.shape
        out = self._new((rows, width // 4))
        self._native.window_mean(x, out)
        return out
