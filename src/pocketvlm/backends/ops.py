"""`Ops` is the contract of a backend: the operations of the network and the values that they share.

A backend is one folder whose `create(threads)` returns an object with these methods. Arrays are float32 and belong to
the backend (NumPy for `native`, torch.Tensor for `torch`); integer index arrays are NumPy int32 everywhere. Rows are
tokens of several sequences (or patches of several views) laid end to end. No operation keeps a reference to its
arguments, and none reads memory that its arguments do not name: outputs and scratch may hold any bits before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.options import Scheme
from pocketvlm.schemes import Role
from pocketvlm.tensors import Tensor

Array = Any
Weight = Any
Activation = Literal["gelu_tanh", "gelu_erf", "silu"]
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class CacheLocation:
    """Where prepared weights are cached, and what they are prepared from.

    directory: where files go; made where it is missing. model, path: what the user called the checkpoint, and where it
    lies, for the list of files. fingerprint: changes with the content of the checkpoint.
    """

    directory: Path
    model: str
    path: str
    fingerprint: str


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Which rows of a ragged batch belong to which sequence, and where those sequences keep their state.

    Neighbours that share a slot are parts of one sequence, each going on where the one before ends. Only the operations
    that carry a state from row to row must take them one after the other (`turns`).

    offsets: int32 [sequences + 1], rows offsets[s]..offsets[s+1] belong to sequence s, in order, at least one each.
    positions: int32 [rows], place of each row in its sequence: context[s], context[s] + 1, ...
    context: int32 [sequences], tokens of the sequence that earlier steps have already put into the state. Where it is 0
        the slot's old content is stale and counts as zero.
    pages: int32 [sequences, n], page table: token t of sequence s lives in page pages[s, t // page_size] at row
        t % page_size; unused entries are -1.
    slots: int32 [sequences], index of the recurrent and the convolution state.
    kept: where to copy what the slot of some sequence holds behind its last row: arrays [1, n], layer by layer.
    """

    offsets: Ints
    positions: Ints
    context: Ints
    pages: Ints
    slots: Ints
    page_size: int
    kept: Mapping[int, Iterator[Array]] = field(default_factory=dict)

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return len(self.slots)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.offsets[-1])

    def turns(self) -> list[tuple[slice, Batch]]:
        """The batch cut between parts of one sequence: rows, and a batch of them in which every slot is there once."""
        slots = self.slots.tolist()
        cuts = [i for i in range(1, len(slots)) if slots[i] == slots[i - 1]]
        if not cuts:
            return [(slice(None), self)]
        found = []
        for first, last in pairwise((0, *cuts, len(slots))):
            start, stop = int(self.offsets[first]), int(self.offsets[last])
            part = Batch(
                self.offsets[first : last + 1] - self.offsets[first],
                self.positions[start:stop],
                self.context[first:last],
                self.pages[first:last],
                self.slots[first:last],
                self.page_size,
                {i - first: copies for i, copies in self.kept.items() if first <= i < last},
            )
            found.append((slice(start, stop), part))
        return found


class Ops(Protocol):
    """What a backend does. Shapes in brackets; T rows, H hidden size, everything float32 unless said otherwise."""

    name: str
    scheme: Scheme
    # Patches that the vision side gives to one pass, of as many views as that is: more would take longer for each.
    patches_at_once: int

    def describe(self) -> dict[str, str]:
        """What was chosen and why (instruction set, threads, weight type), for `pocketvlm info`."""

    def with_scheme(self, scheme: Scheme) -> Ops:
        """The same threads and kernels for weights that are stored and multiplied as `scheme` says.

        Raises OptionError for the scheme of another backend.
        """

    def weight_cache(
        self, location: CacheLocation | None, tensors: Mapping[str, Tensor]
    ) -> AbstractContextManager[None]:
        """A block in which `prepare` may load prepared weights from a file, which is written when the block ends well.

        tensors: all that will be prepared. location: None means that there is no cache. A backend whose handles cost
        nothing to make does nothing here.
        """

    def prepare(self, tensor: Tensor, role: Role) -> Weight:
        """Turn a tensor into this backend's handle for its role; nothing but the role says what it is for.

        Matrices [out, in] ("matrix", "gate", "head", "vision_matrix", "patch_embedding") serve `linear`, an "embedding"
        or a "position_embedding" [rows, H] `embed`, a "tied_embedding" both. "norm", "conv" and "vector" (any shape)
        become a plain float32 array of that shape. Quantized values are those of `dequantize`, within the rounding of
        the scales to the backend's own type. Raises BackendError for a quantized tensor that the kernels cannot
        multiply, and ValueError for a dense one that the scheme stores quantized: see `pocketvlm.quantize`.
        """

    def product(self, tensor: Tensor, role: Role) -> str:
        """How a tensor is multiplied, or looked up, after `prepare`, and why, in words; reads no values."""

    def recorded(self, work: Callable[[], Array]) -> tuple[Array, Callable[[], Array]]:
        """Run `work` and return its result, and a function that does the same again with less effort.

        The function works on the same arrays, whose contents may have changed in between, and does nothing of `work`
        but operations of this backend; whoever holds it keeps those arrays alive. One result of it lives until the next
        call of any recorded function. A backend that cannot record returns `work` itself.
        """

    def return_memory(self) -> None:
        """Give freed memory back to the system; called when nothing runs after something large did."""

    def zeros(self, *shape: int) -> Array:
        """A zeroed float32 array, for states."""

    def from_numpy(self, array: NDArray[np.float32]) -> Array:
        """A float32 NumPy array as this backend's array (may share memory)."""

    def to_numpy(self, array: Array) -> NDArray[np.float32]:
        """This backend's array as a float32 NumPy array (may share memory)."""

    def embed(self, table: Weight, ids: Ints) -> Array:
        """Rows `ids` [T] of a matrix [rows, H] -> [T, H]."""

    def take(self, x: Array, rows: Ints) -> Array:
        """Rows `rows` [n] of x [T, H] -> [n, H]."""

    def put(self, x: Array, rows: Ints, values: Array) -> None:
        """Write values [n, H] over rows `rows` [n] of x [T, H] in place (docs/model.md 3.9)."""

    def concat(self, parts: Sequence[Array]) -> Array:
        """Arrays [n, H] end to end -> [sum of n, H]."""

    def linear(
        self,
        x: Array,
        weight: Weight,
        bias: Array | None = None,
        residual: Array | None = None,
        activation: Activation | None = None,
    ) -> Array:
        """activation(x [T, in] @ weight[out, in]^T + bias [out]) + residual [T, out] -> [T, out], fp32 accumulation."""

    def linears(self, x: Array, weights: Sequence[Weight], biases: Sequence[Array | None] = ()) -> Sequence[Array]:
        """Several products of the same rows: `linear(x, weight, bias)` of each; missing biases are none."""

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """x * rsqrt(mean(x^2) + eps) * (1 + weight), [T, H]: the text model's zero-centred norm (docs/model.md 3.1)."""

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        """(x - mean) * rsqrt(var + eps) * weight + bias over the last axis [T, H] (docs/model.md 3.1)."""

    def swiglu(self, gate: Array, up: Array) -> Array:
        """silu(gate) * up, elementwise [T, n] (docs/model.md 3.2)."""

    def attention_inputs(
        self,
        query_gate: Array,
        key: Array,
        value: Array,
        q_norm: Array,
        k_norm: Array,
        keys: Array,
        values: Array,
        batch: Batch,
        rotary_dim: int,
        rope_theta: float,
        eps: float,
    ) -> tuple[Array, Array]:
        """Split, normalise, rotate, and write the KV cache (docs/model.md 3.3).

        query_gate [T, heads * 2 * head_dim]: per head first the query, then the gate. key, value
        [T, kv_heads * head_dim]. q_norm, k_norm [head_dim], zero-centred. keys, values
        [pages, page_size, kv_heads, head_dim] are written in place at each row's position. Rotation: first `rotary_dim`
        dims of each head, pairs (i, i + rotary_dim / 2), inv_freq_i = theta^(-2i / rotary_dim), angles of positions.
        Returns query [T, heads, head_dim] and gate [T, heads * head_dim].
        """

    def attention(self, query: Array, keys: Array, values: Array, batch: Batch) -> Array:
        """Causal attention over the pages; query [T, heads, head_dim] -> [T, heads * head_dim].

        The row at position p attends to positions 0..p of its sequence; query head h uses kv head h // (heads /
        kv_heads); scale head_dim^-0.5 (docs/model.md 3.3).
        """

    def sigmoid_gate(self, x: Array, gate: Array) -> Array:
        """x * sigmoid(gate), elementwise [T, n] (docs/model.md 3.3)."""

    def attention_views(self, query: Array, key: Array, value: Array, lengths: Ints, heads: int) -> Array:
        """Bidirectional attention inside each view: q, k, v [T, heads * head_dim]; lengths int32 [views] sum to T.

        Scale head_dim^-0.5; no row sees another view (docs/model.md 3.6). Returns [T, heads * head_dim].
        """

    def conv_silu(self, x: Array, weight: Array, state: Array, batch: Batch) -> Array:
        """Depthwise causal convolution then SiLU (docs/model.md 3.5.2): x [T, C], weight [width, C] -> [T, C].

        weight[width - 1] multiplies the current row. state [slots, width - 1, C] holds the last inputs (oldest first)
        before convolution and is updated in place; for a sequence with context 0 it counts as zero.
        """

    def gated_delta_rule(
        self,
        mixed: Array,
        b: Array,
        a: Array,
        a_log: Array,
        dt_bias: Array,
        state: Array,
        batch: Batch,
        key_heads: int,
        value_heads: int,
        key_dim: int,
        value_dim: int,
    ) -> Array:
        """The gated delta rule (docs/model.md 3.5.3-3.5.5), fp32 throughout; chunked or recurrent, same numbers.

        mixed [T, 2 * key_heads * key_dim + value_heads * value_dim] = q | k | v after conv_silu; q and k are
        L2-normalised (eps 1e-6 inside the root) and q scaled by key_dim^-0.5 here. b, a [T, value_heads];
        a_log, dt_bias [value_heads]. Value head h uses key head h // (value_heads / key_heads). state
        [slots, value_heads, key_dim, value_dim], updated in place; counts as zero for a sequence with context 0.
        Returns [T, value_heads * value_dim].
        """

    def gated_rms_norm(self, x: Array, z: Array, weight: Array, eps: float) -> Array:
        """Per head: weight * (x * rsqrt(mean(x^2) + eps)) * silu(z); weight [d] is not offset (docs/model.md 3.1).

        x, z [T, heads * d]; the norm runs over each d.
        """

    def regroup_2x2(self, x: Array, sizes: Ints) -> Array:
        """Each view's row-major grid into 2x2 windows (docs/model.md 3.7).

        x [T, C], sizes int32 [views, 2] -> [T / 4, 4 * C].
        Windows row-major, inside a window (0,0), (0,1), (1,0), (1,1). Both sides of every view are even.
        """

    def window_mean(self, x: Array) -> Array:
        """Mean of the four tokens of each window: [n, 4 * C] -> [n, C] (docs/model.md 3.7)."""
