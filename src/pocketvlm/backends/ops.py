"""`Ops` is the contract of the network's mathematics; `Backend` (backend.py) adds weights, memory and steps.

A: arrays of the backend, float32 (NumPy for `native`, torch.Tensor for `torch`). W: its handles of prepared weights.
I: its index arrays, made by `Backend.indices` and `Backend.step`; arrays of sizes (`lengths`, `sizes`) are NumPy int32
everywhere, because shapes depend on them. Rows are tokens of several sequences (or patches of several views) laid end
to end. No operation retains its arguments, and none reads memory that its arguments do not name: outputs and scratch
may hold any bits before the call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from pocketvlm.backends.batch import Ints, Step, SubStep


class Array(Protocol):
    """What the network does with an array besides operations: it slices rows and reshapes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""

    def __len__(self) -> int:
        """Length of the first axis."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Chosen rows."""

    @property
    def reshape(self) -> Callable[..., Any]:
        """The same values in another shape."""


A = TypeVar("A", bound=Array)
W = TypeVar("W")
I = TypeVar("I")  # noqa: E741
Activation = Literal["gelu_tanh", "gelu_erf", "silu"]


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Constants of a full-attention layer (docs/model.md 3.3).

    mrope_section: how many rotary pairs follow time, height and width, for three rows of rotary positions; they are
    interleaved: pair i follows height if i % 3 == 1 and i < 3 * section[1], width if i % 3 == 2 and i < 3 * section[2],
    else time.
    """

    rotary_dim: int
    rope_theta: float
    eps: float
    mrope_section: tuple[int, int, int] | None = None

    def rotary_axes(self) -> Ints:
        """The row of the rotary positions that each pair follows, int32 [rotary_dim / 2]. Raises ValueError."""
        pairs = self.rotary_dim // 2
        if self.mrope_section is None or sum(self.mrope_section) != pairs:
            raise ValueError(
                f"three rows of rotary positions need an mrope_section of {pairs}, not {self.mrope_section}"
            )
        axes = np.zeros(pairs, np.int32)
        for axis in (1, 2):
            axes[axis : 3 * self.mrope_section[axis] : 3] = axis
        return axes


@dataclass(frozen=True, slots=True)
class DeltaSpec:
    """Sizes of a Gated DeltaNet layer (docs/model.md 3.5)."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True, eq=False)
class LowRank(Generic[A]):
    """An adapter's update of one matrix: W becomes W + scale * b a, with a [rank, in] and b [out, rank].

    b_transposed: b as [rank, out], the layout that operations read.
    """

    a: A
    b_transposed: A
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedRows(Generic[A, W, I]):
    """Rows of a step that have one adapter. updates: its update of each matrix that it changes, by weight handle.

    rows: int32 [n], ascending; None means all rows.
    """

    rows: I | None
    updates: Mapping[W, LowRank[A]]


@dataclass(frozen=True, slots=True, eq=False)
class KVCache(Generic[A]):
    """Keys and values of one full-attention layer, [pages, kv_heads, page_size, head_dim], in the type of the cache.

    key_scales, value_scales: float32 [pages, kv_heads, page_size] where numbers are int8, which these scales multiply;
    each is written with its row and never changed. Else None.
    """

    keys: A
    values: A
    key_scales: A | None = None
    value_scales: A | None = None

    @property
    def arrays(self) -> tuple[A, ...]:
        """The arrays that pages index."""
        if self.key_scales is None or self.value_scales is None:
            return self.keys, self.values
        return self.keys, self.values, self.key_scales, self.value_scales


class Ops(ABC, Generic[A, W, I]):
    """The operations. Shapes in brackets; T rows, H hidden size, everything float32 unless said otherwise."""

    @abstractmethod
    def embed(self, table: W, ids: I) -> A:
        """Rows `ids` [T] of a matrix [rows, H] -> [T, H]."""

    @abstractmethod
    def take(self, x: A, rows: I) -> A:
        """Rows `rows` [n] of x [T, H] -> [n, H]."""

    @abstractmethod
    def put(self, x: A, rows: I, values: A) -> None:
        """Write values [n, H] over rows `rows` [n] of x [T, H] in place (docs/model.md 3.9)."""

    @abstractmethod
    def copy_slots(self, arrays: Sequence[A], copies: Sequence[Sequence[A]], part: SubStep[I]) -> None:
        """Copy slot write_slots[s] of each array to the copy copy_slots[s], for each s where that is not -1.

        arrays: [slots, ...] each. copies: for each copy, one array [1, n] for each of `arrays`, written in place.
        """

    @abstractmethod
    def concat(self, parts: Sequence[A]) -> A:
        """Arrays [n, H] end to end -> [sum of n, H]."""

    @abstractmethod
    def linear(
        self,
        x: A,
        weight: W,
        bias: A | None = None,
        residual: A | None = None,
        activation: Activation | None = None,
        adapters: Sequence[AdaptedRows[A, W, I]] = (),
    ) -> A:
        """activation(x [T, in] @ weight[out, in]^T + bias [out]) + residual [T, out] -> [T, out], fp32 accumulation.

        adapters: rows to which an adapter's update of `weight` is added (`add_updates`), after the residual or before
        an activation, which excludes a residual then. Other rows have the bits that they have without adapters, but
        for an activation, whose rounding may differ.
        """

    @abstractmethod
    def add_updates(
        self, x: A, weights: Sequence[W], outs: Sequence[A], adapters: Sequence[AdaptedRows[A, W, I]]
    ) -> None:
        """Add adapters' updates of some weights to products of x [T, in] with these, in place: outs, [T, out] each.

        outs[i][r] += scale * (x[r] @ a^T) @ b^T with the update of weights[i] by the adapter of row r, where there is
        one; each row has at most one adapter. A row's bits do not depend on other rows (Hu et al. 2021, LoRA, 4.1).
        """

    @abstractmethod
    def activate(self, x: A, activation: Activation) -> A:
        """The activation of each element of x [T, n]."""

    def linears(
        self,
        x: A,
        weights: Sequence[W],
        biases: Sequence[A | None] = (),
        adapters: Sequence[AdaptedRows[A, W, I]] = (),
    ) -> Sequence[A]:
        """Several products of the same rows: `linear` of each; missing biases are none."""
        return [
            self.linear(x, weight, bias, adapters=adapters)
            for weight, bias in zip_longest(weights, biases[: len(weights)])
        ]

    # Operations on the rows of a product's input, together with the products: a backend may do them while it quantizes
    # the rows. The results have the bits of the two calls that each of these stands for.

    def rms_norm_linears(
        self,
        x: A,
        norm: A,
        eps: float,
        weights: Sequence[W],
        adapters: Sequence[AdaptedRows[A, W, I]] = (),
    ) -> Sequence[A]:
        """`linears` of rms_norm(x, norm, eps)."""
        return self.linears(self.rms_norm(x, norm, eps), weights, adapters=adapters)

    def rms_norm_swiglu(
        self,
        x: A,
        norm: A,
        eps: float,
        gate: W,
        up: W,
        adapters: Sequence[AdaptedRows[A, W, I]] = (),
    ) -> A:
        """`swiglu` of the products of rms_norm(x, norm, eps) with `gate` and `up`: [T, n] (docs/model.md 3.2)."""
        return self.swiglu(*self.rms_norm_linears(x, norm, eps, (gate, up), adapters))

    def layer_norm_linears(
        self,
        x: A,
        norm: tuple[A, A],
        eps: float,
        weights: Sequence[W],
        biases: Sequence[A | None] = (),
        activation: Activation | None = None,
        adapters: Sequence[AdaptedRows[A, W, I]] = (),
    ) -> Sequence[A]:
        """Products of layer_norm(x, *norm, eps): `linears`, or `linear` of each with an activation."""
        rows = self.layer_norm(x, *norm, eps)
        if activation is None:
            return self.linears(rows, weights, biases, adapters)
        return [
            self.linear(rows, weight, bias, activation=activation, adapters=adapters)
            for weight, bias in zip_longest(weights, biases[: len(weights)])
        ]

    def gated_rms_norm_linear(
        self,
        x: A,
        z: A,
        norm: A,
        eps: float,
        weight: W,
        residual: A,
        adapters: Sequence[AdaptedRows[A, W, I]] = (),
    ) -> A:
        """`linear` of gated_rms_norm(x, z, norm, eps) with a residual."""
        return self.linear(self.gated_rms_norm(x, z, norm, eps), weight, residual=residual, adapters=adapters)

    def sigmoid_gate_linear(
        self, x: A, gate: A, weight: W, residual: A, adapters: Sequence[AdaptedRows[A, W, I]] = ()
    ) -> A:
        """`linear` of sigmoid_gate(x, gate) with a residual."""
        return self.linear(self.sigmoid_gate(x, gate), weight, residual=residual, adapters=adapters)

    @abstractmethod
    def rms_norm(self, x: A, weight: A, eps: float) -> A:
        """x * rsqrt(mean(x^2) + eps) * (1 + weight), [T, H]: the text model's zero-centred norm (docs/model.md 3.1)."""

    @abstractmethod
    def layer_norm(self, x: A, weight: A, bias: A, eps: float) -> A:
        """(x - mean) * rsqrt(var + eps) * weight + bias over the last axis [T, H] (docs/model.md 3.1)."""

    @abstractmethod
    def swiglu(self, gate: A, up: A) -> A:
        """silu(gate) * up, elementwise [T, n] (docs/model.md 3.2)."""

    @abstractmethod
    def attention_inputs(
        self,
        query_gate: A,
        key: A,
        value: A,
        q_norm: A,
        k_norm: A,
        cache: KVCache[A],
        step: Step[I],
        spec: AttentionSpec,
    ) -> tuple[A, A]:
        """Split, normalise, rotate, and write the KV cache (docs/model.md 3.3).

        query_gate [T, heads * 2 * head_dim]: per head first the query, then the gate. key, value [T, kv_heads *
        head_dim]. q_norm, k_norm [head_dim], zero-centred. The cache is written in place at each row's position in its
        sequence, rounded to its type. Rotation: first `rotary_dim` dims of each head, pairs (i, i + rotary_dim / 2),
        inv_freq_i = theta^(-2i / rotary_dim), by the row's rotary position; of three rows of positions each pair
        follows the one that `mrope_section` says.
        Returns query [T, heads, head_dim] and gate [T, heads * head_dim].
        """

    @abstractmethod
    def attention(self, query: A, cache: KVCache[A], step: Step[I]) -> A:
        """Causal attention over the pages; query [T, heads, head_dim] -> [T, heads * head_dim].

        Keys and values are those of the cache, also of the step's own rows, so results do not depend on chunks.
        The row at position p attends to positions 0..p of its sequence; query head h uses kv head h // (heads /
        kv_heads); scale head_dim^-0.5 (docs/model.md 3.3).
        """

    @abstractmethod
    def sigmoid_gate(self, x: A, gate: A) -> A:
        """x * sigmoid(gate), elementwise [T, n] (docs/model.md 3.3)."""

    @abstractmethod
    def attention_views(self, query: A, key: A, value: A, lengths: Ints, heads: int) -> A:
        """Bidirectional attention inside each view: q, k, v [T, heads * head_dim]; lengths int32 [views] sum to T.

        Scale head_dim^-0.5; no row sees another view (docs/model.md 3.6). Returns [T, heads * head_dim].
        """

    @abstractmethod
    def conv_silu(self, x: A, weight: A, state: A, part: SubStep[I]) -> A:
        """Depthwise causal convolution then SiLU (docs/model.md 3.5.2): x [T, C], weight [width, C] -> [T, C].

        weight[width - 1] multiplies the current row. state [slots, width - 1, C] holds the last inputs (oldest first)
        before convolution: read from the read slots (zero where the context length is 0), written to the write slots.
        """

    @abstractmethod
    def gated_delta_rule(
        self,
        mixed: A,
        b: A,
        a: A,
        a_log: A,
        dt_bias: A,
        state: A,
        part: SubStep[I],
        spec: DeltaSpec,
    ) -> A:
        """The gated delta rule (docs/model.md 3.5.3-3.5.5), state and sums in fp32; chunked or recurrent, same numbers.

        mixed [T, 2 * key_heads * key_dim + value_heads * value_dim] = q | k | v after conv_silu; q and k are
        L2-normalised (eps 1e-6 inside the root) and q scaled by key_dim^-0.5 here. b, a [T, value_heads];
        a_log, dt_bias [value_heads]. Value head h uses key head h // (value_heads / key_heads). state
        [slots, value_heads, key_dim, value_dim]: read and write slots as in `conv_silu`.
        Returns [T, value_heads * value_dim].
        """

    @abstractmethod
    def gated_rms_norm(self, x: A, z: A, weight: A, eps: float) -> A:
        """Per head: weight * (x * rsqrt(mean(x^2) + eps)) * silu(z); weight [d] is not offset (docs/model.md 3.1).

        x, z [T, heads * d]; the norm runs over each d.
        """

    @abstractmethod
    def regroup_2x2(self, x: A, sizes: Ints) -> A:
        """Each view's row-major grid into 2x2 windows (docs/model.md 3.7).

        x [T, C], sizes int32 [views, 2] -> [T / 4, 4 * C].
        Windows row-major, inside a window (0,0), (0,1), (1,0), (1,1). Both sides of every view are even.
        """

    @abstractmethod
    def window_mean(self, x: A) -> A:
        """Mean of the four tokens of each window: [n, 4 * C] -> [n, C] (docs/model.md 3.7)."""
