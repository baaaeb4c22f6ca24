"""`TorchOps` defines what every faster backend must compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pocketvlm.backends.ops import Activation, Batch, CacheLocation, Ints
from pocketvlm.backends.options import Scheme, choose
from pocketvlm.backends.torch.delta import chunked_delta_rule, recurrent_delta_rule
from pocketvlm.errors import BackendError, OptionError
from pocketvlm.schemes import ARRAY_ROLES, Role
from pocketvlm.tensors import DenseTensor
from pocketvlm.tensors import Tensor as WeightTensor

Tensor = torch.Tensor

RECURRENT_ROWS = 8


class TorchOps:
    """See `pocketvlm.backends.ops.Ops` for shapes and sources. Weights keep their type; arithmetic is float32."""

    name = "torch"

    def __init__(self, threads: int | None = None, device: str | None = None, scheme: Scheme | None = None) -> None:
        self.scheme = scheme or choose("torch")
        if self.scheme.backend != self.name:
            raise OptionError(f"a scheme of backend {self.scheme.backend!r} does not fit backend {self.name!r}")
        if device is not None and device.split(":")[0] not in ("cpu", "cuda"):
            raise OptionError(f"device={device!r} is not known: give cpu, cuda or cuda:N")
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendError(f"device={device!r} is not available: PyTorch sees no CUDA device; use device='cpu'")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.patches_at_once = 1024 if self.device.type == "cpu" else 16 * 1024
        if threads is not None:
            torch.set_num_threads(threads)

    def describe(self) -> dict[str, str]:
        """What runs, and why."""
        why = "CUDA is present" if self.device.type == "cuda" else "no CUDA device"
        return {
            "backend": f"torch {torch.__version__}",
            "device": f"{self.device} ({why})",
            "threads": str(torch.get_num_threads()),
            **self.scheme.describe(),
        }

    def with_scheme(self, scheme: Scheme) -> TorchOps:
        return TorchOps(None, str(self.device), scheme)

    def weight_cache(
        self, location: CacheLocation | None, tensors: Mapping[str, WeightTensor]
    ) -> AbstractContextManager[None]:
        """Nothing is worth caching."""
        return nullcontext()

    def prepare(self, tensor: WeightTensor, role: Role) -> Tensor:
        """A matrix in bfloat16 stays so, anything else becomes float32."""
        if role not in ARRAY_ROLES and isinstance(tensor, DenseTensor) and tensor.dtype == "bf16":
            bits = torch.from_numpy(np.array(tensor.data))
            return bits.view(torch.bfloat16).to(self.device)
        return torch.from_numpy(np.array(tensor.dequantize())).to(self.device)

    def product(self, tensor: WeightTensor, role: Role) -> str:
        stored = tensor.dtype if isinstance(tensor, DenseTensor) else "dequantized to float32"
        return f"float32 products ({stored}: all that this backend does)"

    def recorded(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], Tensor]]:
        """Nothing is recorded: `work` runs each time."""
        return work(), work

    def return_memory(self) -> None:
        """PyTorch keeps what it has."""

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=self.device)

    def from_numpy(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.array(array, dtype=np.float32)).to(self.device)

    def to_numpy(self, array: Tensor) -> NDArray[np.float32]:
        result: NDArray[np.float32] = array.cpu().numpy()
        return result

    def _index(self, values: Ints) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=np.int64)).to(self.device)

    def embed(self, table: Tensor, ids: Ints) -> Tensor:
        return table[self._index(ids)].float()

    def take(self, x: Tensor, rows: Ints) -> Tensor:
        return x[self._index(rows)]

    def put(self, x: Tensor, rows: Ints, values: Tensor) -> None:
        x[self._index(rows)] = values

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        activation: Activation | None = None,
    ) -> Tensor:
        y = functional.linear(x, weight.float(), bias)
        if activation == "gelu_tanh":
            y = functional.gelu(y, approximate="tanh")
        elif activation == "gelu_erf":
            y = functional.gelu(y)
        elif activation == "silu":
            y = functional.silu(y)
        return y if residual is None else y + residual

    def linears(self, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None] = ()) -> list[Tensor]:
        return [self.linear(x, weight, bias) for weight, bias in zip_longest(weights, biases)]

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
        keys: Tensor,
        values: Tensor,
        batch: Batch,
        rotary_dim: int,
        rope_theta: float,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        rows = query_gate.shape[0]
        kv_heads, head_dim = keys.shape[2:]
        query, gate = query_gate.view(rows, -1, 2, head_dim).unbind(2)
        key = key.view(rows, kv_heads, head_dim)
        half = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=self.device)
        inverse = 1.0 / (rope_theta ** (half / rotary_dim))
        angle = self._index(batch.positions).float()[:, None, None] * inverse
        query = rotate(self.rms_norm(query, q_norm, eps), angle)
        key = rotate(self.rms_norm(key, k_norm, eps), angle)
        pages, inside = self._places(batch)
        keys[pages, inside] = key
        values[pages, inside] = value.view(rows, kv_heads, head_dim)
        return query, gate.reshape(rows, -1)

    def _places(self, batch: Batch) -> tuple[Tensor, Tensor]:
        owner = np.repeat(np.arange(batch.sequences), np.diff(batch.offsets))
        pages = batch.pages[owner, batch.positions // batch.page_size]
        if (pages < 0).any():
            raise BackendError("a row's position has no page: the page table is shorter than the sequence")
        return self._index(pages), self._index(batch.positions % batch.page_size)

    def attention(self, query: Tensor, keys: Tensor, values: Tensor, batch: Batch) -> Tensor:
        rows, heads, head_dim = query.shape
        out = torch.empty_like(query)
        for s in range(batch.sequences):
            begin, end = int(batch.offsets[s]), int(batch.offsets[s + 1])
            length = int(batch.context[s]) + end - begin
            pages = self._index(batch.pages[s, : -(-length // batch.page_size)])
            k = keys[pages].flatten(0, 1)[:length].repeat_interleave(heads // keys.shape[2], dim=1)
            v = values[pages].flatten(0, 1)[:length].repeat_interleave(heads // keys.shape[2], dim=1)
            score = torch.einsum("qhd,khd->hqk", query[begin:end], k) * head_dim**-0.5
            position = self._index(batch.positions[begin:end])
            later = torch.arange(length, device=self.device)[None, :] > position[:, None]
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

    def conv_silu(self, x: Tensor, weight: Tensor, state: Tensor, batch: Batch) -> Tensor:
        width = len(weight)
        out = torch.empty_like(x)
        for s in range(batch.sequences):
            begin, end = int(batch.offsets[s]), int(batch.offsets[s + 1])
            slot = int(batch.slots[s])
            before = state[slot] if batch.context[s] else torch.zeros_like(state[slot])
            window = torch.cat([before, x[begin:end]])
            state[slot] = window[window.shape[0] - (width - 1) :]
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
        batch: Batch,
        key_heads: int,
        value_heads: int,
        key_dim: int,
        value_dim: int,
    ) -> Tensor:
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
        for s in range(batch.sequences):
            part = slice(int(batch.offsets[s]), int(batch.offsets[s + 1]))
            slot = int(batch.slots[s])
            first = state[slot] if batch.context[s] else torch.zeros_like(state[slot])
            rule = recurrent_delta_rule if part.stop - part.start <= RECURRENT_ROWS else chunked_delta_rule
            out[part], state[slot] = rule(q[part], k[part], v[part], beta[part], decay[part], first)
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
