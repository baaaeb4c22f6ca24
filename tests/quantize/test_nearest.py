"""Round-to-nearest quantization against plain NumPy, row by row, and its laziness."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.backends.options import choose
from pocketvlm.options.load import Weights
from pocketvlm.quantize import quantized, round_to_nearest
from pocketvlm.schemes import (
    INT4_CODEBOOK,
    INT4_GROUP_64,
    INT8_GROUP_32,
    INT8_GROUP_64,
    INT8_ROWS,
    ROLES,
    QuantizationScheme,
)
from pocketvlm.tensors import DenseTensor, Floats, LazyArray, QuantizedTensor, load

SCHEMES = [INT8_ROWS, INT8_GROUP_32, INT8_GROUP_64, INT4_GROUP_64, QuantizationScheme(4, 32, INT4_CODEBOOK)]


def dense(values: Floats) -> DenseTensor:
    return DenseTensor("w", "f32", np.ascontiguousarray(values, np.float32))


def plain_row(x: Floats, scheme: QuantizationScheme) -> tuple[list[int], list[np.float32]]:
    """Codes and scales of one output, group by group; scales with the output's own factor."""
    codes: list[int] = []
    scales: list[np.float32] = []
    largest = np.abs(x).max()
    divisor = np.float32(64 if scheme.codebook is None else 32)
    row = (largest if largest > 1e-30 else np.float32(1)) / divisor
    for start in range(0, len(x), scheme.group or len(x)):
        part = x[start : start + (scheme.group or len(x))]
        if scheme.codebook is None:
            scale = np.abs(part).max() / np.float32(127)
            if scheme.group is not None:
                scale = np.float32(np.float16(scale / row)) * row
            found = np.rint(part * (np.float32(1) / scale if scale > 1e-36 else np.float32(0)))
            codes += np.clip(found, -127, 127).astype(int).tolist()
        else:
            levels = np.array(scheme.codebook, np.float32)
            end, best, scale = part[np.abs(part).argmax()], np.inf, np.float32(0)
            for level in (levels[0], levels[-1]):
                for step in range(6):
                    factor = np.float32(1.18) - np.float32(0.06) * np.float32(step)
                    tried = np.float32(np.float16(end / (level * factor) / row)) * row
                    if tried == 0:
                        continue
                    error = (np.abs(part[:, None] / tried - levels).min(1).astype(np.float64) ** 2).sum() * tried**2
                    if error < best * (1 - 1e-6):
                        best, scale = error, tried
            t = part * (np.float32(1) / scale if scale else np.float32(0))
            codes += np.abs(t[:, None] - levels).argmin(1).tolist()
        scales.append(scale)
    return codes, scales


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (5, 100), (33, 130), (2, 31)])
def test_codes_and_scales(scheme: QuantizationScheme, shape: tuple[int, int]) -> None:
    values = np.random.default_rng(shape[1]).standard_normal(shape).astype(np.float32)
    found = round_to_nearest(dense(values), scheme)
    codes, scales = load(found.codes), found.block_scales()
    assert scales.shape == (shape[0], -(-shape[1] // (scheme.group or shape[1])))
    for row in range(shape[0]):
        expected, expected_scales = plain_row(values[row], scheme)
        np.testing.assert_array_equal(scales[row], expected_scales)
        # A value exactly between two codes may go to either.
        assert np.abs(codes[row].astype(int) - expected).max() <= 1
        assert (codes[row] != expected).mean() < 0.02


@pytest.mark.parametrize(
    ("scheme", "limit"), [(INT8_ROWS, 0.01), (INT8_GROUP_32, 0.006), (INT8_GROUP_64, 0.006), (INT4_GROUP_64, 0.095)]
)
def test_the_error(scheme: QuantizationScheme, limit: float) -> None:
    values = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    error = round_to_nearest(dense(values), scheme).dequantize() - values
    assert np.linalg.norm(error) < limit * np.linalg.norm(values)


@given(st.sampled_from(SCHEMES), st.integers(0, 1 << 32), st.sampled_from([1e-38, 1e-20, 1.0, 1e10]))
def test_values_of_any_size(scheme: QuantizationScheme, seed: int, size: float) -> None:
    """Also for rows of zeros, tiny and huge numbers, and groups of very different size."""
    random = np.random.default_rng(seed)
    shape = int(random.integers(1, 6)), int(random.integers(1, 150))
    values = random.standard_normal(shape) * 10.0 ** random.integers(-4, 1, (shape[0], 1)) * size
    values[random.random(shape[0]) < 0.2] = 0
    tensor = round_to_nearest(dense(values.astype(np.float32)), scheme)
    found = tensor.dequantize()
    assert np.isfinite(found).all()
    # A step of the codebook is coarse, and squared errors of tiny numbers are all zero: the first scale is then taken.
    limit = 0.6 / 127 if scheme.codebook is None else 0.3
    assert (np.abs(found - values) <= limit * np.abs(values).max(1, keepdims=True) + 1e-34).all()
    assert (found[(values == 0).all(1)] == 0).all()


def test_nothing_is_read_before_codes_are_used() -> None:
    reads: list[str] = []

    def lazy(name: str) -> DenseTensor:
        def read() -> Floats:
            reads.append(name)
            return np.ones((4, 64), np.float32)

        return DenseTensor(name, "f32", LazyArray((4, 64), np.dtype(np.float32), read))

    made = quantized({role: lazy(role) for role in ROLES}, {role: role for role in ROLES}, choose("native", "int4"))
    assert reads == []
    matrix = made["matrix"]
    assert isinstance(matrix, QuantizedTensor)
    for _ in range(2):
        matrix.dequantize()
    assert reads == ["matrix"]


@pytest.mark.parametrize("weights", sorted({*get_args(Weights)} - {"auto"}))
def test_the_scheme_of_each_role(weights: str) -> None:
    """Which tensors are quantized and how; those of the checkpoint that are already stay as they are."""
    matrix = {"int4": INT4_GROUP_64, "int8": INT8_GROUP_32, "bf16": None, "stored": None}[weights]
    expected: dict[str, QuantizationScheme | None] = dict.fromkeys(ROLES)
    if matrix is not None:
        expected |= {"matrix": matrix, "head": matrix, "tied_embedding": matrix, "vision_matrix": INT8_ROWS}
        expected["gate"] = INT8_GROUP_64 if weights == "int4" else INT8_GROUP_32
    tensors = {role: dense(np.ones((4, 96), np.float32)) for role in ROLES}
    scheme = choose("native", weights)
    found = quantized(tensors, {role: role for role in ROLES}, scheme)
    for role, quantization in expected.items():
        tensor = found[role]
        if quantization is None:
            assert tensor is tensors[role]
            continue
        assert isinstance(tensor, QuantizedTensor)
        assert (tensor.bits, tensor.block) == (quantization.bits, (1, quantization.group or 96))
        assert (tensor.codebook is None) == (quantization.codebook is None)
        assert tensor.rounded_from is tensors[role]
    again = quantized(found, {role: role for role in ROLES}, scheme)
    assert all(again[role] is found[role] for role in ROLES)
