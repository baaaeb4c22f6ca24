"""Attention with factors rounded to bfloat16 or bytes (`fast`) against float32 kernels; odd sizes, poisoned memory."""

from __future__ import annotations

import numpy as np
import pytest
from native_kit import Inputs, pages_of
from numpy.typing import NDArray

from pocketvlm.backends.native import NativeOps
from pocketvlm.backends.native.coding import WeightType


def pair(native: NativeOps, weights: WeightType = "stored") -> tuple[NativeOps, NativeOps]:
    """The same kernels, in `exact` and in `fast` beside such weights."""
    return NativeOps(native._native, {}), NativeOps(native._native, {}, weights, fast=True)


def near(actual: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float = 0.01) -> None:
    assert np.isfinite(actual).all()
    assert np.linalg.norm(actual - expected) < tolerance * np.linalg.norm(expected)


VIEWS = pytest.mark.parametrize(
    ("lengths", "heads", "head_dim"), [([300], 2, 72), ([33, 64, 1100], 2, 40), ([32], 3, 7), ([70, 4], 1, 16)]
)


@VIEWS
@pytest.mark.parametrize(("weights", "tolerance"), [("stored", 0.01), ("int8", 0.03)])
def test_views(
    native: NativeOps, lengths: list[int], heads: int, head_dim: int, weights: WeightType, tolerance: float
) -> None:
    make = Inputs(head_dim)
    query, key, value = (make(sum(lengths), heads * head_dim, scale=2.0) for _ in range(3))
    exact, fast = (
        ops.attention_views(query, key, value, np.array(lengths, np.int32), heads) for ops in pair(native, weights)
    )
    near(fast, exact, tolerance)


@VIEWS
def test_views_whose_keys_have_much_in_common(native: NativeOps, lengths: list[int], heads: int, head_dim: int) -> None:
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


@pytest.mark.parametrize("weights", ["stored", "int8"])
def test_a_view_does_not_depend_on_those_beside_it(native: NativeOps, weights: WeightType) -> None:
    _, fast = pair(native, weights)
    make = Inputs(9)
    lengths = [50, 400, 33]
    query, key, value = (make(sum(lengths), 2 * 24) for _ in range(3))
    together = fast.attention_views(query, key, value, np.array(lengths, np.int32), 2)
    ends = np.cumsum(lengths)
    for length, end in zip(lengths, ends, strict=True):
        rows = slice(end - length, end)
        alone = fast.attention_views(query[rows], key[rows], value[rows], np.array([length], np.int32), 2)
        np.testing.assert_array_equal(alone, together[rows])


@pytest.mark.parametrize("head_dim", [32, 20, 256])
def test_causal(native: NativeOps, head_dim: int) -> None:
    make = Inputs(head_dim)
    lengths, context = [1, 4, 70, 130, 2, 33], [0, 0, 5, 1000, 700, 2100]
    batch = make.batch(lengths, context)
    kv = (pages_of(batch), batch.page_size, 2, head_dim)
    keys, values = make(*kv, scale=2.0), make(*kv)
    query = make(sum(lengths), 6, head_dim, scale=2.0)
    exact, fast = (ops.attention(query, keys, values, batch) for ops in pair(native))
    near(fast, exact)


def test_a_row_does_not_depend_on_its_batch(native: NativeOps) -> None:
    """A run of rows gives the same bits alone and beside other sequences."""
    _, fast = pair(native)
    make = Inputs(8)
    together = make.batch([50, 20, 90], [0, 30, 1500])
    kv = (pages_of(together), together.page_size, 2, 64)
    keys, values, query = make(*kv), make(*kv), make(160, 4, 64)
    all_of_them = fast.attention(query, keys, values, together)
    for s in range(3):
        rows = slice(together.offsets[s], together.offsets[s + 1])
        alone = type(together)(
            offsets=(together.offsets[s : s + 2] - together.offsets[s]).astype(np.int32),
            positions=together.positions[rows],
            context=together.context[s : s + 1],
            pages=together.pages[s : s + 1],
            slots=together.slots[s : s + 1],
            page_size=together.page_size,
        )
        np.testing.assert_array_equal(fast.attention(query[rows], keys, values, alone), all_of_them[rows])
