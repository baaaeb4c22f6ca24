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
Turns = list[tuple[slice, Batch]]


def new_state(ops: Ops, config: TextConfig, kind: str, places: int, page_size: int) -> LayerState:
    """Zeroed state of one layer of this kind for `places` KV pages or recurrent slots."""
    if kind == "full_attention":
        kv = (places, page_size, config.num_key_value_heads, config.head_dim)
        return AttentionState(ops.zeros(*kv), ops.zeros(*kv))
    conv = (places, config.linear_conv_kernel_dim - 1, config.conv_dim)
    delta = (places, config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim)
    return DeltaState(ops.zeros(*conv), ops.zeros(*delta))


def resized(ops: Ops, state: LayerState, places: int, kept: slice | NDArray[np.intp]) -> LayerState:
    """A state of `places` pages or slots that begins with those of `state` that `kept` names; the rest is zero."""
    arrays = []
    for name in state.__slots__:
        old = getattr(state, name)
        new = ops.zeros(places, *old.shape[1:])
        chosen = old[kept]
        new[: len(chosen)] = chosen
        arrays.append(new)
    return type(state)(*arrays)


def read_place(ops: Ops, array: Array, place: int) -> Array:
    """A copy [1, n] of what one page or slot of a state array holds."""
    return ops.take(array.reshape(len(array), -1), np.array([place], np.int32))


def write_place(ops: Ops, array: Array, place: int, values: Array) -> None:
    """Put what `read_place` read into a page or slot."""
    ops.put(array.reshape(len(array), -1), np.array([place], np.int32), values)


def keep_slot(ops: Ops, state: DeltaState, slot: int, copies: Iterator[Array]) -> None:
    """Copy what one slot of each array of a layer holds into the next arrays [1, n]."""
    for array in (state.conv, state.delta):
        write_place(ops, next(copies), 0, array[slot : slot + 1].reshape(1, -1))


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


def linear_attention(ops: Ops, w: LinearAttention, c: TextConfig, x: Array, turns: Turns, state: DeltaState) -> Array:
    """Gated DeltaNet up to out_proj's input: [T, hidden] -> [T, value_dim] (docs/model.md 3.5)."""
    qkv, z, b, a = ops.linears(x, (w.in_proj_qkv, w.in_proj_z, w.in_proj_b, w.in_proj_a))
    parts = []
    for rows, batch in turns:
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
            keep_slot(ops, state, int(batch.slots[i]), copies)
    out = ops.concat(parts) if len(parts) > 1 else parts[0]
    return ops.gated_rms_norm(out, z, w.norm, c.rms_norm_eps)


def decoder_layer(
    ops: Ops, w: DecoderLayer, c: TextConfig, x: Array, batch: Batch, turns: Turns, state: LayerState
) -> Array:
    """x + Mixer(norm(x)), then + MLP(norm(.)): [T, hidden] -> [T, hidden] (docs/model.md 3.2). turns: of the batch."""
    normed = ops.rms_norm(x, w.input_layernorm, c.rms_norm_eps)
    if isinstance(w.mixer, FullAttention):
        assert isinstance(state, AttentionState)
        x = ops.linear(full_attention(ops, w.mixer, c, normed, batch, state), w.mixer.o_proj, residual=x)
    else:
        assert isinstance(state, DeltaState)
        x = ops.linear(linear_attention(ops, w.mixer, c, normed, turns, state), w.mixer.out_proj, residual=x)
    normed = ops.rms_norm(x, w.post_attention_layernorm, c.rms_norm_eps)
    gated = ops.swiglu(*ops.linears(normed, (w.gate_proj, w.up_proj)))
    return ops.linear(gated, w.down_proj, residual=x)


def decode_layers(ops: Ops, w: Weights, c: TextConfig, x: Array, batch: Batch, states: tuple[LayerState, ...]) -> Array:
    """All decoder layers: embeddings [T, hidden] -> hidden rows [T, hidden] before the final norm."""
    turns = batch.turns()
    for layer, state in zip(w.layers, states, strict=True):
        x = decoder_layer(ops, layer, c, x, batch, turns, state)
    return x


def head(ops: Ops, w: Weights, c: TextConfig, x: Array) -> Array:
    """Final norm and output matrix: [n, hidden] -> logits [n, vocab]."""
    return ops.linear(ops.rms_norm(x, w.norm, c.rms_norm_eps), w.lm_head)
