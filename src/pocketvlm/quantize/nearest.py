"""Round-to-nearest quantization: each block gets a scale from its largest value, each value the nearest code."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.schemes import QuantizationScheme
from pocketvlm.tensors import BlockValues, DenseTensor, LazyArray, QuantizedTensor

Floats = NDArray[np.float32]
Parts = tuple[NDArray[Any], NDArray[Any], Floats]

_CHUNK = 1 << 20  # values that are quantized at once
_TINY, _MIN_SCALE = np.float32(1e-30), np.float32(1e-36)
# Factors of the codebook scales to try: those that put the largest value on either end, and some around them.
_TRIED = tuple(np.float32(1.18) - np.float32(0.06) * np.float32(step) for step in range(6))


def round_to_nearest(tensor: DenseTensor, scheme: QuantizationScheme) -> QuantizedTensor:
    """Quantize a dense matrix [outputs, inputs] lazily: nothing is read or computed before the first use.

    Without groups there is a float32 scale for each output. With groups the scales are float16, relative to a float32
    scale of the output that puts them into the range of float16. Signed codes lie in -127..127.
    """
    rows, columns = tensor.shape
    group = scheme.group or max(columns, 1)
    groups = -(-columns // group)
    codebook = None if scheme.codebook is None else np.array(scheme.codebook, np.float32)

    @lru_cache(1)
    def parts() -> Parts:
        return _quantize(tensor.float32(), scheme)

    def lazy(index: int, shape: tuple[int, ...], dtype: type[np.generic]) -> LazyArray:
        return LazyArray(shape, np.dtype(dtype), lambda: parts()[index])

    row_scale = lazy(2, (rows, 1), np.float32)
    if scheme.group is None:
        scales = BlockValues(row_scale, (1, group))
    else:
        second = BlockValues(row_scale, (1, groups))
        scales = BlockValues(lazy(1, (rows, groups), np.float16), (1, group), scale=second)
    codes = lazy(0, (rows, columns), np.int8 if codebook is None else np.uint8)
    shape, origin = (rows, columns), tensor.origin
    return QuantizedTensor(
        tensor.name, scheme.bits, shape, codes, scales, codebook=codebook, rounded_from=tensor, origin=origin
    )


def _quantize(values: Floats, scheme: QuantizationScheme) -> Parts:
    """Codes [rows, columns], group scales float16 [rows, groups], and row scales [rows, 1]."""
    rows, columns = values.shape
    group = scheme.group or max(columns, 1)
    padded = np.zeros((rows, -(-columns // group) * group), np.float32)
    padded[:, :columns] = values
    if scheme.codebook is None:
        method = partial(_equal_steps, bits=scheme.bits, grouped=scheme.group is not None)
    else:
        present = (np.arange(padded.shape[1]) < columns).reshape(-1, group)
        method = partial(_nearest_levels, levels=np.array(scheme.codebook, np.float32), present=present)
    step = max(1, _CHUNK // max(1, padded.shape[1]))
    blocks = padded.reshape(rows, padded.shape[1] // group, group)
    chunks = [method(blocks[at : at + step]) for at in range(0, max(rows, 1), step)]
    codes, scales, row_scale = (np.concatenate(part) for part in zip(*chunks, strict=True))
    return np.ascontiguousarray(codes.reshape(rows, -1)[:, :columns]), scales, row_scale


def _equal_steps(x: Floats, bits: int, grouped: bool) -> Parts:
    """x [rows, groups, group] as signed codes."""
    max_code = np.float32(2 ** (bits - 1) - 1)
    largest = np.abs(x).max(-1, initial=0.0)
    row: Floats = largest.max(-1, keepdims=True, initial=0.0)
    if grouped:
        row_scale = _positive(row) / np.float32(64)
        half = (largest / max_code / row_scale).astype(np.float16)
        scale = half.astype(np.float32) * row_scale
    else:
        row_scale, half = row / max_code, np.ones(largest.shape, np.float16)
        scale = row_scale
    inverse = _inverse(scale, _MIN_SCALE)[:, :, None]
    return np.clip(np.rint(x * inverse), -max_code, max_code).astype(np.int8), half, row_scale


def _nearest_levels(x: Floats, levels: Floats, present: NDArray[np.bool_]) -> Parts:
    """x [rows, groups, group] as codes of sorted levels; each group gets the scale with the smallest squared error."""
    row: Floats = np.abs(x).max((1, 2), initial=0.0)[:, None]
    row_scale = _positive(row) / np.float32(32)
    middles = (levels[:-1] + levels[1:]) * np.float32(0.5)
    end = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)[..., 0]
    best, min_error = np.zeros(end.shape, np.float32), np.full(end.shape, np.inf, np.float32)
    for level in (levels[0], levels[-1]):
        for factor in _TRIED:
            scale = (end / (level * factor) / row_scale).astype(np.float16).astype(np.float32) * row_scale
            t = x * _inverse(scale, np.float32(0))[..., None]
            error = np.square((t - levels[np.searchsorted(middles, t)]) * scale[..., None])
            total = np.where(present, error, 0).sum(-1, dtype=np.float32)
            better = total < min_error
            min_error, best = np.where(better, total, min_error), np.where(better, scale, best)
    codes = np.searchsorted(middles, x * _inverse(best, np.float32(0))[..., None]).astype(np.uint8)
    return codes, (best / row_scale).astype(np.float16), row_scale


def _positive(largest: Floats) -> Floats:
    """Largest values, and 1 for rows of zeros."""
    return np.where(largest > _TINY, largest, np.float32(1)).astype(np.float32, copy=False)


def _inverse(scale: Floats, threshold: np.float32) -> Floats:
    """1 / scale, and 0 for scales of at most `threshold` in size."""
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=np.abs(scale) > threshold)
