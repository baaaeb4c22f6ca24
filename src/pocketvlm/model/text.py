"""The hybrid language model: Gated DeltaNet and gated attention layers over a ragged batch (facts 3.1-3.5)."""

from __future__ import annotations

from dataclasses import dataclass

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


def new_states(ops: Ops, config: TextConfig, pages: int, page_size: int, slots: int) -> tuple[LayerState, ...]:
    """Zeroed state of every layer for `pages` KV pages and `slots` recurrent slots."""
    kv = (pages, page_size, config.num_key_value_heads, config.head_dim)
    conv = (slots, config.linear_conv_kernel_dim - 1, config.conv_dim)
    delta = (slots, config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim)
    return tuple(
        AttentionState(ops.zeros(*kv), ops.zeros(*kv))
        if kind == "full_attention"
        else DeltaState(ops.zeros(*conv), ops.zeros(*delta))
        for kind in config.layer_types
    )


def copy_states(old: tuple[LayerState, ...], new: tuple[LayerState, ...]) -> None:
    """Copy every page and slot of `old` to the front of the larger `new`."""
    for before, after in zip(old, new, strict=True):
        for name in before.__slots__:
            source = getattr(before, name)
            getattr(after, name)[: len(source)] = source


def full_attention(ops: Ops, w: FullAttention, c: TextConfig, x: Array, batch: Batch, state: AttentionState) -> Array:
    """Gated softmax attention up to o_proj's input: [T, hidden] -> [T, heads * head_dim] (facts 3.3)."""
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


def linear_attention(ops: Ops, w: LinearAttention, c: TextConfig, x: Array, batch: Batch, state: DeltaState) -> Array:
    """Gated DeltaNet up to out_proj's input: [T, hidden] -> [T, value_dim] (facts 3.5)."""
    qkv, z, b, a = ops.linears(x, (w.in_proj_qkv, w.in_proj_z, w.in_proj_b, w.in_proj_a))
    out = ops.gated_delta_rule(
        ops.conv_silu(qkv, w.conv1d, state.conv, batch),
        b,
        a,
        w.a_log,
        w.dt_bias,
        state.delta,
        batch,
        c.linear_num_key_heads,
        c.linear_num_value_heads,
        c.linear_key_head_dim,
        c.linear_value_head_dim,
    )
    return ops.gated_rms_norm(out, z, w.norm, c.rms_norm_eps)


def decoder_layer(ops: Ops, w: DecoderLayer, c: TextConfig, x: Array, batch: Batch, state: LayerState) -> Array:
    """x + Mixer(norm(x)), then + MLP(norm(.)): [T, hidden] -> [T, hidden] (facts 3.2)."""
    normed = ops.rms_norm(x, w.input_layernorm, c.rms_norm_eps)
    if isinstance(w.mixer, FullAttention):
        assert isinstance(state, AttentionState)
        x = ops.linear(full_attention(ops, w.mixer, c, normed, batch, state), w.mixer.o_proj, residual=x)
    else:
        assert isinstance(state, DeltaState)
        x = ops.linear(linear_attention(ops, w.mixer, c, normed, batch, state), w.mixer.out_proj, residual=x)
    normed = ops.rms_norm(x, w.post_attention_layernorm, c.rms_norm_eps)
    gated = ops.swiglu(*ops.linears(normed, (w.gate_proj, w.up_proj)))
    return ops.linear(gated, w.down_proj, residual=x)


def decode_layers(ops: Ops, w: Weights, c: TextConfig, x: Array, batch: Batch, states: tuple[LayerState, ...]) -> Array:
    """All decoder layers: embeddings [T, hidden] -> hidden rows [T, hidden] before the final norm."""
    for layer, state in zip(w.layers, states, strict=True):
        x = decoder_layer(ops, layer, c, x, batch, state)
    return x


def head(ops: Ops, w: Weights, c: TextConfig, x: Array) -> Array:
    """Final norm and output matrix: [n, hidden] -> logits [n, vocab]."""
    return ops.linear(ops.rms_norm(x, w.norm, c.rms_norm_eps), w.lm_head)
