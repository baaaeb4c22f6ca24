"""`NativeBackend` adds weights, memory, steps and capture to the native operations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.backend import Backend, CacheLocation, Factors
from pocketvlm.backends.batch import Batch, Ints, Step, make_step
from pocketvlm.backends.native import slabs
from pocketvlm.backends.native.layout import layout_of
from pocketvlm.backends.native.low_rank import in_blocks
from pocketvlm.backends.native.matrices import Matrix, NativeWeight, Tied
from pocketvlm.backends.native.operations import Floats, NativeOps
from pocketvlm.backends.native.packed_cache import PackedCache, convert
from pocketvlm.backends.native.product import product_of
from pocketvlm.backends.ops import KVCache, LowRank
from pocketvlm.backends.options import Scheme, choose
from pocketvlm.errors import OptionError
from pocketvlm.schemes import ARRAY_ROLES, Role
from pocketvlm.tensors import DenseTensor, QuantizedTensor, Tensor

if TYPE_CHECKING:
    from pocketvlm._native import Runtime

_F32 = np.dtype(np.float32)
_KV_DTYPES: dict[str, np.dtype[Any]] = {"f32": _F32, "bf16": np.dtype(np.uint16), "int8": np.dtype(np.int8)}
_LIMIT_BYTES, _LIMIT_ROUNDS, _LIMIT_RUNS = 256 << 20, 1_000_000, 5


class NativeBackend(NativeOps, Backend[Floats, NativeWeight, Ints]):
    """The contract on NumPy arrays."""

    name = "native"
    # One view of the usual size: activations then stay in the processor's cache. Sixteen views took 8 % longer.
    patches_at_once = 1024

    def __init__(self, runtime: Runtime, description: dict[str, str], scheme: Scheme | None = None) -> None:
        """description: of the machine, for `describe`. scheme: None means exact arithmetic on the weights as stored."""
        self.scheme = scheme or choose("native", precision="exact")
        if self.scheme.backend != self.name:
            raise OptionError(f"a scheme of backend {self.scheme.backend!r} does not fit backend {self.name!r}")
        super().__init__(runtime, self.scheme)
        self._machine = description
        self._cache_state: dict[str, str] = {}
        self._cache: PackedCache | None = None

    def with_scheme(self, scheme: Scheme) -> NativeBackend:
        return NativeBackend(self._native, self._machine, scheme)

    def describe(self) -> dict[str, str]:
        return {"backend": self.name, **self._machine, **self.scheme.describe(), **self._cache_state}

    def limits(self) -> dict[str, float]:
        """Measured with these threads and this instruction set; the best of some runs."""

        def best(work: Callable[[], int]) -> float:
            rate = 0.0
            for _ in range(_LIMIT_RUNS):
                began = time.perf_counter()
                amount = work()
                rate = max(rate, amount / (time.perf_counter() - began))
            return rate

        def read() -> int:
            self._native.read_memory(array)
            return array.nbytes

        array = np.ones(_LIMIT_BYTES // 4, _F32)
        rates = {"read_bandwidth": best(read)}
        for kind in ("int8", "bfloat16", "float32"):
            if self._native.multiply(kind, 1) > 0:
                rates[kind] = best(partial(self._native.multiply, kind, _LIMIT_ROUNDS))
        return rates

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
            self.return_memory()  # of parsed files and quantized matrices: some 70 MB

    def prepare(self, tensor: Tensor, role: Role) -> NativeWeight | Floats:
        if role in ARRAY_ROLES:
            # A copy: a view would keep mapped pages around it resident, up to 2 MB for a few hundred bytes.
            return np.array(tensor.dequantize(), order="C")
        if len(tensor.shape) != 2:
            raise ValueError(f"{tensor.name} has shape {list(tensor.shape)}: a matrix has two dimensions")
        looked_up = role in ("embedding", "position_embedding")
        if isinstance(tensor, DenseTensor):
            if self.scheme.storage[role].quantization is not None:
                raise ValueError(f"{tensor.name} is dense, but {self.scheme.weights} weights want it quantized")
            return self._rows(tensor) if looked_up else self._stored(tensor)
        # Packed codes give exact rows; rounded pixels make small print unreadable.
        if not self._fast or role == "patch_embedding" or (looked_up and layout_of(tensor).bits > 8):
            return Matrix(tensor.dequantize(), False, tensor.shape[0])
        packed = self._cache.pack(tensor) if self._cache else convert(self._native, tensor)
        if isinstance(packed, DenseTensor):
            return replace(self._stored(packed), rounds=True)
        if role == "tied_embedding" and tensor.rounded_from is not None:
            return Tied(packed, self._rows(tensor.rounded_from))
        return packed

    def _rows(self, tensor: DenseTensor) -> Matrix:
        """Rows to look up: as they are stored, so that a mapped file is read no further than they need."""
        if tensor.dtype == "f32":
            return self._stored(tensor)
        values = np.require(tensor.data, requirements=["C"])
        return Matrix(values, tensor.dtype == "bf16", values.shape[0])

    def product(self, tensor: Tensor, role: Role) -> str:
        return product_of(tensor, role, self.scheme)

    def _stored(self, tensor: DenseTensor) -> Matrix:
        if tensor.dtype == "bf16":
            bits = np.require(tensor.data, dtype=np.uint16, requirements=["C", "A"])
            return Matrix(bits, True, bits.shape[0])
        # A mapped matrix is not read now, and so not checked.
        values = np.require(tensor.data if tensor.dtype == "f32" else tensor.float32(), _F32, ["C", "A"])
        return Matrix(values, False, values.shape[0])

    def low_rank(self, a: NDArray[np.float32], b: NDArray[np.float32], scale: float) -> LowRank[Any]:
        return LowRank(in_blocks(a, self._fast), in_blocks(b.T, self._fast, columns=True), scale)

    def low_ranks(self, updates: Sequence[Factors]) -> Sequence[LowRank[Any]]:
        """All `a`, then all `b`, in one block: products of the same rows read neighbours, from large pages."""
        made = [self.low_rank(*update) for update in updates]
        stored = slabs.together([update.a for update in made] + [update.b for update in made])
        return [
            LowRank(a, b, update.scale)
            for a, b, update in zip(stored[: len(made)], stored[len(made) :], made, strict=True)
        ]

    def indices(self, values: Ints) -> Ints:
        return values

    def step(self, batch: Batch) -> Step[Ints]:
        """The batch's own arrays; kernels check all indices."""
        return make_step(batch, self.indices)

    def capture(self, work: Callable[[], Floats]) -> tuple[Floats, Callable[[], Floats]]:
        self._native.begin_capture()
        self._capturing, self._retained = get_ident(), []
        try:
            result = work()
        finally:
            self._capturing = None
            graph = self._native.end_capture()
        rebind, retained = self._arena.rebind(result), (work, self._retained)

        def replay(_: object = retained) -> Floats:
            self._native.replay(graph)
            return rebind()

        return result, replay

    def return_memory(self) -> None:
        self._native.return_memory()

    def zeros(self, *shape: int) -> Floats:
        return slabs.zeros(shape, self.state_dtype)

    def kv_cache(self, pages: int, kv_heads: int, page_size: int, head_dim: int) -> KVCache[Any]:
        dtype = _KV_DTYPES[self.scheme.kv_cache]
        keys, values = (slabs.zeros((pages, kv_heads, page_size, head_dim), dtype) for _ in range(2))
        if self.scheme.kv_cache != "int8":
            return KVCache(keys, values)
        return KVCache(keys, values, *(slabs.zeros((pages, kv_heads, page_size), _F32) for _ in range(2)))

    def from_numpy(self, array: NDArray[np.float32]) -> Floats:
        return np.ascontiguousarray(array, _F32)

    def to_numpy(self, array: Floats) -> NDArray[np.float32]:
        return array
