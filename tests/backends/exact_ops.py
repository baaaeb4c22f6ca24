"""The operations once more in float64 and the plainest NumPy: what the backends are measured against."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.batch import Batch
from pocketvlm.backends.ops import DeltaSpec

Array = NDArray[np.float64]
erf = np.vectorize(math.erf)


def sigmoid(x: Array) -> Array:
    x = np.asarray(x, np.float64)
    return np.where(
        x < 0, np.exp(np.minimum(x, 0)) / (1 + np.exp(np.minimum(x, 0))), 1 / (1 + np.exp(-np.maximum(x, 0)))
    )


def silu(x: Array) -> Array:
    return np.asarray(x, np.float64) * sigmoid(x)


def activate(x: Array, kind: str | None) -> Array:
    if kind == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if kind == "gelu_erf":
        return 0.5 * x * (1 + erf(x / math.sqrt(2)))
    return silu(x) if kind == "silu" else x


def rms(x: Array, eps: float) -> Array:
    x = np.asarray(x, np.float64)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(q: Array, k: Array, v: Array, causal_from: int | None) -> Array:
    """q [n, d] over k, v [m, d]; with causal_from, row i sees keys 0..causal_from + i."""
    scores = np.asarray(q, np.float64) @ np.asarray(k, np.float64).T / math.sqrt(q.shape[-1])
    if causal_from is not None:
        hidden = np.arange(len(k)) > causal_from + np.arange(len(q))[:, None]
        scores[hidden] = -np.inf
    return softmax(scores) @ np.asarray(v, np.float64)


def attention_views(q: Array, k: Array, v: Array, lengths: list[int], heads: int) -> Array:
    out = np.zeros(q.shape)
    d, start = q.shape[1] // heads, 0
    for n in lengths:
        for h in range(heads):
            part = np.s_[start : start + n, h * d : (h + 1) * d]
            out[part] = attend(q[part], k[part], v[part], None)
        start += n
    return out


def cached(cache: Array, batch: Batch, s: int) -> Array:
    """The rows of sequence s in a paged cache: [tokens, kv_heads, head_dim]."""
    tokens = int(batch.context_lens[s] + batch.offsets[s + 1] - batch.offsets[s])
    t = np.arange(tokens)
    return cache[batch.pages[s, t // batch.page_size], :, t % batch.page_size]


def attention(query: Array, keys: Array, values: Array, batch: Batch) -> Array:
    rows, heads, d = query.shape
    out = np.zeros((rows, heads, d))
    group = heads // keys.shape[1]
    for s in range(batch.sequences):
        part = slice(batch.offsets[s], batch.offsets[s + 1])
        k, v = cached(keys, batch, s), cached(values, batch, s)
        for h in range(heads):
            out[part, h] = attend(query[part, h], k[:, h // group], v[:, h // group], int(batch.context_lens[s]))
    return out.reshape(rows, heads * d)


def rotate(x: Array, positions: Array, rotary_dim: int, theta: float) -> Array:
    """x [T, heads, d]; positions [T], or [T, n] of each frequency; angles rounded to float32 as the reference does."""
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    frequencies = np.float32(1) / np.float32(theta) ** exponents
    if positions.ndim == 1:
        positions = np.broadcast_to(positions[:, None], (len(positions), len(frequencies)))
    angles = (positions.astype(np.float32) * frequencies).astype(np.float64)[:, None]
    half, out = rotary_dim // 2, np.array(x, np.float64)
    a, b = out[..., :half].copy(), out[..., half:rotary_dim].copy()
    out[..., :half] = a * np.cos(angles) - b * np.sin(angles)
    out[..., half:rotary_dim] = b * np.cos(angles) + a * np.sin(angles)
    return out


def conv_silu(x: Array, weight: Array, state: Array, batch: Batch) -> Array:
    out, width = np.zeros(x.shape), len(weight)
    (sub,) = batch.sub_batches
    for s in range(batch.sequences):
        part = slice(batch.offsets[s], batch.offsets[s + 1])
        before = state[sub.read_slots[s]] if batch.context_lens[s] else np.zeros((width - 1, x.shape[1]))
        window = np.concatenate([before, x[part]]).astype(np.float64)
        n = part.stop - part.start
        out[part] = silu(sum(window[j : j + n] * weight[j] for j in range(width)))
        state[sub.write_slots[s]] = window[n:]
    return out


def gated_delta_rule(
    mixed: Array, b: Array, a: Array, a_log: Array, dt_bias: Array, state: Array, batch: Batch,
    spec: DeltaSpec,
) -> Array:  # fmt: skip
    """Row by row; `state` float64, updated in place."""
    key_heads, value_heads, key_dim, value_dim = spec.key_heads, spec.value_heads, spec.key_dim, spec.value_dim
    mixed = np.asarray(mixed, np.float64)
    width = key_heads * key_dim
    q = mixed[:, :width].reshape(-1, key_heads, key_dim)
    k = mixed[:, width : 2 * width].reshape(-1, key_heads, key_dim)
    v = mixed[:, 2 * width :].reshape(-1, value_heads, value_dim)
    q = q / np.sqrt((q * q).sum(-1, keepdims=True) + 1e-6) * key_dim**-0.5
    k = k / np.sqrt((k * k).sum(-1, keepdims=True) + 1e-6)
    q, k = (np.repeat(x, value_heads // key_heads, axis=1) for x in (q, k))
    beta = sigmoid(b)
    decay = np.exp(-np.exp(a_log.astype(np.float64)) * np.logaddexp(0, a.astype(np.float64) + dt_bias))
    out = np.zeros(v.shape)
    (sub,) = batch.sub_batches
    for s in range(batch.sequences):
        S = state[sub.read_slots[s]] if batch.context_lens[s] else np.zeros((value_heads, key_dim, value_dim))
        for t in range(batch.offsets[s], batch.offsets[s + 1]):
            S = S * decay[t][:, None, None]
            delta = beta[t][:, None] * (v[t] - np.einsum("hkv,hk->hv", S, k[t]))
            S = S + k[t][:, :, None] * delta[:, None, :]
            out[t] = np.einsum("hkv,hk->hv", S, q[t])
        state[sub.write_slots[s]] = S
    return out.reshape(len(v), -1)


def regroup_2x2(x: Array, sizes: list[tuple[int, int]]) -> Array:
    windows, start = [], 0
    for h, w in sizes:
        grid = x[start : start + h * w].reshape(h // 2, 2, w // 2, 2, -1)
        windows.append(grid.transpose(0, 2, 1, 3, 4).reshape(h * w // 4, -1))
        start += h * w
    return np.concatenate(windows)
