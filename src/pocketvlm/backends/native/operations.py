"""`NativeOps` implements `backends/ops.py`: each operation allocates its output and calls a checked kernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.native import slabs
from pocketvlm.backends.native.arena import Arena
from pocketvlm.backends.native.pack import pack
from pocketvlm.backends.native.packed_cache import PackedCache
from pocketvlm.backends.native.packed_matrix import PackedMatrix
from pocketvlm.backends.native.product import product_of
from pocketvlm.backends.ops import Activation, Batch, CacheLocation, Ints
from pocketvlm.backends.options import Scheme, choose
from pocketvlm.errors import OptionError
from pocketvlm.schemes import ARRAY_ROLES, Role
from pocketvlm.tensors import DenseTensor, QuantizedTensor, Tensor

if TYPE_CHECKING:
    from pocketvlm._native import Runtime

Floats = NDArray[np.float32]

_ACTIVATIONS: dict[str | None, int] = {None: 0, "gelu_tanh": 1, "gelu_erf": 2, "silu": 3}
_F32 = np.dtype(np.float32)
_LIMIT_BYTES, _LIMIT_ROUNDS, _LIMIT_RUNS = 256 << 20, 1_000_000, 5
_empty = np.empty


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A prepared matrix [out, in]: float32, or the bits of bfloat16 as uint16 (perhaps in a mapped file)."""

    data: NDArray[Any]
    bf16: bool
    outputs: int

    @property
    def inputs(self) -> int:
        """Columns."""
        return int(self.data.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.data.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Tied:
    """An embedding that is the head's matrix too: a packed matrix to multiply with, rows as stored to look up."""

    packed: PackedMatrix
    rows: Matrix

    @property
    def inputs(self) -> int:
        """Columns."""
        return self.packed.inputs

    @property
    def outputs(self) -> int:
        """Rows."""
        return self.packed.outputs

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        return self.packed.nbytes


@lru_cache(maxsize=8)
def _frequencies(rotary_dim: int, theta: float) -> Floats:
    """1 / theta^(2i / rotary_dim), each step in float32 as the reference rounds it."""
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    frequencies: Floats = np.float32(1.0) / np.power(np.float32(theta), exponents)
    return frequencies


class NativeOps:
    """The contract on NumPy arrays. Safe to call from several threads; operations of one object run one at a time."""

    name = "native"
    # One view of the usual size: what lies between two layers then stays in the cache. Sixteen took 8 % longer.
    patches_at_once = 1024

    def __init__(self, runtime: Runtime, description: dict[str, str], scheme: Scheme | None = None) -> None:
        """description: what is said of the machine. scheme: None means exact arithmetic on the weights as stored."""
        self.scheme = scheme or choose("native", precision="exact")
        if self.scheme.backend != self.name:
            raise OptionError(f"a scheme of backend {self.scheme.backend!r} does not fit backend {self.name!r}")
        self._native = runtime
        self._machine = description
        self._cache_state: dict[str, str] = {}
        self._fast = self.scheme.precision == "fast"
        self._bfloat16 = self.scheme.products == "bfloat16"
        self._cache: PackedCache | None = None
        self._arena = Arena()
        self._recorder: int | None = None  # the thread whose operations are being recorded
        self._kept: list[Ints | Floats] = []

    def with_scheme(self, scheme: Scheme) -> NativeOps:
        return NativeOps(self._native, self._machine, scheme)

    def describe(self) -> dict[str, str]:
        return {"backend": self.name, **self._machine, **self.scheme.describe(), **self._cache_state}

    def limits(self) -> dict[str, float]:
        """What the machine can do at most with these threads and this instruction set, measured now, best of a few.

        read_bandwidth: bytes a second; int8, float32: multiplications and additions a second, in registers alone.
        """

        def best(amount: float, work: Callable[[], object]) -> float:
            found = 0.0
            for _ in range(_LIMIT_RUNS):
                began = time.perf_counter()
                work()
                found = max(found, amount / (time.perf_counter() - began))
            return found

        array = np.ones(_LIMIT_BYTES // 4, _F32)
        operations = {kind: self._native.multiply(kind, 1) * _LIMIT_ROUNDS for kind in (True, False)}
        return {
            "read_bandwidth": best(array.nbytes, lambda: self._native.read_memory(array)),
            "int8": best(operations[True], lambda: self._native.multiply(True, _LIMIT_ROUNDS)),
            "float32": best(operations[False], lambda: self._native.multiply(False, _LIMIT_ROUNDS)),
        }

    @contextmanager
    def weight_cache(self, location: CacheLocation | None, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        packed = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, QuantizedTensor)}
        try:
            if location is not None and packed and self._fast:
                self._cache = PackedCache(self._native, location, self.scheme.weights, packed)
            yield
            if self._cache is not None:
                self._cache_state["packed weights"] = self._cache.finish()
        finally:
            if self._cache is not None:
                self._cache.wait()
            self._cache = None
            self.return_memory()  # of files that were parsed, of matrices that were quantized: some 70 MB

    def prepare(self, tensor: Tensor, role: Role) -> Matrix | PackedMatrix | Tied | Floats:
        if role in ARRAY_ROLES:
            return np.ascontiguousarray(tensor.dequantize())
        if len(tensor.shape) != 2:
            raise ValueError(f"{tensor.name} has shape {list(tensor.shape)}: a matrix has two dimensions")
        if isinstance(tensor, DenseTensor):
            if self.scheme.storage[role].quantization is not None:
                raise ValueError(f"{tensor.name} is dense, but {self.scheme.weights} weights want it quantized")
            return self._stored(tensor)
        if not self._fast or role in ("embedding", "position_embedding"):
            return Matrix(tensor.dequantize(), False, tensor.shape[0])
        packed = self._cache.pack(tensor) if self._cache else pack(self._native, tensor)
        if role == "tied_embedding" and tensor.rounded_from is not None:
            return Tied(packed, self._stored(tensor.rounded_from))
        return packed

    def product(self, tensor: Tensor, role: Role) -> str:
        return product_of(tensor, role, self.scheme)

    def _stored(self, tensor: DenseTensor) -> Matrix:
        if tensor.dtype == "bf16":
            bits = np.require(tensor.data, dtype=np.uint16, requirements=["C", "A"])
            return Matrix(bits, True, bits.shape[0])
        values = np.require(tensor.float32(), dtype=_F32, requirements=["C", "A"])
        return Matrix(values, False, values.shape[0])

    def _new(self, shape: tuple[int, ...]) -> Floats:
        if self._recorder is not None and self._recorder == get_ident():
            return self._arena.take(shape)
        return _empty(shape, _F32)

    def _hold(self, array: Ints | Floats) -> None:
        """Keep an array that an operation made for itself with what is being recorded."""
        if self._recorder is not None:
            self._kept.append(array)

    def recorded(self, work: Callable[[], Floats]) -> tuple[Floats, Callable[[], Floats]]:
        self._native.record()
        self._recorder, self._kept = get_ident(), []
        try:
            result = work()
        finally:
            self._recorder = None
            program = self._native.recorded()
        place, held = self._arena.place(result), (work, self._kept)

        def again(_: object = held) -> Floats:
            self._native.replay(program)
            return place()

        return result, again

    def return_memory(self) -> None:
        self._native.return_memory()

    def zeros(self, *shape: int) -> Floats:
        return slabs.zeros(shape, np.float32)

    def from_numpy(self, array: NDArray[np.float32]) -> Floats:
        return np.ascontiguousarray(array, _F32)

    def to_numpy(self, array: Floats) -> NDArray[np.float32]:
        return array

    def embed(self, table: Matrix | PackedMatrix | Tied, ids: Ints) -> Floats:
        if isinstance(table, Tied):
            table = table.rows
        out = self._new((len(ids), table.inputs))
        if isinstance(table, PackedMatrix):
            self._native.coded_embed(table.handle, ids, out)
        else:
            self._native.embed(table.data, table.bf16, ids, out)
        return out

    def take(self, x: Floats, rows: Ints) -> Floats:
        out = self._new((len(rows), x.shape[-1]))
        self._native.take(x, rows, out)
        return out

    def put(self, x: Floats, rows: Ints, values: Floats) -> None:
        self._native.put(x, rows, values)

    def concat(self, parts: Sequence[Floats]) -> Floats:
        out = self._new((sum(map(len, parts)), parts[0].shape[1]))
        start = 0
        for part in parts:
            rows = np.arange(start, start + len(part), dtype=np.int32)
            self._hold(rows)
            self.put(out, rows, part)
            start += len(part)
        return out

    def linear(
        self,
        x: Floats,
        weight: Matrix | PackedMatrix | Tied,
        bias: Floats | None = None,
        residual: Floats | None = None,
        activation: Activation | None = None,
    ) -> Floats:
        if isinstance(weight, Tied):
            weight = weight.packed
        out = self._new((len(x), weight.outputs))
        if isinstance(weight, PackedMatrix):
            self._native.coded_linear(x, [weight.handle], [bias], [residual], [out], _ACTIVATIONS[activation])
        else:
            self._native.linear(
                x, weight.data, weight.bf16, bias, residual, _ACTIVATIONS[activation], self._bfloat16, out
            )
        return out

    def linears(
        self, x: Floats, weights: Sequence[Matrix | PackedMatrix], biases: Sequence[Floats | None] = ()
    ) -> list[Floats]:
        handles = [weight.handle for weight in weights if isinstance(weight, PackedMatrix)]
        if len(handles) < len(weights):
            return [self.linear(x, weight, bias) for weight, bias in zip_longest(weights, biases)]
        outs = [self._new((len(x), weight.outputs)) for weight in weights]
        self._native.coded_linear(x, handles, list(biases), [], outs, 0)
        return outs

    def rms_norm(self, x: Floats, weight: Floats, eps: float) -> Floats:
        out = self._new(x.shape)
        self._native.rms_norm(x, weight, eps, out)
        return out

    def layer_norm(self, x: Floats, weight: Floats, bias: Floats, eps: float) -> Floats:
        out = self._new(x.shape)
        self._native.layer_norm(x, weight, bias, eps, out)
        return out

    def swiglu(self, gate: Floats, up: Floats) -> Floats:
        out = self._new(up.shape)
        self._native.swiglu(gate, up, out)
        return out

    def attention_inputs(
        self,
        query_gate: Floats,
        key: Floats,
        value: Floats,
        q_norm: Floats,
        k_norm: Floats,
        keys: Floats,
        values: Floats,
        batch: Batch,
        rotary_dim: int,
        rope_theta: float,
        eps: float,
    ) -> tuple[Floats, Floats]:
        head_dim = keys.shape[-1]
        rows, width = query_gate.shape
        query = self._new((rows, width // (2 * head_dim), head_dim))
        gate = self._new((rows, width // 2))
        frequencies = _frequencies(rotary_dim, rope_theta)
        self._hold(frequencies)
        self._native.attention_inputs(
            query_gate, key, value, q_norm, k_norm, frequencies, keys, values,
            batch.offsets, batch.positions, batch.context, batch.pages, batch.page_size, eps, query, gate,
        )  # fmt: skip
        return query, gate

    def attention(self, query: Floats, keys: Floats, values: Floats, batch: Batch) -> Floats:
        rows, heads, head_dim = query.shape
        out = self._new((rows, heads * head_dim))
        self._native.attention(
            query, keys, values, batch.offsets, batch.context, batch.pages, batch.page_size, self._fast, out
        )
        return out

    def sigmoid_gate(self, x: Floats, gate: Floats) -> Floats:
        out = self._new(x.shape)
        self._native.sigmoid_gate(gate, x, out)
        return out

    def attention_views(self, query: Floats, key: Floats, value: Floats, lengths: Ints, heads: int) -> Floats:
        offsets = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        self._hold(offsets)
        out = self._new(query.shape)
        # Scores of bytes err as much as integer products do, and more than anything else with weights as stored.
        integer = self.scheme.products == "int8"
        self._native.attention_views(query, key, value, offsets, heads, self._fast, integer, out)
        return out

    def conv_silu(self, x: Floats, weight: Floats, state: Floats, batch: Batch) -> Floats:
        out = self._new(x.shape)
        self._native.conv_silu(x, weight, state, batch.offsets, batch.context, batch.slots, out)
        return out

    def gated_delta_rule(
        self,
        mixed: Floats,
        b: Floats,
        a: Floats,
        a_log: Floats,
        dt_bias: Floats,
        state: Floats,
        batch: Batch,
        key_heads: int,
        value_heads: int,
        key_dim: int,
        value_dim: int,
    ) -> Floats:
        out = self._new((len(mixed), value_heads * value_dim))
        self._native.gated_delta_rule(
            mixed, b, a, a_log, dt_bias, state, batch.offsets, batch.context, batch.slots,
            key_heads, value_heads, key_dim, value_dim, out,
        )  # fmt: skip
        return out

    def gated_rms_norm(self, x: Floats, z: Floats, weight: Floats, eps: float) -> Floats:
        out = self._new(x.shape)
        self._native.gated_rms_norm(x, z, weight, eps, out)
        return out

    def regroup_2x2(self, x: Floats, sizes: Ints) -> Floats:
        offsets = np.zeros(len(sizes) + 1, np.int32)
        np.cumsum(sizes[:, 0] * sizes[:, 1], out=offsets[1:])
        self._hold(offsets)
        rows, channels = x.shape
        out = self._new((rows // 4, 4 * channels))
        self._native.regroup_2x2(x, sizes, offsets, out)
        return out

    def window_mean(self, x: Floats) -> Floats:
        rows, width = x.shape
        out = self._new((rows, width // 4))
        self._native.window_mean(x, out)
        return out
