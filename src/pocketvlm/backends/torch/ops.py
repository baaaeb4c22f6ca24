"""`TorchOps` defines what every faster backend must compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional

from pocketvlm.backends.batch import Ints, Step, SubBatch, SubStep
from pocketvlm.backends.ops import Activation, AdaptedRows, AttentionSpec, DeltaSpec, KVCache, Ops
from pocketvlm.backends.torch.delta import chunked_delta_rule, recurrent_delta_rule
from pocketvlm.errors import BackendError

Tensor = torch.Tensor

RECURRENT_ROWS = 8


class TorchOps(Ops[Tensor, Tensor, Tensor]):
    """See `pocketvlm.backends.ops.Ops` for shapes and sources. Weights keep their type; arithmetic is float32."""

    def embed(self, table: Tensor, ids: Tensor) -> Tensor:
        return table[ids].float()

    def take(self, x: Tensor, rows: Tensor) -> Tensor:
        return x[rows]

    def put(self, x: Tensor, rows: Tensor, values: Tensor) -> None:
        x[rows] = values

    def copy_slots(self, arrays: Sequence[Tensor], copies: Sequence[Sequence[Tensor]], part: SubStep[Tensor]) -> None:
        assert part.host.copy_slots is not None
        for slot, copy in zip(part.host.write_slots.tolist(), part.host.copy_slots.tolist(), strict=True):
            if copy >= 0:
                for array, target in zip(arrays, copies[copy], strict=True):
                    target[0] = array[slot].flatten()

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        activation: Activation | None = None,
        adapters: Sequence[AdaptedRows[Tensor, Tensor, Tensor]] = (),
    ) -> Tensor:
        y = functional.linear(x, weight.float(), bias)
        if activation is not None:
            if adapters and residual is not None:
                raise ValueError("adapters, an activation and a residual need two operations")
            self.add_updates(x, (weight,), (y,), adapters)
            return self.activate(y, activation) if residual is None else self.activate(y, activation) + residual
        if residual is not None:
            y = y + residual
        self.add_updates(x, (weight,), (y,), adapters)
        return y

    def add_updates(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        outs: Sequence[Tensor],
        adapters: Sequence[AdaptedRows[Tensor, Tensor, Tensor]],
    ) -> None:
        for adapted in adapters:
            rows = slice(None) if adapted.rows is None else adapted.rows
            for weight, out in zip(weights, outs, strict=True):
                update = adapted.updates.get(weight)
                if update is not None:
                    out[rows] += update.scale * (x[rows] @ update.a.T @ update.b_transposed)

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        if activation == "silu":
            return functional.silu(x)
        return functional.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (1 + weight)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return functional.layer_norm(x, (x.shape[-1],), weight, bias, eps)

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        return functional.silu(gate) * up

    def attention_inputs(
        self,
        query_gate: Tensor,
        key: Tensor,
        value: Tensor,
        q_norm: Tensor,
        k_norm: Tensor,
        cache: KVCache[Tensor],
        step: Step[Tensor],
        spec: AttentionSpec,
    ) -> tuple[Tensor, Tensor]:
        rows = query_gate.shape[0]
        kv_heads, head_dim = cache.keys.shape[1], cache.keys.shape[3]
        query, gate = query_gate.view(rows, -1, 2, head_dim).unbind(2)
        key = key.view(rows, kv_heads, head_dim)
        half = torch.arange(0, spec.rotary_dim, 2, dtype=torch.float32, device=query.device)
        inverse = 1.0 / (spec.rope_theta ** (half / spec.rotary_dim))
        positions = step.rotary_positions.float()
        if positions.dim() == 2:  # each pair of dims has its own axis: [3, T] -> [T, pairs]
            positions = positions[torch.from_numpy(spec.rotary_axes()).long().to(query.device)].T
        else:
            positions = positions[:, None]
        angle = (positions * inverse)[:, None]
        query = rotate(self.rms_norm(query, q_norm, spec.eps), angle)
        key = rotate(self.rms_norm(key, k_norm, spec.eps), angle)
        pages, inside = cache_rows(step)
        cache.keys[pages, :, inside] = key
        cache.values[pages, :, inside] = value.view(rows, kv_heads, head_dim)
        return query, gate.reshape(rows, -1)

    def attention(self, query: Tensor, cache: KVCache[Tensor], step: Step[Tensor]) -> Tensor:
        rows, heads, head_dim = query.shape
        out = torch.empty_like(query)
        batch = step.host
        for s in range(batch.sequences):
            begin, end, context = int(batch.offsets[s]), int(batch.offsets[s + 1]), int(batch.context_lens[s])
            length = context + end - begin
            pages = step.pages[s, : -(-length // batch.page_size)]
            group = heads // cache.keys.shape[1]
            k = cache.keys[pages].transpose(1, 2).flatten(0, 1)[:length].repeat_interleave(group, dim=1)
            v = cache.values[pages].transpose(1, 2).flatten(0, 1)[:length].repeat_interleave(group, dim=1)
            score = torch.einsum("qhd,khd->hqk", query[begin:end], k) * head_dim**-0.5
            position = torch.arange(context, length, device=query.device)
            later = torch.arange(length, device=query.device)[None, :] > position[:, None]
            weight = score.masked_fill(later, float("-inf")).softmax(-1)
            out[begin:end] = torch.einsum("hqk,khd->qhd", weight, v)
        return out.view(rows, -1)

    def sigmoid_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * torch.sigmoid(gate)

    def attention_views(self, query: Tensor, key: Tensor, value: Tensor, lengths: Ints, heads: int) -> Tensor:
        out = []
        sizes = [int(n) for n in lengths]
        for view in zip(*(torch.split(x, sizes) for x in (query, key, value)), strict=True):
            q, k, v = (x.view(x.shape[0], heads, -1).transpose(0, 1) for x in view)
            weight = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1)
            out.append((weight @ v).transpose(0, 1).flatten(1))
        return torch.cat(out)

    def conv_silu(self, x: Tensor, weight: Tensor, state: Tensor, part: SubStep[Tensor]) -> Tensor:
        width = len(weight)
        out = torch.empty_like(x)
        for begin, end, read, write in runs(part.host):
            before = torch.zeros_like(state[write]) if read is None else state[read]
            window = torch.cat([before, x[begin:end]])
            state[write] = window[window.shape[0] - (width - 1) :]
            taps = [window[j : j + end - begin] * weight[j] for j in range(width)]
            out[begin:end] = functional.silu(torch.stack(taps).sum(0))
        return out

    def gated_delta_rule(
        self,
        mixed: Tensor,
        b: Tensor,
        a: Tensor,
        a_log: Tensor,
        dt_bias: Tensor,
        state: Tensor,
        part: SubStep[Tensor],
        spec: DeltaSpec,
    ) -> Tensor:
        key_heads, value_heads, key_dim, value_dim = spec.key_heads, spec.value_heads, spec.key_dim, spec.value_dim
        rows = mixed.shape[0]
        widths = [key_heads * key_dim, key_heads * key_dim, value_heads * value_dim]
        q, k, v = torch.split(mixed, widths, dim=1)
        repeat = value_heads // key_heads
        q = unit(q.view(rows, key_heads, key_dim)).repeat_interleave(repeat, 1) * key_dim**-0.5
        k = unit(k.view(rows, key_heads, key_dim)).repeat_interleave(repeat, 1)
        v = v.view(rows, value_heads, value_dim)
        beta = torch.sigmoid(b)
        decay = -torch.exp(a_log) * functional.softplus(a + dt_bias)
        out = torch.empty_like(v)
        for begin, end, read, write in runs(part.host):
            first = torch.zeros_like(state[write]) if read is None else state[read]
            rule = recurrent_delta_rule if end - begin <= RECURRENT_ROWS else chunked_delta_rule
            part_rows = slice(begin, end)
            out[part_rows], state[write] = rule(
                q[part_rows], k[part_rows], v[part_rows], beta[part_rows], decay[part_rows], first
            )
        return out.view(rows, -1)

    def gated_rms_norm(self, x: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
        heads = x.view(x.shape[0], -1, weight.shape[0])
        normed = heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + eps) * weight
        return normed.view_as(x) * functional.silu(z)

    def regroup_2x2(self, x: Tensor, sizes: Ints) -> Tensor:
        views = torch.split(x, [int(h) * int(w) for h, w in sizes])
        out = []
        for view, (rows, cols) in zip(views, sizes, strict=True):
            grid = view.view(int(rows) // 2, 2, int(cols) // 2, 2, -1)
            out.append(grid.permute(0, 2, 1, 3, 4).reshape(view.shape[0] // 4, -1))
        return torch.cat(out)

    def window_mean(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], 4, -1).mean(1)


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last axis, with 1e-6 inside the root (docs/model.md 3.5.3)."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate the first 2 * angle.shape[-1] dims of x [T, heads, d] by angle [T, 1, n] (docs/model.md 3.3)."""
    n = angle.shape[-1]
    first, second, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def cache_rows(step: Step[Tensor]) -> tuple[Tensor, Tensor]:
    """The page of each row of a step and the row's index in it, [T] each. Raises BackendError for a missing page."""
    batch = step.host
    for s, length in enumerate((batch.context_lens + np.diff(batch.offsets)).tolist()):
        count = -(-length // batch.page_size)
        if count > batch.pages.shape[1] or (batch.pages[s, :count] < 0).any():
            raise BackendError("a row's position has no page: the page table is shorter than the sequence")
    lengths = step.offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    position = torch.arange(len(owner), device=lengths.device) - step.offsets[owner] + step.context_lens[owner]
    return step.pages[owner, position // step.host.page_size], position % step.host.page_size


def runs(part: SubBatch) -> Iterator[tuple[int, int, int | None, int]]:
    """First row, last row (exclusive), read slot (None for no state yet) and write slot of each sequence."""
    for s, (begin, end) in enumerate(pairwise(part.offsets.tolist())):
        yield begin, end, int(part.read_slots[s]) if part.context_lens[s] else None, int(part.write_slots[s])
