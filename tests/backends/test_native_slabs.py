"""Memory in large blocks: arrays do not overlap, begin on a cache line, are zeroed, and can be written to."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from pocketvlm.backends.native import slabs


def test_arrays_are_zeroed_and_apart() -> None:
    random = np.random.default_rng(0)
    arrays = []
    for i in range(60):
        shape = (int(random.integers(1, 40)), int(random.integers(1, 70_000)))
        array = slabs.zeros(shape, (np.float32, np.uint8, np.uint16)[i % 3])
        assert array.shape == shape
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
        assert not array.any()
        array.fill(i + 1)
        arrays.append(array)
    for i, array in enumerate(arrays):
        assert (array == i + 1).all()


@pytest.mark.parametrize("count", [0, 1])
def test_small_and_empty(count: int) -> None:
    assert slabs.zeros((count, 3), np.float32).shape == (count, 3)


def test_a_large_array_is_freed_with_its_last_view() -> None:
    array = slabs.zeros((6 << 20,), np.float32)
    block = array
    while isinstance(block.base, np.ndarray):
        block = block.base
    block_ref = weakref.ref(block)
    view = array[5:]
    del array, block
    gc.collect()
    assert block_ref() is not None
    del view
    gc.collect()
    assert block_ref() is None


def test_arrays_that_are_stored_together_follow_each_other() -> None:
    arrays = [
        np.arange(n, dtype=dtype) for n, dtype in ((5, np.float32), (0, np.uint16), (70, np.uint16), (33, np.float32))
    ]
    copies = slabs.together(arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(copy, array)
        assert copy.dtype == array.dtype
    first = copies[0].ctypes.data
    assert [copy.ctypes.data - first for copy in copies if copy.size] == [0, 64, 256]
    assert slabs.together([]) == []
