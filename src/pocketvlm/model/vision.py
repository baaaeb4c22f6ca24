"""The vision tower and its two mergers turn patches of views into features (docs/model.md 3.6-3.8)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pocketvlm.backends.backend import Backend
from pocketvlm.backends.batch import I, Ints
from pocketvlm.backends.ops import A, Activation, AdaptedRows, Ops, W
from pocketvlm.config import VisionConfig
from pocketvlm.model.weights import Attention, Linear, MergerMLP, Norm, VisionLayer, VisionWeights, WindowMerger
from pocketvlm.types import DownsampleMode

MERGER_EPS = 1e-6

Adapters = Sequence[AdaptedRows[A, W, I]]


def attention(
    ops: Ops[A, W, I],
    w: Attention[A, W],
    norm: Norm[A],
    eps: float,
    x: A,
    lengths: Ints,
    heads: int,
    adapters: Adapters[A, W, I],
) -> A:
    """x + out(attention(norm(x))), inside each run of `lengths`: [T, hidden] -> [T, hidden]."""
    inputs = (w.q_proj, w.k_proj, w.v_proj)
    weights, biases = [part.weight for part in inputs], [part.bias for part in inputs]
    query, key, value = ops.layer_norm_linears(x, (norm.weight, norm.bias), eps, weights, biases, None, adapters)
    mixed = ops.attention_views(query, key, value, lengths, heads)
    return ops.linear(mixed, w.out_proj.weight, w.out_proj.bias, residual=x, adapters=adapters)


def normed_linear(
    ops: Ops[A, W, I],
    w: Linear[A, W],
    norm: Norm[A],
    eps: float,
    x: A,
    activation: Activation,
    adapters: Adapters[A, W, I],
) -> A:
    """activation(norm(x) W^T + b)."""
    return ops.layer_norm_linears(x, (norm.weight, norm.bias), eps, (w.weight,), (w.bias,), activation, adapters)[0]


def encoder_layer(
    ops: Ops[A, W, I], w: VisionLayer[A, W], c: VisionConfig, x: A, lengths: Ints, adapters: Adapters[A, W, I] = ()
) -> A:
    """Pre-norm transformer layer: [T, hidden] -> [T, hidden]."""
    x = attention(ops, w.attention, w.layer_norm1, c.layer_norm_eps, x, lengths, c.num_attention_heads, adapters)
    inner = normed_linear(ops, w.fc1, w.layer_norm2, c.layer_norm_eps, x, "gelu_tanh", adapters)
    return ops.linear(inner, w.fc2.weight, w.fc2.bias, residual=x, adapters=adapters)


def window_merger(
    ops: Ops[A, W, I], w: WindowMerger[A, W], c: VisionConfig, x: A, sizes: Ints, adapters: Adapters[A, W, I] = ()
) -> A:
    """Attention among the four tokens of each 2x2 window, then an MLP to one: [T, hidden] -> [T / 4, hidden]."""
    windows = ops.regroup_2x2(x, sizes).reshape(-1, c.hidden_size)
    lengths = np.full(len(windows) // 4, 4, dtype=np.int32)
    mixed = attention(
        ops, w.attention, w.layer_norm1, c.layer_norm_eps, windows, lengths, c.num_attention_heads, adapters
    )
    flat = mixed.reshape(-1, 4 * c.hidden_size)
    inner = normed_linear(ops, w.linear_1, w.pre_norm, c.layer_norm_eps, flat, "gelu_tanh", adapters)
    mean = ops.window_mean(flat)
    return ops.linear(inner, w.linear_2.weight, w.linear_2.bias, residual=mean, adapters=adapters)


def final_merger(
    ops: Ops[A, W, I], rounds: tuple[MergerMLP[A, W], ...], x: A, sizes: Ints, adapters: Adapters[A, W, I] = ()
) -> A:
    """Each round: 2x2 windows through an MLP with exact GELU: [T, hidden] -> [T / 4 ** rounds, text hidden]."""
    for w in rounds:
        flat = ops.regroup_2x2(x, sizes)
        inner = normed_linear(ops, w.linear_1, w.pre_norm, MERGER_EPS, flat, "gelu_erf", adapters)
        x = ops.linear(inner, w.linear_2.weight, w.linear_2.bias, adapters=adapters)
        sizes = sizes // 2
    return x


def position_ids(rows: int, cols: int, side: int) -> Ints:
    """Row of the position table for each patch of a rows x cols view, row-major (docs/model.md 3.6.2)."""
    row = np.arange(rows, dtype=np.int64) * side // rows
    col = np.arange(cols, dtype=np.int64) * side // cols
    return (row[:, None] * side + col[None, :]).astype(np.int32).ravel()


def encode_views(
    backend: Backend[A, W, I],
    w: VisionWeights[A, W],
    c: VisionConfig,
    patches: A,
    sizes: Ints,
    mode: DownsampleMode,
    adapters: Adapters[A, W, I] = (),
) -> A:
    """Features of views of one mode: patches [T, patch_dim], sizes int32 [views, 2] -> [tokens, text hidden].

    "16x" needs the in-tower merger. adapters: each has all rows of the pass.
    """
    ids = np.concatenate([position_ids(int(h), int(w_), c.position_side) for h, w_ in sizes])
    positions = backend.embed(w.position_embedding, backend.indices(ids))
    patch = w.patch_embedding
    x = backend.linear(patches, patch.weight, patch.bias, residual=positions, adapters=adapters)
    for index, layer in enumerate(w.layers):
        x = encoder_layer(backend, layer, c, x, sizes.prod(axis=1, dtype=np.int32), adapters)
        if mode == "16x" and index == c.insert_layer_id and w.vit_merger is not None:
            x = window_merger(backend, w.vit_merger, c, x, sizes, adapters)
            sizes = sizes // 2
    x = backend.layer_norm(x, w.post_layernorm.weight, w.post_layernorm.bias, c.layer_norm_eps)
    return final_merger(backend, w.merger, x, sizes, adapters)
