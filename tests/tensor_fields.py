"""Compares the fields of quantized tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from pocketvlm.tensors import BlockValues, DenseTensor, QuantizedTensor, Tensor, load


def assert_same_fields(found: Tensor, expected: Tensor) -> None:
    """Every field has equal bits, but for the name's origin and what a tensor was rounded from."""
    assert found.name == expected.name
    assert found.shape == expected.shape
    if isinstance(expected, DenseTensor) or isinstance(found, DenseTensor):
        assert isinstance(found, DenseTensor)
        assert isinstance(expected, DenseTensor)
        assert found.dtype == expected.dtype
        same(found.data, expected.data)
        return
    for field in ("bits", "global_scale", "global_divisor"):
        assert getattr(found, field) == getattr(expected, field), field
    same(found.load_codes(), expected.load_codes())
    for field in ("scales", "zero_points", "biases"):
        same_blocks(getattr(found, field), getattr(expected, field))
    same(found.codebook, expected.codebook)
    if expected.permutation is None or found.permutation is None:
        assert found.permutation is expected.permutation
    else:
        assert np.array_equal(found.permutation, expected.permutation)


def same(found: Any, expected: Any) -> None:
    """Both are None, or arrays of equal dtype, shape and bits."""
    if found is None or expected is None:
        assert found is expected
        return
    assert (found.dtype.newbyteorder("="), found.shape) == (expected.dtype.newbyteorder("="), expected.shape)
    assert found.tobytes() == expected.tobytes()


def same_blocks(found: BlockValues | None, expected: BlockValues | None) -> None:
    if found is None or expected is None:
        assert found is expected
        return
    assert (found.block, found.offset) == (expected.block, expected.offset)
    same(load(found.values), load(expected.values))
    same(found.codebook, expected.codebook)
    same_blocks(found.scale, expected.scale)


def quantized(name: str, tensors: Any) -> QuantizedTensor:
    found = tensors[name]
    assert isinstance(found, QuantizedTensor)
    return found
