"""Factors rounded to bfloat16 or bytes (`fast`) against exact arithmetic; odd sizes, poisoned memory."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from exact_ops import activate
from native_kit import Inputs, cache_of, close, make_batch, pages_of
from numpy.typing import NDArray

from pocketvlm.backends.native import NativeBackend
from pocketvlm.backends.options import choose
from pocketvlm.tensors import DenseTensor


def pair(native: NativeBackend, weights: str = "bf16") -> tuple[NativeBackend, NativeBackend]:
    """The same kernels with precision "exact" and with "fast", for such weights."""
    return tuple(
        NativeBackend(native._native, {}, choose("native", *how)) for how in (("auto", "exact"), (weights, "fast"))
    )


def near(actual: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float = 0.01) -> None:
    assert np.isfinite(actual).all()
    assert np.linalg.norm(actual - expected) < tolerance * np.linalg.norm(expected)


VIEWS = pytest.mark.parametrize(
    ("lengths", "heads", "head_dim"), [([300], 2, 72), ([33, 64, 1100], 2, 40), ([32], 3, 7), ([70, 4], 1, 16)]
)


@VIEWS
@pytest.mark.parametrize(("weights", "tolerance"), [("bf16", 0.01), ("int8", 0.03)])
def test_views(
    native: NativeBackend, lengths: list[int], heads: int, head_dim: int, weights: str, tolerance: float
) -> None:
    make = Inputs(head_dim)
    query, key, value = (make(sum(lengths), heads * head_dim, scale=2.0) for _ in range(3))
    exact, fast = (
        ops.attention_views(query, key, value, np.array(lengths, np.int32), heads) for ops in pair(native, weights)
    )
    near(fast, exact, tolerance)


@VIEWS
def test_views_whose_keys_have_much_in_common(
    native: NativeBackend, lengths: list[int], heads: int, head_dim: int
) -> None:
    """What all keys share changes no weight and takes nothing of the range of their bytes."""
    make = Inputs(head_dim)
    query, key, value = (make(sum(lengths), heads * head_dim) for _ in range(3))
    bounds = np.array(lengths, np.int32)
    exact, fast = pair(native, "int8")
    moved = key + 100.0 * make(heads * head_dim)
    near(
        fast.attention_views(query, moved, value, bounds, heads),
        exact.attention_views(query, key, value, bounds, heads),
        0.03,
    )


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_a_view_does_not_depend_on_its_neighbours(native: NativeBackend, weights: str) -> None:
    _, fast = pair(native, weights)
    make = Inputs(9)
    lengths = [16, 50, 400, 5, 1, 33, 64]  # both sides of the length from which products are of bfloat16 pairs
    query, key, value = (make(sum(lengths), 2 * 24) for _ in range(3))
    together = fast.attention_views(query, key, value, np.array(lengths, np.int32), 2)
    ends = np.cumsum(lengths)
    for length, end in zip(lengths, ends, strict=True):
        rows = slice(end - length, end)
        alone = fast.attention_views(query[rows], key[rows], value[rows], np.array([length], np.int32), 2)
        np.testing.assert_array_equal(alone, together[rows])


@pytest.mark.parametrize("head_dim", [32, 20, 256])
def test_causal(native: NativeBackend, head_dim: int) -> None:
    make = Inputs(head_dim)
    lengths, context = [1, 4, 70, 130, 2, 33], [0, 0, 5, 1000, 700, 2100]
    batch = make.batch(lengths, context)
    kv = (pages_of(batch), 2, batch.page_size, head_dim)
    keys, values = make(*kv, scale=2.0), make(*kv)
    query = make(sum(lengths), 6, head_dim, scale=2.0)
    for kv_cache in ("f32", "bf16", "int8"):
        cache = cache_of(keys, values, kv_cache)[0]
        exact, fast = (ops.attention(query, cache, ops.step(batch)) for ops in pair(native))
        near(fast, exact)


def test_a_row_does_not_depend_on_its_batch(native: NativeBackend) -> None:
    """A run of rows gives the same bits alone and beside other sequences."""
    _, fast = pair(native)
    make = Inputs(8)
    together = make.batch([50, 20, 90], [0, 30, 1500])
    kv = (pages_of(together), 2, together.page_size, 64)
    keys, values, query = make(*kv), make(*kv), make(160, 4, 64)
    for kv_cache, s in product(("f32", "bf16", "int8"), range(3)):
        cache = cache_of(keys, values, kv_cache)[0]
        all_of_them = fast.attention(query, cache, fast.step(together))
        rows = slice(together.offsets[s], together.offsets[s + 1])
        alone = make_batch(
            [rows.stop - rows.start],
            [int(together.context_lens[s])],
            together.pages[s : s + 1],
            [0],
            together.page_size,
        )
        actual = fast.attention(query[rows], cache, fast.step(alone))
        np.testing.assert_array_equal(actual, all_of_them[rows])


def has_bfloat16(native: NativeBackend) -> bool:
    """Whether the instruction set multiplies pairs of bfloat16 numbers."""
    return native.describe()["isa"].startswith(("avx512bf16", "amx", "plaintiles"))


def rounded(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """To the nearest bfloat16, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


@pytest.mark.parametrize(("inputs", "out"), [(1, 1), (7, 3), (33, 17), (64, 32), (127, 65), (130, 133), (3201, 150)])
def test_linear(native: NativeBackend, inputs: int, out: int) -> None:
    """The rows are rounded where the processor multiplies pairs, and taken as they are where it does not."""
    fast = pair(native)[1]
    make = Inputs(inputs)
    stored = make.matrix(out, inputs, "bf16")
    weight, exact = fast.prepare(stored, "matrix"), stored.float32().astype(np.float64)
    for rows in (1, 2, 3, 5, 6, 7, 12, 13, 33, 70):
        x, bias, residual = make(rows, inputs), make(out), make(rows, out)
        seen = rounded(np.ascontiguousarray(x)) if has_bfloat16(native) else x.astype(np.float64)
        close(fast.linear(x, weight), seen @ exact.T, 4e-6)
        for activation in ("gelu_tanh", "gelu_erf", "silu", None):
            expected = activate(seen @ exact.T + bias, activation) + residual
            close(fast.linear(x, weight, bias, residual, activation), expected, 4e-6)


def test_ties_and_ends(native: NativeBackend) -> None:
    """What lies between two bfloat16 numbers goes to the even one; infinities and NaN stay in their rows."""
    fast = pair(native)[1]
    one = fast.prepare(DenseTensor("one", "bf16", np.full((1, 1), 0x3F80, np.uint16)), "matrix")
    values = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20, 3e38, 1e-30, 0.0]
    x = np.array([*values, np.inf, -np.inf, np.nan], np.float32)
    expected = x.astype(np.float64)
    if has_bfloat16(native):
        expected[: len(values)] = rounded(x[: len(values)])
    np.testing.assert_array_equal(fast.linear(x[:, None], one)[:, 0], expected)


def test_matrices_of_floats_are_never_rounded(native: NativeBackend) -> None:
    exact, fast = pair(native)
    make = Inputs(5)
    for dtype in ("f32", "f16"):
        weight = fast.prepare(make.matrix(40, 70, dtype), "matrix")
        for rows in (3, 50):
            x = make(rows, 70)
            np.testing.assert_array_equal(fast.linear(x, weight), exact.linear(x, weight))


def test_no_rows(native: NativeBackend) -> None:
    fast = pair(native)[1]
    weight = fast.prepare(Inputs().matrix(20, 33, "bf16"), "matrix")
    assert fast.linear(np.zeros((0, 33), np.float32), weight).shape == (0, 20)


@pytest.mark.parametrize(("inputs", "out"), [(320, 50), (1000, 301), (45, 7)])
def test_a_product_does_not_depend_on_its_batch(native: NativeBackend, inputs: int, out: int) -> None:
    """Bit for bit: this is what makes results batch-invariant."""
    if not has_bfloat16(native):
        pytest.skip("without products of pairs, few and many rows are added in different orders")
    fast = pair(native)[1]
    make = Inputs(4)
    weight, bias, x = fast.prepare(make.matrix(out, inputs, "bf16"), "matrix"), make(out), make(130, inputs)
    everything = fast.linear(x, weight, bias, None, "silu")
    for n in (1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 17, 31, 64, 129):
        np.testing.assert_array_equal(fast.linear(x[:n], weight, bias, None, "silu"), everything[:n])
        np.testing.assert_array_equal(fast.linear(x[130 - n :], weight, bias, None, "silu"), everything[130 - n :])
