"""Quantized matrices: every instruction set against the plain meaning of the packed layout, in poisoned memory."""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
import pytest
from exact_ops import activate
from native_kit import Inputs, round_and_pack
from numpy.typing import NDArray

from pocketvlm import _native
from pocketvlm.backends.native import NativeBackend
from pocketvlm.backends.native.group_numbers import pack_groups
from pocketvlm.backends.native.pack import pack_codes
from pocketvlm.backends.native.packed_matrix import PackedMatrix, packed_matrix
from pocketvlm.tensors import DenseTensor

ROWS = [1, 2, 3, 4, 5, 7, 16, 17, 23, 97]
SIZES = [(16, 64), (33, 65), (100, 200), (65, 448), (17, 1000)]


def quantized(x: NDArray[np.float32], group: int) -> NDArray[np.float64]:
    """x as the kernels see it: one scale for each group of a row."""
    rows, inputs = x.shape
    padded = np.zeros((rows, -(-inputs // group) * group), np.float64)
    padded[:, :inputs] = x
    parts = padded.reshape(rows, -1, group)
    scale = np.abs(parts).max(-1, keepdims=True) / 127
    codes = np.rint(np.divide(parts, scale, out=np.zeros_like(parts), where=scale > 0))
    return (codes * scale).reshape(rows, -1)[:, :inputs]


def close(actual: NDArray[np.float32], expected: NDArray[np.float64], tolerance: float) -> None:
    assert np.isfinite(actual).all()
    assert np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected)


def matrix(outputs: int, inputs: int, seed: int = 0) -> DenseTensor:
    return Inputs(seed).matrix(outputs, inputs, "bf16")


def dequantized(native: NativeBackend, weight: PackedMatrix) -> NDArray[np.float32]:
    """The values of a matrix of codes."""
    out = np.empty((weight.outputs, weight.inputs), np.float32)
    native._native.quantized_embed(weight.handle, np.arange(weight.outputs, dtype=np.int32), out)
    return out


SCHEMES = [(8, None), (8, 32), (8, 64), (4, 64), (4, 32), (4, 128)]


@pytest.mark.parametrize(("bits", "group"), SCHEMES)
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_products(native: NativeBackend, bits: int, group: int | None, outputs: int, inputs: int) -> None:
    weight = round_and_pack(native._native, matrix(outputs, inputs), bits, group)
    values = dequantized(native, weight).astype(np.float64)
    make = Inputs(1)
    for rows in ROWS:
        x, bias, residual = make(rows, inputs), make(outputs), make(rows, outputs)
        seen = quantized(x, group or weight.depth)
        close(native.linear(x, weight), seen @ values.T, 3e-3)
        for activation in ("gelu_tanh", "gelu_erf", "silu", None):
            expected = activate(seen @ values.T + bias, activation) + residual
            close(native.linear(x, weight, bias, residual, activation), expected, 3e-3)


@pytest.mark.parametrize(("bits", "group"), SCHEMES)
def test_instruction_sets_agree(bits: int, group: int | None) -> None:
    """The sums are whole numbers: they are equal, and only what follows them is rounded."""
    x, results, codes = Inputs(3)(40, 448), [], []
    weight = round_and_pack(_native.Runtime(1, "serial"), matrix(48, 448), bits, group)
    for isa in _native.usable_isas():
        ops = NativeBackend(_native.Runtime(2, isa), {})
        results.append([ops.linear(x[:n], weight) for n in (1, 5, 40)])
        codes.append(round_and_pack(ops._native, matrix(48, 448), bits, group).codes)
    for outputs, own in zip(results[1:], codes[1:], strict=True):
        for a, b in zip(outputs, results[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
        # Rounding may fall on the other side where a product is rounded before it is added.
        assert (own != codes[0]).mean() < 2e-3


@pytest.mark.parametrize(("bits", "group"), SCHEMES)
def test_a_row_does_not_depend_on_its_batch(native: NativeBackend, bits: int, group: int | None) -> None:
    """Bit for bit: this is what makes results batch-invariant."""
    weight = round_and_pack(native._native, matrix(50, 320), bits, group)
    x = Inputs(4)(60, 320)
    everything = native.linear(x, weight)
    for n in (1, 2, 3, 5, 8, 13, 16, 17, 30, 59):
        np.testing.assert_array_equal(native.linear(x[:n], weight), everything[:n])
        np.testing.assert_array_equal(native.linear(x[60 - n :], weight), everything[60 - n :])


def test_products_of_one_input_together(native: NativeBackend) -> None:
    """The same as one after the other, whatever schemes are mixed."""
    schemes = [(4, 64), (4, 64), (8, 64), (8, None), (8, None), (4, 32)]
    weights = [round_and_pack(native._native, matrix(20 + 7 * i, 200, i), *scheme) for i, scheme in enumerate(schemes)]
    make = Inputs(2)
    biases = [make(20), None, make(34)]
    for rows in (1, 5, 40):
        x = make(rows, 200)
        alone = [native.linear(x, w, b) for w, b in zip_longest(weights, biases)]
        for a, b in zip(native.linears(x, weights, biases), alone, strict=True):
            np.testing.assert_array_equal(a, b)


def test_error_of_round_to_nearest(native: NativeBackend) -> None:
    stored = matrix(64, 1024)
    exact = stored.float32()
    for bits, group, maximum in ((8, None, 0.01), (8, 64, 0.006), (4, 64, 0.095), (4, 32, 0.085), (4, 128, 0.102)):
        weight = round_and_pack(native._native, stored, bits, group)
        seen = dequantized(native, weight)
        assert np.linalg.norm(seen - exact) < maximum * np.linalg.norm(exact)


def test_codebooks_and_biases(native: NativeBackend) -> None:
    """Codes as other formats have them: any 16 values, a scale and a bias a group."""
    random = np.random.default_rng(5)
    outputs, inputs, group = 37, 160, 32
    codes = random.integers(0, 16, (outputs, inputs)).astype(np.uint8)
    scale = (random.random((outputs, inputs // group)) * 0.1).astype(np.float16)
    bias = (random.standard_normal((outputs, inputs // group)) * 0.2).astype(np.float16)
    codebook = np.sort(random.permutation(255)[:16]).astype(np.uint8)
    row_scale = np.zeros(48, np.float32)
    row_scale[:outputs] = random.random(outputs) + 0.5
    x = Inputs(6)(23, inputs)
    packed = pack_codes(codes, 4, inputs)
    for with_codebook in (False, True):
        for with_bias in (False, True):
            values = (codebook[codes] if with_codebook else codes).astype(np.float64) - (128 if with_codebook else 8)
            values = values * np.repeat(scale.astype(np.float64), group, 1)
            if with_bias:
                values += np.repeat(bias.astype(np.float64), group, 1)
            values *= row_scale[:outputs, None]
            weight = packed_matrix(
                4, group, inputs, outputs, packed, pack_groups(scale),
                pack_groups(bias) if with_bias else None, row_scale, codebook if with_codebook else None,
            )  # fmt: skip
            np.testing.assert_allclose(dequantized(native, weight), values, rtol=1e-5, atol=1e-6)
            for rows in (1, 3, 16, 23):
                close(native.linear(x[:rows], weight), quantized(x[:rows], group) @ values.T, 3e-3)


def test_zeros_and_extremes(native: NativeBackend) -> None:
    for bits in (8, 4):
        weight = round_and_pack(native._native, matrix(20, 128), bits, 64)
        for rows in (1, 20):
            assert (native.linear(np.zeros((rows, 128), np.float32), weight) == 0).all()
            big = Inputs()(rows, 128, scale=1e30)
            assert np.isfinite(native.linear(big, weight)).all()
        nothing = round_and_pack(native._native, DenseTensor("w", "f32", np.zeros((20, 128), np.float32)), bits, 64)
        assert (native.linear(Inputs()(20, 128), nothing) == 0).all()


def test_wrong_arrays_are_refused(native: NativeBackend) -> None:
    codes, scale = np.zeros((1, 16, 64), np.uint8), np.zeros(16, np.float32)
    make = _native.QuantizedMatrix
    assert make(8, 0, 64, 16, codes, None, None, scale, None).outputs == 16
    for args, word in [
        ((7, 64, 64, 16, codes, None, None, scale, None), "4, 5, 6 or 8 bits"),
        ((5, 16, 64, 16, codes, None, None, scale, None), "multiple of 32"),
        ((6, 24, 64, 16, codes, None, None, scale, None), "multiple of 16"),
        ((6, 0, 64, 16, codes, None, None, scale, None), "multiple of 16"),
        ((6, 64, 64, 16, np.zeros((1, 12, 64), np.uint8), None, None, scale, np.zeros(16, np.uint8)), "no codebook"),
        ((4, 44, 64, 16, codes, None, None, scale, None), "multiple of 8"),
        ((8, 0, 64, 17, codes, None, None, scale, None), "codes"),
        ((8, 0, 64, 16, codes, codes, None, scale, None), "nothing else"),
        ((8, 0, 64, 16, codes, None, None, scale, np.zeros(16, np.uint8)), "no codebook"),
        ((8, 0, 64, 16, codes, None, None, scale[:3], None), "row_scale"),
        ((8, 0, 64, 16, codes.astype(np.uint16), None, None, scale, None), "uint8"),
    ]:
        with pytest.raises(ValueError, match=word):
            make(*args)
    nibbles = np.zeros((1, 8, 64), np.uint8)
    numbers, bytes_ = np.zeros((1, 2, 16), np.float32), np.zeros((1, 2, 16), np.int8)
    factor, order = np.zeros((1, 1, 16), np.uint16), np.arange(64, dtype=np.int32)
    assert make(4, 32, 64, 16, nibbles, bytes_, None, scale, None, factor, None, 2, bytes_, 0, order).outputs == 16
    for scales, biases, change, word in [
        (None, None, {}, "need a group_scale"),
        (bytes_, None, {}, "group_scale has a factor with values in int8, and only then"),
        (numbers, None, {"scale_factor": factor}, "group_scale has a factor with values in int8"),
        (numbers, None, {"bias_factor": factor}, "group_bias has a factor but no values"),
        (bytes_, None, {"scale_factor": factor, "span": 3}, "a power of two, not 3"),
        (bytes_, None, {"scale_factor": factor}, r"factor must have shape \[1, 2, 16\]"),
        (numbers.astype(np.float64), None, {}, "group_scale must"),
        (numbers[:, :1].copy(), None, {}, r"group_scale must have shape \[1, 2, 16\]"),
        (numbers, numbers[:, :1].copy(), {}, "group_bias must have shape"),
        (numbers, None, {"zero_points": bytes_.astype(np.uint8)}, "zero_points must have dtype int8"),
        (numbers, None, {"zero_points": bytes_, "zero": 3}, "not both"),
        (numbers, None, {"permutation": order[:5].copy()}, "permutation must have shape"),
        (numbers, None, {"permutation": order + 1}, r"permutation\[63\] is 64, outside"),
        (numbers, None, {"codebook": np.zeros((3, 16), np.uint8)}, "codebook must have shape"),
    ]:
        table = change.pop("codebook", None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=word):
            make(4, 32, 64, 16, nibbles, scales, biases, scale, table, **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing else"):
        make(8, 0, 64, 16, codes, None, None, scale, None, zero=3)
    weight = make(8, 0, 64, 16, codes, None, None, scale, None)
    with pytest.raises(ValueError, match="x must have shape"):
        native._native.quantized_linear(
            np.zeros((1, 65), np.float32), [weight], [], [], [np.zeros((1, 16), np.float32)], 0
        )
    with pytest.raises(ValueError, match="1 to 8 weights"):
        native._native.quantized_linear(np.zeros((1, 64), np.float32), [weight], [], [], [], 0)
