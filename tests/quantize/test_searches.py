"""Fits against brute force, against simple rounding, and against other tools' quantizers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from plain_methods import min_max, outlier_matrix, squared_error

from pocketvlm.quantize.methods import nearest
from pocketvlm.quantize.searches import as_bfloat16, as_float16
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.tensors import BlockValues, DenseTensor, Floats, bfloat16_to_float32, float32_to_bfloat16


def importance_of(inputs: int) -> Floats:
    """Heavy-tailed, as the diagonal of a Gram matrix."""
    return np.exp(np.random.default_rng(9).standard_normal(inputs) * 1.5).astype(np.float32)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("bits", "group"), [(2, 16), (3, 16), (4, 16), (4, 128), (6, 64), (8, 32)])
def test_affine_fits_are_better_than_the_range(bits: int, group: int, weighted: bool) -> None:
    """In every group."""
    w, _ = outlier_matrix((16, 256))
    importance = importance_of(256) if weighted else None
    found = nearest("w", w, tensor_scheme(f"int{bits}-g{group}"), importance).dequantize()
    plain = min_max(w, bits, group)
    weights = np.ones(256, np.float32) if importance is None else importance
    errors = [(np.square(w - values) * weights).reshape(16, -1, group).sum(-1) for values in (found, plain)]
    assert (errors[0] <= errors[1] * (1 + 1e-5) + 1e-12).all()
    assert errors[0].sum() < {2: 0.8, 3: 0.92, 4: 0.96}.get(bits, 1.0) * errors[1].sum()


def best_of_all(
    w: Floats, importance: Floats, levels: Floats, scales: Floats, offsets: Floats, in_steps: bool
) -> float:
    """The least error of one group over all pairs of a scale and an offset, which is in steps (zero points) or not."""
    lowest = np.inf
    for scale, offset in product(scales, offsets):
        values = (levels - offset) * scale if in_steps else levels * scale + offset
        error = np.square(w[:, None] - values).min(1)
        lowest = min(lowest, float((error * importance).sum()))
    return lowest


@pytest.mark.parametrize("name", ["int2-g16", "int3-g16", "int4-g16"])
def test_affine_fits_are_nearly_the_best_of_all(name: str) -> None:
    """Of all zero points, and of scales in steps of half a percent."""
    bits = int(name[3])
    importance = importance_of(16)
    w = (0.02 * np.random.default_rng(2).standard_t(4, (6, 16))).astype(np.float32)
    found = nearest("w", w, tensor_scheme(name), importance).dequantize()
    ratios = []
    for row, values in zip(w, found, strict=True):
        top = (row.max() - row.min()) / (2**bits - 1)
        scales = np.float32(top) * np.exp(np.arange(-1.2, 0.2, 0.005)).astype(np.float32)
        best = best_of_all(row, importance, np.arange(2.0**bits), scales, np.arange(2.0**bits), True)
        ratios.append(squared_error(row, values, importance) / best)
    assert np.mean(ratios) < 1.1
    assert max(ratios) < 1.4


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "IQ4_NL", "int4-g32-sym", "nvfp4"])
def test_scales_are_nearly_the_best_of_all(name: str) -> None:
    scheme = tensor_scheme(name)
    empty = scheme.placeholder("w", (1, 32))
    levels = np.arange(-8.0, 8) if "sym" in name else np.arange(-127.0, 128)
    if name in ("Q4_0", "Q5_0"):
        levels = np.arange(-(2.0 ** (empty.bits - 1)), 2.0 ** (empty.bits - 1))
    if empty.codebook is not None:
        levels = np.unique(empty.codebook)
    group = min(scheme.span(32), 32)
    importance = importance_of(32)
    w = (0.02 * np.random.default_rng(4).standard_t(4, (6, 32))).astype(np.float32)
    found = nearest("w", w, scheme, importance).dequantize()
    sizes = np.exp(np.arange(-0.7, 0.3, 0.002)).astype(np.float32)
    best = 0.0
    for row in w:
        for at in range(0, 32, group):
            part = row[at : at + group]
            scales = np.abs(part).max() / np.abs(levels).max() * np.concatenate([sizes, -sizes])
            best += best_of_all(part, importance[at : at + group], levels, scales, np.zeros(1), True)
    assert squared_error(w, found, importance) < {"nvfp4": 1.1}.get(name, 1.03) * best


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8"])
def test_powers_of_two_are_the_best_of_all(name: str) -> None:
    scheme = tensor_scheme(name)
    levels = scheme.placeholder("w", (1, 32)).codebook
    assert levels is not None
    w = (0.02 * np.random.default_rng(4).standard_t(3, (8, 32))).astype(np.float32)
    importance = importance_of(32)
    found = nearest("w", w, scheme, importance).dequantize()
    powers = np.exp2(np.arange(-20.0, 3)).astype(np.float32)
    usable = np.unique(levels[np.isfinite(levels)])
    for row, values in zip(w, found, strict=True):
        best = best_of_all(row, importance, usable, powers, np.zeros(1), True)
        # Scales far below the largest number, which would clip it heavily, are not tried.
        assert squared_error(row, values, importance) <= 1.02 * best


@pytest.mark.parametrize(("name", "bits"), [("Q4_1", 4), ("Q5_1", 5), ("int4-g32-bias", 4), ("int2-g32-bias", 2)])
def test_scales_and_biases_are_nearly_the_best_of_all(name: str, bits: int) -> None:
    w = (0.02 * np.random.default_rng(4).standard_t(4, (4, 32))).astype(np.float32)
    importance = importance_of(32)
    found = nearest("w", w, tensor_scheme(name), importance).dequantize()
    best = 0.0
    for row in w:
        width = row.max() - row.min()
        scales = width / (2**bits - 1) * np.linspace(0.5, 1.1, 80).astype(np.float32)
        biases = row.min() + width * np.linspace(-0.05, 0.4, 120).astype(np.float32)
        best += best_of_all(row, importance, np.arange(2.0**bits), scales, biases, False)
    assert squared_error(w, found, importance) < 1.08 * best


@pytest.mark.parametrize(("name", "group", "allowed"), [("Q4_K", 32, 1.06), ("Q5_K", 32, 1.15), ("Q6_K", 16, 1.05)])
def test_integer_scales_cost_little(name: str, group: int, allowed: float) -> None:
    """Against groups with scales and biases of their own."""
    w, _ = outlier_matrix((24, 512))
    importance = importance_of(512)
    found = squared_error(w, nearest("w", w, tensor_scheme(name), importance).dequantize(), importance)
    free = {"Q4_K": "Q4_1", "Q5_K": "Q5_1", "Q6_K": "int6-g16-sym"}[name]
    alone = nearest("w", w, tensor_scheme(free), importance).dequantize()
    assert found < allowed * squared_error(w, alone, importance)


@pytest.mark.parametrize(
    "name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "int4-g64-bias", "mxfp4", "mxfp8", "nvfp4-mlx"]
)
def test_fits_are_better_than_simple_rounding(name: str) -> None:
    """Of the tools whose formats these are, in every group."""
    w = (0.02 * np.random.default_rng(5).standard_t(4, (40, 64))).astype(np.float32)
    values = nearest("w", w, tensor_scheme(name)).dequantize()
    plain = simple(name, w)
    group = tensor_scheme(name).span(64)
    errors = [np.square(w - v).reshape(40, -1, group).sum(-1) for v in (values, plain)]
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()


def simple(name: str, w: Floats) -> Floats:
    """Rounding by the extremes of each group."""
    x = w.reshape(len(w), -1, tensor_scheme(name).span(64))
    largest = np.abs(x).max(-1, keepdims=True)
    book = tensor_scheme(name).placeholder("w", (1, 64)).codebook
    if book is not None:
        levels = np.unique(book[np.isfinite(book)])
        scale = largest / levels[-1]
        if name == "nvfp4-mlx":
            numbers = tensor_scheme(name).placeholder("w", (1, 64)).scales.codebook
            assert numbers is not None
            numbers = numbers[1:127]
            scale = numbers[np.abs(scale - numbers).argmin(-1)][..., None]
        else:
            scale = np.exp2(np.ceil(np.log2(scale)))
        return (levels[np.abs(x[..., None] / scale[..., None] - levels).argmin(-1)] * scale).reshape(w.shape)
    bits = {"Q8_0": 8, "Q5_0": 5, "Q5_1": 5}.get(name, 4)
    if name in ("Q4_1", "Q5_1", "int4-g64-bias"):
        store = as_bfloat16 if "bias" in name else as_float16
        low = x.min(-1, keepdims=True)
        scale = store((x.max(-1, keepdims=True) - low) / np.float32(2**bits - 1))
        low = store(low)
        return (np.clip(np.rint((x - low) / scale), 0, 2**bits - 1) * scale + low).reshape(w.shape)
    signed = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)
    scale = as_float16(largest / 127 if bits == 8 else signed / np.float32(-(2 ** (bits - 1))))
    low, high = (-127, 127) if bits == 8 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (np.clip(np.rint(x / scale), low, high) * scale).reshape(w.shape)


def test_importance_moves_the_error_to_other_inputs() -> None:
    w, gram = outlier_matrix((32, 256))
    importance = np.ascontiguousarray(gram.diagonal())
    for name in ("int4-g64", "Q4_K", "Q6_K", "IQ4_NL", "mxfp4", "nvfp4"):
        scheme = tensor_scheme(name)
        weighted, equal = (nearest("w", w, scheme, some).dequantize() for some in (importance, None))
        assert squared_error(w, weighted, importance) < 0.97 * squared_error(w, equal, importance)
        assert squared_error(w, equal) < squared_error(w, weighted)


def test_stored_numbers() -> None:
    numbers = np.array([1e9, -1e9, 0.1, 1e-9, 3.0], np.float32)
    assert as_float16(numbers).tolist() == [65504, -65504, float(np.float16(0.1)), 0, 3]
    np.testing.assert_array_equal(as_bfloat16(numbers), bfloat16_to_float32(float32_to_bfloat16(numbers)))
    tensor = nearest("w", np.full((2, 64), 0.1, np.float32), tensor_scheme("int4-g64-bias"))
    for part in (tensor.scales, tensor.biases):
        assert isinstance(part, BlockValues)
        stored = float32_to_bfloat16(np.asarray(part.numbers()))
        np.testing.assert_array_equal(DenseTensor("s", "bf16", stored).float32(), part.numbers())
