"""Matrices of codes: every instruction set against the plain meaning of the packed form, odd sizes, poisoned memory."""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
import pytest
from exact_ops import activate
from native_kit import Inputs
from numpy.typing import NDArray

from pocketvlm import _native
from pocketvlm.backends.native import NativeOps, coding
from pocketvlm.backends.ops import StoredTensor

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


def matrix(outputs: int, inputs: int, seed: int = 0) -> StoredTensor:
    return Inputs(seed).matrix(outputs, inputs, "bf16")


def decoded(native: NativeOps, weight: coding.Coded) -> NDArray[np.float32]:
    """The values of a matrix of codes."""
    out = np.empty((weight.outputs, weight.inputs), np.float32)
    native._native.coded_embed(weight.handle, np.arange(weight.outputs, dtype=np.int32), out)
    return out


FORMS = [(8, coding.WHOLE), (8, coding.FINE), (8, coding.GROUP), (4, coding.GROUP), (4, 32), (4, 128)]


@pytest.mark.parametrize(("bits", "group"), FORMS)
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_products(native: NativeOps, bits: int, group: int, outputs: int, inputs: int) -> None:
    weight = coding.encode(native._native, matrix(outputs, inputs), bits, group)
    values = decoded(native, weight).astype(np.float64)
    make = Inputs(1)
    for rows in ROWS:
        x, bias, residual = make(rows, inputs), make(outputs), make(rows, outputs)
        seen = quantized(x, group or weight.depth)
        close(native.linear(x, weight), seen @ values.T, 3e-3)
        for activation in ("gelu_tanh", "gelu_erf", "silu", None):
            expected = activate(seen @ values.T + bias, activation) + residual
            close(native.linear(x, weight, bias, residual, activation), expected, 3e-3)


@pytest.mark.parametrize(("bits", "group"), FORMS)
def test_instruction_sets_agree(bits: int, group: int) -> None:
    """The sums are whole numbers: they are equal, and only what follows them is rounded."""
    x, results, codes = Inputs(3)(40, 448), [], []
    weight = coding.encode(_native.Runtime(1, "serial"), matrix(48, 448), bits, group)
    for isa in _native.usable_isas():
        ops = NativeOps(_native.Runtime(2, isa), {})
        results.append([ops.linear(x[:n], weight) for n in (1, 5, 40)])
        codes.append(coding.encode(ops._native, matrix(48, 448), bits, group).codes)
    for outputs, own in zip(results[1:], codes[1:], strict=True):
        for a, b in zip(outputs, results[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
        # Rounding may fall on the other side where a product is rounded before it is added.
        assert (own != codes[0]).mean() < 2e-3


@pytest.mark.parametrize(("bits", "group"), FORMS)
def test_a_row_does_not_depend_on_its_batch(native: NativeOps, bits: int, group: int) -> None:
    """Bit for bit: this is what lets a request have one answer in any company."""
    weight = coding.encode(native._native, matrix(50, 320), bits, group)
    x = Inputs(4)(60, 320)
    everything = native.linear(x, weight)
    for n in (1, 2, 3, 5, 8, 13, 16, 17, 30, 59):
        np.testing.assert_array_equal(native.linear(x[:n], weight), everything[:n])
        np.testing.assert_array_equal(native.linear(x[60 - n :], weight), everything[60 - n :])


def test_products_of_one_input_together(native: NativeOps) -> None:
    """The same as one after the other, whatever forms are mixed."""
    forms = [(4, 64), (4, 64), (8, 64), (8, 0), (8, 0), (4, 32)]
    weights = [coding.encode(native._native, matrix(20 + 7 * i, 200, i), *form) for i, form in enumerate(forms)]
    make = Inputs(2)
    biases = [make(20), None, make(34)]
    for rows in (1, 5, 40):
        x = make(rows, 200)
        alone = [native.linear(x, w, b) for w, b in zip_longest(weights, biases)]
        for a, b in zip(native.linears(x, weights, biases), alone, strict=True):
            np.testing.assert_array_equal(a, b)


def test_error_of_round_to_nearest(native: NativeOps) -> None:
    stored = matrix(64, 1024)
    exact = stored.float32()
    for bits, group, most in ((8, 0, 0.01), (8, 64, 0.006), (4, 64, 0.095), (4, 32, 0.085), (4, 128, 0.102)):
        weight = coding.encode(native._native, stored, bits, group)
        seen = decoded(native, weight)
        assert np.linalg.norm(seen - exact) < most * np.linalg.norm(exact)


def test_tables_and_minima(native: NativeOps) -> None:
    """Codes as other formats have them: any 16 values, a scale and a minimum a group."""
    random = np.random.default_rng(5)
    outputs, inputs, group = 37, 160, 32
    codes = random.integers(0, 16, (outputs, inputs)).astype(np.uint8)
    scale = (random.random((outputs, inputs // group)) * 0.1).astype(np.float16)
    minimum = (random.standard_normal((outputs, inputs // group)) * 0.2).astype(np.float16)
    table = np.sort(random.permutation(255)[:16]).astype(np.uint8)
    row_scale = np.zeros(48, np.float32)
    row_scale[:outputs] = random.random(outputs) + 0.5
    x = Inputs(6)(23, inputs)
    packed = coding.pack(codes, 4, inputs)
    for with_table in (False, True):
        for with_minimum in (False, True):
            values = (table[codes] if with_table else codes).astype(np.float64) - (128 if with_table else 8)
            values = values * np.repeat(scale.astype(np.float64), group, 1)
            if with_minimum:
                values += np.repeat(minimum.astype(np.float64), group, 1)
            values *= row_scale[:outputs, None]
            weight = coding.coded(
                native._native, 4, group, inputs, outputs, packed, coding.pack_groups(scale),
                coding.pack_groups(minimum) if with_minimum else None, row_scale, table if with_table else None,
            )  # fmt: skip
            np.testing.assert_allclose(decoded(native, weight), values, rtol=1e-5, atol=1e-6)
            for rows in (1, 3, 16, 23):
                close(native.linear(x[:rows], weight), quantized(x[:rows], group) @ values.T, 3e-3)


def test_zeros_and_extremes(native: NativeOps) -> None:
    for bits in (8, 4):
        weight = coding.encode(native._native, matrix(20, 128), bits)
        for rows in (1, 20):
            assert (native.linear(np.zeros((rows, 128), np.float32), weight) == 0).all()
            big = Inputs()(rows, 128, scale=1e30)
            assert np.isfinite(native.linear(big, weight)).all()
        nothing = coding.encode(native._native, StoredTensor("w", "f32", np.zeros((20, 128), np.float32)), bits)
        assert (native.linear(Inputs()(20, 128), nothing) == 0).all()


def test_wrong_arrays_are_refused(native: NativeOps) -> None:
    codes, scale = np.zeros((1, 16, 64), np.uint8), np.zeros(16, np.float32)
    make = _native.CodedMatrix
    assert make(8, 0, 64, 16, codes, None, None, scale, None).outputs == 16
    for args, word in [
        ((5, 64, 64, 16, codes, None, None, scale, None), "4 or 8 bits"),
        ((4, 44, 64, 16, codes, None, None, scale, None), "multiple of 8"),
        ((8, 0, 64, 17, codes, None, None, scale, None), "codes"),
        ((8, 0, 64, 16, codes, codes, None, scale, None), "nothing else"),
        ((8, 0, 64, 16, codes, None, None, scale, np.zeros(16, np.uint8)), "no table"),
        ((8, 0, 64, 16, codes, None, None, scale[:3], None), "row_scale"),
        ((8, 0, 64, 16, codes.astype(np.uint16), None, None, scale, None), "uint8"),
    ]:
        with pytest.raises(ValueError, match=word):
            make(*args)
    weight = make(8, 0, 64, 16, codes, None, None, scale, None)
    with pytest.raises(ValueError, match="x must have shape"):
        native._native.coded_linear(np.zeros((1, 65), np.float32), [weight], [], [], [np.zeros((1, 16), np.float32)], 0)
    with pytest.raises(ValueError, match="1 to 8 weights"):
        native._native.coded_linear(np.zeros((1, 64), np.float32), [weight], [], [], [], 0)
