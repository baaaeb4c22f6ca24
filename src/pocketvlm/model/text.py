"""The language model runs Gated DeltaNet and attention layers over a ragged batch (docs/model.md 3.1-3.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.batch import I, Step
from pocketvlm.backends.ops import A, AdaptedRows, AttentionSpec, DeltaSpec, KVCache, Ops, W
from pocketvlm.config import TextConfig
from pocketvlm.model.weights import DecoderLayer, FullAttention, LinearAttention, Weights

Adapters = Sequence[AdaptedRows[A, W, I]]


@dataclass(frozen=True, slots=True, eq=False)
class DeltaState(Generic[A]):
    """State of one Gated DeltaNet layer: conv [slots, width - 1, channels], delta [slots, heads, dk, dv].

    copies: copies of single slots, of conv [1, n] and of delta [1, n] each; a batch names them by index.
    """

    conv: A
    delta: A
    copies: list[tuple[A, ...]]

    @property
    def arrays(self) -> tuple[A, A]:
        """The arrays that slots index."""
        return self.conv, self.delta


LayerState = KVCache[Any] | DeltaState[Any]


@dataclass(frozen=True, slots=True)
class LayerSpecs:
    """Constants that the layers of one kind share."""

    attention: AttentionSpec
    delta: DeltaSpec

    @classmethod
    def of(cls, c: TextConfig) -> LayerSpecs:
        """The constants of a configuration."""
        return cls(
            AttentionSpec(c.rotary_dim, c.rope_theta, c.rms_norm_eps, c.mrope_section),
            DeltaSpec(c.linear_num_key_heads, c.linear_num_value_heads, c.linear_key_head_dim, c.linear_value_head_dim),
        )


def new_state(backend: AnyBackend, config: TextConfig, kind: str, count: int, page_size: int) -> LayerState:
    """Zeroed state of one layer of this kind for `count` KV pages or recurrent slots."""
    if kind == "full_attention":
        return backend.kv_cache(count, config.num_key_value_heads, page_size, config.head_dim)
    conv = (count, config.linear_conv_kernel_dim - 1, config.conv_dim)
    delta = (count, config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim)
    return DeltaState(backend.zeros(*conv), backend.zeros(*delta), [])


def resized(backend: AnyBackend, state: LayerState, count: int, chosen: slice | NDArray[np.intp]) -> LayerState:
    """A state of `count` pages or slots that begins with the `chosen` ones of `state`; the others are zero."""
    new: LayerState
    if isinstance(state, KVCache):
        new = backend.kv_cache(count, *state.keys.shape[1:])
    else:
        conv, delta = (backend.zeros(count, *old.shape[1:]) for old in state.arrays)
        new = DeltaState(conv, delta, state.copies)
    for old, array in zip(state.arrays, new.arrays, strict=True):
        moved = old[chosen]
        array[: len(moved)] = moved
    return new


def write_index(backend: AnyBackend, array: Any, index: int, values: Any) -> None:
    """Write values [1, n] to one slot of a state array."""
    backend.put(array.reshape(len(array), -1), backend.indices(np.array([index], np.int32)), values)


def full_attention(
    ops: Ops[A, W, I],
    w: FullAttention[A, W],
    spec: AttentionSpec,
    norm: A,
    x: A,
    step: Step[I],
    cache: KVCache[A],
    adapters: Adapters[A, W, I],
) -> A:
    """x + gated softmax attention of norm(x): [T, hidden] -> [T, hidden] (docs/model.md 3.3)."""
    query_gate, key, value = ops.rms_norm_linears(x, norm, spec.eps, (w.q_proj, w.k_proj, w.v_proj), adapters)
    query, gate = ops.attention_inputs(query_gate, key, value, w.q_norm, w.k_norm, cache, step, spec)
    mixed = ops.attention(query, cache, step)
    return ops.sigmoid_gate_linear(mixed, gate, w.o_proj, x, adapters)


def linear_attention(
    ops: Ops[A, W, I],
    w: LinearAttention[A, W],
    spec: DeltaSpec,
    eps: float,
    norm: A,
    x: A,
    step: Step[I],
    state: DeltaState[A],
    adapters: Adapters[A, W, I],
) -> A:
    """x + Gated DeltaNet of norm(x): [T, hidden] -> [T, hidden] (docs/model.md 3.5)."""
    inputs = (w.in_proj_qkv, w.in_proj_z, w.in_proj_b, w.in_proj_a)
    qkv, z, b, a = ops.rms_norm_linears(x, norm, eps, inputs, adapters)
    outs = []
    for part in step.sub_steps:
        rows = part.rows
        mixed = ops.conv_silu(qkv[rows], w.conv1d, state.conv, part)
        outs.append(ops.gated_delta_rule(mixed, b[rows], a[rows], w.a_log, w.dt_bias, state.delta, part, spec))
        if part.copy_slots is not None:
            ops.copy_slots(state.arrays, state.copies, part)
    out = ops.concat(outs) if len(outs) > 1 else outs[0]
    return ops.gated_rms_norm_linear(out, z, w.norm, eps, w.out_proj, x, adapters)


def decoder_layer(
    ops: Ops[A, W, I],
    w: DecoderLayer[A, W],
    specs: LayerSpecs,
    x: A,
    step: Step[I],
    state: LayerState,
    adapters: Adapters[A, W, I],
) -> A:
    """x + Mixer(norm(x)), then + MLP(norm(.)): [T, hidden] -> [T, hidden] (docs/model.md 3.2)."""
    eps = specs.attention.eps
    if isinstance(w.mixer, FullAttention):
        assert isinstance(state, KVCache)
        x = full_attention(ops, w.mixer, specs.attention, w.input_layernorm, x, step, state, adapters)
    else:
        assert isinstance(state, DeltaState)
        x = linear_attention(ops, w.mixer, specs.delta, eps, w.input_layernorm, x, step, state, adapters)
    gated = ops.rms_norm_swiglu(x, w.post_attention_layernorm, eps, w.gate_proj, w.up_proj, adapters)
    return ops.linear(gated, w.down_proj, residual=x, adapters=adapters)


def decode_layers(
    ops: Ops[A, W, I],
    w: Weights[A, W],
    specs: LayerSpecs,
    x: A,
    step: Step[I],
    states: Sequence[LayerState],
    adapters: Adapters[A, W, I] = (),
) -> A:
    """All decoder layers: embeddings [T, hidden] -> hidden rows [T, hidden] before the final norm."""
    for layer, state in zip(w.layers, states, strict=True):
        x = decoder_layer(ops, layer, specs, x, step, state, adapters)
    return x


def head(ops: Ops[A, W, I], norm: A, matrix: W, eps: float, x: A, adapters: Adapters[A, W, I] = ()) -> A:
    """Final norm and output matrix: [n, hidden] -> logits [n, vocab]."""
    return ops.rms_norm_linears(x, norm, eps, (matrix,), adapters)[0]


def state_arrays(states: Sequence[LayerState], kind: type[LayerState]) -> Iterator[Any]:
    """Every array of the layers of one kind, in order."""
    for state in states:
        if isinstance(state, kind):
            yield from state.arrays
