"""Random inputs for backend tests, and native backends whose memory starts as NaN."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketvlm import _native
from pocketvlm.backends.batch import Batch, SubBatch
from pocketvlm.backends.native import NativeBackend, create, operations
from pocketvlm.backends.native.pack import pack
from pocketvlm.backends.native.packed_matrix import PackedMatrix
from pocketvlm.backends.ops import KVCache
from pocketvlm.backends.options import choose
from pocketvlm.quantize import round_to_nearest
from pocketvlm.schemes import INT4_CODEBOOK, QuantizationScheme
from pocketvlm.tensors import DenseTensor, bfloat16_to_float32, float32_to_bfloat16


def usable() -> list[str]:
    """The instruction sets that run here: those for tests first, the best last."""
    return _native.usable_isas(for_tests=True) + _native.usable_isas()


@cache
def backend(threads: int, isa: str) -> NativeBackend:
    ops = create(threads, isa, scheme=choose("native", precision="exact"))
    ops._native.poison(True)
    return ops


def poisoned_backend(threads: int, isa: str, monkeypatch: pytest.MonkeyPatch) -> NativeBackend:
    monkeypatch.setattr(operations, "_empty", lambda shape, dtype: np.full(shape, np.nan, dtype))
    return backend(threads, isa)


def quantization(bits: int, group: int | None) -> QuantizationScheme:
    """The scheme with so many bits that the native backend rounds to."""
    return QuantizationScheme(bits, group, INT4_CODEBOOK if bits == 4 else None)


def round_and_pack(runtime: _native.Runtime, dense: DenseTensor, bits: int, group: int | None) -> PackedMatrix:
    """A dense matrix quantized and packed by the kernels."""
    return pack(runtime, round_to_nearest(dense, quantization(bits, group)))


class Inputs:
    """Random arrays; each float array begins 4 bytes behind an aligned address."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)

    def __call__(self, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        count = int(np.prod(shape))
        memory = np.full(count + 2, np.nan, np.float32)
        array = memory[1 : count + 1].reshape(shape)
        array[...] = self.random.standard_normal(shape) * scale
        return array

    def matrix(self, out: int, inputs: int, dtype: str) -> DenseTensor:
        values = (self.random.standard_normal((out, inputs)) / np.sqrt(inputs)).astype(np.float32)
        if dtype == "bf16":
            memory = np.zeros(out * inputs + 1, np.uint16)
            bits = memory[1:].reshape(out, inputs)
            bits[...] = (values.view(np.uint32) >> 16).astype(np.uint16)
            bits.flags.writeable = False
            return DenseTensor("weight", "bf16", bits)
        return DenseTensor("weight", dtype, values.astype(np.float16 if dtype == "f16" else np.float32))

    def batch(self, lengths: list[int], context: list[int] | None = None, page_size: int = 16, spare: int = 3) -> Batch:
        """Sequences in shuffled pages and slots of a state with `spare` slots too many."""
        context = context or [0] * len(lengths)
        used = [-(-(a + b) // page_size) for a, b in zip(lengths, context, strict=True)]
        order = self.random.permutation(sum(used) + spare)
        pages = np.full((len(lengths), max(used) + 1), -1, np.int32)
        for s, count in enumerate(used):
            pages[s, :count] = order[sum(used[:s]) :][:count]
        return make_batch(
            lengths,
            context,
            pages,
            self.random.permutation(len(lengths) + spare)[: len(lengths)].astype(np.int32),
            page_size,
        )


def make_batch(
    lengths: Sequence[int], context_lens: Sequence[int], pages: NDArray[np.int32], slots: Sequence[int], page_size: int
) -> Batch:
    """A batch of sequences with different slots, with rotary positions as in text."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    context = np.array(context_lens, np.int32)
    chosen = np.array(slots, np.int32)
    positions = np.concatenate([c + np.arange(n) for n, c in zip(lengths, context_lens, strict=True)]).astype(np.int32)
    part = SubBatch(slice(None), offsets, context, chosen, chosen)
    return Batch(offsets, context, pages, page_size, positions, (part,))


def stored(numbers: NDArray[np.float32], kv_cache: str) -> tuple[Any, Any, NDArray[np.float32]]:
    """Keys or values in the type of a cache, their scales or None, and the numbers that are stored."""
    if kv_cache == "f32":
        return numbers, None, numbers
    if kv_cache == "bf16":
        bits = float32_to_bfloat16(numbers)
        return bits, None, bfloat16_to_float32(bits)
    scales = np.abs(numbers).max(-1) / np.float32(127)
    codes = np.rint(numbers / np.maximum(scales, 1e-30)[..., None]).astype(np.int8)
    return codes, scales, codes.astype(np.float32) * scales[..., None]


def cache_of(
    keys: NDArray[np.float32], values: NDArray[np.float32], kv_cache: str
) -> tuple[KVCache[Any], NDArray[np.float32], NDArray[np.float32]]:
    """A cache of such keys and values, and the numbers that it stores."""
    (k, key_scales, keys), (v, value_scales, values) = stored(keys, kv_cache), stored(values, kv_cache)
    return KVCache(k, v, key_scales, value_scales), keys, values


def pages_of(batch: Batch) -> int:
    """Pages that a cache for `batch` needs."""
    return int(batch.pages.max()) + 1


def close(actual: NDArray[np.float32], expected: NDArray[np.float64], tolerance: float = 2e-6) -> None:
    """Largest difference against the largest expected value."""
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    scale = max(1e-30, float(np.abs(expected).max(initial=0.0)))
    difference = float(np.abs(actual - expected).max(initial=0.0)) / scale
    assert difference <= tolerance, f"relative difference {difference:.3g}"
