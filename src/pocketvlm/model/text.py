"""The language model runs Gated DeltaNet and attention layers over a ragged batch (docs/model.md 3.1-3.5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.ops import Array, Batch, Ops
from pocketvlm.config import TextConfig
from pocketvlm.model.weights import DecoderLayer, FullAttention, LinearAttention, Weights


@dataclass(frozen=True, slots=True)
class AttentionState:
    """KV cache of one full-attention layer: keys and values [pages, page_size, kv_heads, head_dim]."""

    keys: Array
    values: Array


@dataclass(frozen=True, slots=True)
class DeltaState:
    """State of one Gated DeltaNet layer: conv [slots, width - 1, channels], delta [slots, heads, dk, dv]."""

    conv: Array
    delta: Array


LayerState = AttentionState | DeltaState
SubBatches = list[tuple[slice, Batch]]


def new_state(ops: Ops, config: TextConfig, kind: str, count: int, page_size: int) -> LayerState:
    """Zeroed state of one layer of this kind for `count` KV pages or recurrent slots."""
    if kind == "full_attention":
        kv = (count, page_size, config.num_key_value_heads, config.head_dim)
        return AttentionState(ops.zeros(*kv), ops.zeros(*kv))
    conv = (count, config.linear_conv_kernel_dim - 1, config.conv_dim)
    delta = (count, config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim)
    return DeltaState(ops.zeros(*conv), ops.zeros(*delta))


def resized(ops: Ops, state: LayerState, count: int, chosen: slice | NDArray[np.intp]) -> LayerState:
    """A state of `count` pages or slots that begins with the `chosen` ones of `state`; the others are zero."""
    arrays = []
    for name in state.__slots__:
        old = getattr(state, name)
        new = ops.zeros(count, *old.shape[1:])
        moved = old[chosen]
        new[: len(moved)] = moved
        arrays.append(new)
    return type(state)(*arrays)


def read_index(ops: Ops, array: Array, index: int) -> Array:
    """A copy [1, n] of one page or slot of a state array."""
    return ops.take(array.reshape(len(array), -1), np.array([index], np.int32))


def write_index(ops: Ops, array: Array, index: int, values: Array) -> None:
    """Write values [1, n] to one page or slot of a state array."""
    ops.put(array.reshape(len(array), -1), np.array([index], np.int32), values)


def copy_slot(ops: Ops, state: DeltaState, slot: int, copies: Iterator[Array]) -> None:
    """Copy what one slot of each array of a layer holds into the next arrays [1, n]."""
    for array in (state.conv, state.delta):
        write_index(ops, next(copies), 0, array[slot : slot + 1].reshape(1, -1))


def full_attention(ops: Ops, w: FullAttention, c: TextConfig, x: Array, batch: Batch, state: AttentionState) -> Array:
    """Gated softmax attention up to o_proj's input: [T, hidden] -> [T, heads * head_dim] (docs/model.md 3.3)."""
    query_gate, key, value = ops.linears(x, (w.q_proj, w.k_proj, w.v_proj))
    query, gate = ops.attention_inputs(
        query_gate,
        key,
        value,
        w.q_norm,
        w.k_norm,
        state.keys,
        state.values,
        batch,
        c.rotary_dim,
        c.rope_theta,
        c.rms_norm_eps,
    )
    return ops.sigmoid_gate(ops.attention(query, state.keys, state.values, batch), gate)


def linear_attention(
    ops: Ops, w: LinearAttention, c: TextConfig, x: Array, sub_batches: SubBatches, state: DeltaState
) -> Array:
    """Gated DeltaNet up to out_proj's input: [T, hidden] -> [T, value_dim] (docs/model.md 3.5)."""
    qkv, z, b, a = ops.linears(x, (w.in_proj_qkv, w.in_proj_z, w.in_proj_b, w.in_proj_a))
    parts = []
    for rows, batch in sub_batches:
        out = ops.gated_delta_rule(
            ops.conv_silu(qkv[rows], w.conv1d, state.conv, batch),
            b[rows],
            a[rows],
            w.a_log,
            w.dt_bias,
            state.delta,
            batch,
            c.linear_num_key_heads,
            c.linear_num_value_heads,
            c.linear_key_head_dim,
            c.linear_value_head_dim,
        )
        parts.append(out)
        for i, copies in batch.kept.items():
            copy_slot(ops, state, int(batch.slots[i]), copies)
    out = ops.concat(parts) if len(parts) > 1 else parts[0]
    return ops.gated_rms_norm(out, z, w.norm, c.rms_norm_eps)


def decoder_layer(
    ops: Ops, w: DecoderLayer, c: TextConfig, x: Array, batch: Batch, sub_batches: SubBatches, state: LayerState
) -> Array:
    """x + Mixer(norm(x)), then + MLP(norm(.)): [T, hidden] -> [T, hidden] (docs/model.md 3.2)."""
    normed = ops.rms_norm(x, w.input_layernorm, c.rms_norm_eps)
    if isinstance(w.mixer, FullAttention):
        assert isinstance(state, AttentionState)
        x = ops.linear(full_attention(ops, w.mixer, c, normed, batch, state), w.mixer.o_proj, residual=x)
    else:
        assert isinstance(state, DeltaState)
        x = ops.linear(linear_attention(ops, w.mixer, c, normed, sub_batches, state), w.mixer.out_proj, residual=x)
    normed = ops.rms_norm(x, w.post_attention_layernorm, c.rms_norm_eps)
    gated = ops.swiglu(*ops.linears(normed, (w.gate_proj, w.up_proj)))
    return ops.linear(gated, w.down_proj, residual=x)


def decode_layers(ops: Ops, w: Weights, c: TextConfig, x: Array, batch: Batch, states: tuple[LayerState, ...]) -> Array:
    """All decoder layers: embeddings [T, hidden] -> hidden rows [T, hidden] before the final norm."""
    sub_batches = batch.sub_batches()
    for layer, state in zip(w.layers, states, strict=True):
        x = decoder_layer(ops, layer, c, x, batch, sub_batches, state)
    return x


def head(ops: Ops, w: Weights, c: TextConfig, x: Array) -> Array:
    """Final norm and output matrix: [n, hidden] -> logits [n, vocab]."""
    return ops.linear(ops.rms_norm(x, w.norm, c.rms_norm_eps), w.lm_head)
