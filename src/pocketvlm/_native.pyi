"""The extension module, for `pocketvlm.backends.native` alone.

Arrays are C-contiguous NumPy arrays. The module checks data types, shapes and indices and raises ValueError. The caller
allocates outputs, which may contain any values before. offsets, context_lens, pages, rotary_positions,
read_slots and write_slots are those of a `Batch` or `SubBatch` (backends/batch.py).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int32]
_Bytes = NDArray[np.uint8]
_Float16 = NDArray[np.uint16]  # float16 numbers as their bits
_Int8s = NDArray[np.int8]
_Numbers = _Float16 | _Floats | _Int8s
# Keys and values of a cache in float32 or bfloat16 (its bits), or in int8 with the scales of keys and of values.
_Cache = tuple[_Floats | NDArray[np.uint16], ...] | tuple[_Int8s, _Int8s, _Floats, _Floats]
_Matrix = NDArray[np.float32] | NDArray[np.uint16]  # float32, or bfloat16 as its bits

def usable_isas(for_tests: bool = False) -> list[str]:
    """Instruction sets that this build contains and this machine runs, in order of preference, the best last.

    for_tests: those that are never chosen unless they are named, because they imitate instructions in plain C++.
    """

def unusable_isas() -> dict[str, str]:
    """The instruction sets that this build contains and this machine does not run, each with the reason."""

class QuantizedMatrix:
    """A quantized matrix, packed; it holds references to its arrays. native/quantized/quantized.h explains the layout.

    T = ceil(outputs / 16) packed tiles; depth: the inputs, padded to whole groups (without groups to a multiple of 16).
    """

    def __init__(
        self,
        bits: int,
        group: int,
        inputs: int,
        outputs: int,
        codes: _Bytes,
        group_scale: _Numbers | None,
        group_bias: _Numbers | None,
        row_scale: _Floats,
        codebook: _Bytes | None,
        scale_factor: _Float16 | None = None,
        bias_factor: _Float16 | None = None,
        span: int = 1,
        zero_points: _Int8s | None = None,
        zero: int = 0,
        permutation: _Ints | None = None,
    ) -> None:
        """bits: 4 or 8. group: inputs that share a scale, a multiple of 8; 0 with 8 bits: only a scale for each row.

        codes: packed codes [T, depth * bits / 32, 64]. group_scale, group_bias (added to scale * value):
        [T, depth / group, 16]; those in int8 are multiplied with scale_factor and bias_factor, float16 numbers
        [T, ceil(groups / span), 16] of span groups each, a power of two. row_scale: [T * 16]. codebook: [16], value +
        128 of each 4-bit code, or [2, 16], the high and low part of 256 * high + low, each + 128; None: code - 8.
        zero_points: [T, depth / group, 16], subtracted from a value before it is scaled, or one `zero` for all.
        permutation: [inputs], the input that each column multiplies.
        """

    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    def quantized_alike(self, other: QuantizedMatrix) -> bool:
        """Whether products with two matrices can share quantized activations, in the order of the inputs."""

class Graph:
    """A captured graph: the operations between begin_capture() and end_capture(), for replay on the same memory."""

    def __len__(self) -> int:
        """The number of operations."""

class Runtime:
    """Threads and the kernels of one instruction set."""

    def __init__(self, threads: int, isa: str) -> None:
        """threads: 1 to 1024. isa: one of usable_isas()."""

    @property
    def threads(self) -> int: ...
    def checksum(self, array: _Bytes) -> int:
        """A 64-bit checksum of an array; the same for any number of threads."""

    def return_memory(self) -> None:
        """Give memory that was freed back to the system (with glibc; elsewhere nothing)."""

    def poison(self, on: bool) -> None:
        """For tests: scratch memory starts as NaN in every operation."""

    def begin_capture(self) -> None:
        """Capture the operations of this thread from now on. Raises ValueError if a capture has begun already."""

    def end_capture(self) -> Graph:
        """End the capture and return the graph."""

    def replay(self, graph: Graph) -> None:
        """Run the operations of a graph again, on the same memory."""

    def read_memory(self, data: _Floats) -> None:
        """Microbenchmark: every thread reads its part of an array."""

    def multiply(self, type: str, rounds: int) -> int:
        """Microbenchmark: products in registers alone; returns the number of multiplications and additions.

        type: "int8", "bfloat16" or "float32". Without products of bfloat16 pairs nothing is done: 0.
        """

    def linear(
        self,
        x: _Floats,
        weight: _Matrix,
        bf16: bool,
        bias: _Floats | None,
        residual: _Floats | None,
        activation: int,
        fast: bool,
        out: _Floats,
    ) -> None:
        """out [rows, outputs] = activation(x [rows, inputs] @ weight [outputs, inputs].T + bias [outputs]) + residual.

        bf16: weight is uint16, the bits of bfloat16. activation: 0 none, 1 gelu_tanh, 2 gelu_erf, 3 silu.
        fast: x may be rounded to bfloat16.
        """

    def quantized_linear(
        self,
        x: _Floats,
        weights: list[QuantizedMatrix],
        biases: list[_Floats | None],
        residuals: list[_Floats | None],
        outs: list[_Floats],
        activation: int,
        operation: int = 0,
        other: _Floats | None = None,
        norm_weight: _Floats | None = None,
        norm_bias: _Floats | None = None,
        eps: float = 0.0,
        gates: bool = False,
        updates: list[list[tuple[_Ints | None, NDArray[Any], NDArray[Any], float]]] = ...,
        bf16_updates: bool = False,
    ) -> None:
        """`linear` of x with 1 to 8 quantized matrices; `biases`, `residuals` and `updates` may be shorter lists.

        operation: done with the rows first: 0 none, 1 rms_norm, 2 layer_norm, 3 gated_rms_norm (z is `other`), 4
        sigmoid_gate (the gate is `other`). gates: silu of the product with the first of two matrices times that with
        the second is the one out. With either, the matrices must be `quantized_alike`. updates: of each product
        (rows, a, b, scale) as for `add_low_rank`, added after residuals and before `gates`; exclude an activation.
        """

    def quantized_embed(self, table: QuantizedMatrix, ids: _Ints, out: _Floats, /) -> None:
        """out [n, inputs] = rows ids [n] of a quantized matrix."""

    def quantize(
        self,
        weight: _Matrix,
        bf16: bool,
        bits: int,
        group: int,
        codes: _Bytes,
        group_scale: _Float16 | None,
        row_scale: _Floats,
        codebook: _Bytes | None,
    ) -> None:
        """Round weight [outputs, inputs] to nearest and write codes and scales, shaped as for QuantizedMatrix.

        codebook: [16] with rising values for 4 bits, None for 8.
        """

    def add_low_rank(
        self,
        x: _Floats,
        updates: list[tuple[_Ints | None, NDArray[Any], NDArray[Any], float, _Floats]],
        bf16: bool,
        /,
    ) -> None:
        """For each update (rows, a, b, scale, out): out[rows] += scale * x[rows] @ a.T @ b, in place, each row alone.

        x: [height, inputs]. rows: [n], rising; None: all. a: [rank, inputs in blocks of 32]. b: [blocks of 32 outputs,
        rank, 32]. out: [height, outputs]. bf16: a and b are the bits of bfloat16 as uint16, each block interleaved.
        """

    def activate(self, x: _Floats, activation: int, out: _Floats, /) -> None:
        """out = activation(x), [rows, n]: 1 is GELU by tanh, 2 GELU by erf, 3 SiLU."""

    def embed(self, table: _Matrix | NDArray[np.float16], ids: _Ints, out: _Floats, /) -> None:
        """out [n, width] = rows ids [n] of table [rows, width]: float32, float16, or the bits of bfloat16 as uint16."""

    def take(self, x: _Floats, rows: _Ints, out: _Floats, /) -> None:
        """out [n, width] = rows [n] of x."""

    def put(self, x: _Floats, rows: _Ints, values: _Floats, /) -> None:
        """Rows [n] of x [height, width] = values [n, width], in place."""

    def rms_norm(self, x: _Floats, weight: _Floats, eps: float, out: _Floats, /) -> None:
        """x, out: [rows, width]; weight: [width], zero-centred."""

    def layer_norm(self, x: _Floats, weight: _Floats, bias: _Floats, eps: float, out: _Floats, /) -> None:
        """x, out: [rows, width]; weight, bias: [width]."""

    def gated_rms_norm(self, x: _Floats, z: _Floats, weight: _Floats, eps: float, out: _Floats, /) -> None:
        """x, gate z, out: [rows, heads * width]; weight: [width]."""

    def swiglu(self, gate: _Floats, x: _Floats, out: _Floats, /) -> None:
        """out = silu(gate) * x, all [rows, width]."""

    def sigmoid_gate(self, gate: _Floats, x: _Floats, out: _Floats, /) -> None:
        """out = sigmoid(gate) * x, all [rows, width]."""

    def regroup_2x2(self, x: _Floats, sizes: _Ints, offsets: _Ints, out: _Floats, /) -> None:
        """out [rows / 4, 4 * channels]: 2 x 2 windows of x [rows, channels]; sizes [views, 2], offsets [views + 1]."""

    def window_mean(self, x: _Floats, out: _Floats, /) -> None:
        """out [rows, channels] = mean of the four parts of x [rows, 4 * channels]."""

    def attention_inputs(
        self,
        query_gate: _Floats,
        key: _Floats,
        value: _Floats,
        q_norm: _Floats,
        k_norm: _Floats,
        frequencies: _Floats,
        axes: _Ints,
        cache: _Cache,
        rotary_positions: _Ints,
        offsets: _Ints,
        context_lens: _Ints,
        pages: _Ints,
        page_size: int,
        eps: float,
        query: _Floats,
        gate: _Floats,
        /,
    ) -> None:
        """Split query and gate, normalize, rotate, and write keys and values to their pages.

        query_gate: [rows, heads * 2 * head_dim]. key, value: [rows, kv_heads * head_dim]. q_norm, k_norm: [head_dim].
        frequencies: [rotary_dim / 2]. axes: [rotary_dim / 2], the row of rotary_positions [rows] or [3, rows] that each
        frequency takes. cache, in place: keys and values [pages, kv_heads, page_size, head_dim], scales
        [pages, kv_heads, page_size].
        offsets: [sequences + 1]. context_lens: [sequences]. pages: [sequences, width]. query: [rows, heads, head_dim].
        gate: [rows, heads * head_dim].
        """

    def attention(
        self,
        query: _Floats,
        cache: _Cache,
        offsets: _Ints,
        context_lens: _Ints,
        pages: _Ints,
        page_size: int,
        fast: bool,
        out: _Floats,
        /,
    ) -> None:
        """Causal attention of query [rows, heads, head_dim] over pages, to out [rows, heads * head_dim].

        cache: as for attention_inputs. fast: products may round to bfloat16.
        """

    def attention_views(
        self,
        query: _Floats,
        key: _Floats,
        value: _Floats,
        offsets: _Ints,
        heads: int,
        fast: bool,
        bytes: bool,
        out: _Floats,
        /,
    ) -> None:
        """Attention inside each view; query, key, value, out: [rows, heads * head_dim]; offsets: [views + 1].

        fast: products may round to bfloat16; bytes: scores then to 8 bits.
        """

    def conv_silu(
        self,
        x: _Floats,
        weight: _Floats,
        state: _Floats,
        offsets: _Ints,
        context_lens: _Ints,
        read_slots: _Ints,
        write_slots: _Ints,
        out: _Floats,
        /,
    ) -> None:
        """x, out: [rows, channels]; weight: [taps, channels]; state, in place: [slots, taps - 1, channels]."""

    def gated_delta_rule(
        self,
        mixed: _Floats,
        b: _Floats,
        a: _Floats,
        a_log: _Floats,
        dt_bias: _Floats,
        state: _Floats,
        offsets: _Ints,
        context_lens: _Ints,
        read_slots: _Ints,
        write_slots: _Ints,
        key_heads: int,
        value_heads: int,
        key_dim: int,
        value_dim: int,
        fast: bool,
        out: _Floats,
        /,
    ) -> None:
        """mixed: [rows, 2 * key_heads * key_dim + value_heads * value_dim]. b, a: [rows, value_heads].

        a_log, dt_bias: [value_heads]. state, in place: [slots, value_heads, key_dim, value_dim].
        out: [rows, value_heads * value_dim]. fast: as in `attention_views`.
        """
