"""Row-wise operations of the native backend against float64, on odd sizes, with memory that starts as NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exact_ops import activate, regroup_2x2, rms, sigmoid, silu
from native_kit import Inputs, close

from pocketvlm.backends.native import NativeBackend
from pocketvlm.backends.native.matrices import Matrix
from pocketvlm.tensors import DenseTensor, bfloat16_to_float32

ODD = [1, 2, 3, 7, 8, 9, 15, 17, 31, 33, 65, 127, 130]


@pytest.mark.parametrize("dtype", ["bf16", "f32", "f16"])
@pytest.mark.parametrize(("inputs", "out"), [(1, 1), (7, 3), (33, 17), (64, 32), (127, 65), (130, 133)])
def test_linear(native: NativeBackend, dtype: str, inputs: int, out: int) -> None:
    make = Inputs(inputs)
    stored = make.matrix(out, inputs, dtype)
    weight, exact = native.prepare(stored, "matrix"), stored.float32().astype(np.float64)
    for rows in ODD:
        x, bias, residual = make(rows, inputs), make(out), make(rows, out)
        close(native.linear(x, weight), x @ exact.T)
        for activation in ("gelu_tanh", "gelu_erf", "silu", None):
            expected = activate(x @ exact.T + bias, activation) + residual
            close(native.linear(x, weight, bias, residual, activation), expected)


@pytest.mark.parametrize("rows", [3, 70])
def test_linear_splits_long_rows(native: NativeBackend, rows: int) -> None:
    make = Inputs(rows)
    stored = make.matrix(37, 3201, "bf16")
    x, bias, residual = make(rows, 3201), make(37), make(rows, 37)
    expected = activate(x @ stored.float32().astype(np.float64).T + bias, "silu") + residual
    close(native.linear(x, native.prepare(stored, "matrix"), bias, residual, "silu"), expected)


def test_linear_of_many_rows(native: NativeBackend) -> None:
    make = Inputs()
    stored = make.matrix(45, 24, "f32")
    x = make(2500, 24)
    close(native.linear(x, native.prepare(stored, "matrix")), x @ stored.float32().astype(np.float64).T)


def test_a_row_does_not_depend_on_its_batch(native: NativeBackend) -> None:
    make = Inputs()
    weight = native.prepare(make.matrix(65, 257, "bf16"), "matrix")
    x = make(200, 257)
    whole = native.linear(x, weight)
    for n in (1, 2, 3, 5, 8):
        np.testing.assert_array_equal(native.linear(x[:n], weight)[0], native.linear(x[:1], weight)[0])
    for n in (1, 9, 17, 64):
        close(native.linear(x[:n], weight), whole[:n].astype(np.float64), 1e-6)


def test_activations_far_out(native: NativeBackend) -> None:
    x = np.concatenate([np.linspace(-120, 120, 20001), [1e-30, -1e-30, 1e4, -1e4, 3e38, -3e38, np.inf]]).astype(
        np.float32
    )
    one = native.prepare(Inputs().matrix(1, 1, "f32"), "matrix")
    one.data[...] = 1.0
    for activation in ("gelu_tanh", "gelu_erf", "silu"):
        with np.errstate(over="ignore", invalid="ignore"):
            expected = activate(x.astype(np.float64), activation)
        expected[-1] = np.inf
        actual = native.linear(x[:, None], one, activation=activation)[:, 0]
        assert np.isfinite(actual[:-1]).all()
        normal = np.abs(expected) > 1e-30
        normal[-1] = False
        relative = np.abs(actual[normal] - expected[normal]) / np.abs(expected[normal])
        assert relative[np.abs(x[normal]) < 4].max() < (2e-6 if activation != "silu" else 4e-7)
        assert np.abs(actual[:-1] - expected[:-1])[np.abs(x[:-1]) < 130].max() < 2e-5
        assert np.isinf(actual[-1])
    gate = native.sigmoid_gate(np.ones((1, len(x)), np.float32), x[None])[0]
    exact = sigmoid(x.astype(np.float64))
    normal = exact > 1e-37
    assert (np.abs(gate - exact)[normal] / exact[normal]).max() < 4e-7
    assert np.isnan(native.sigmoid_gate(np.ones((1, 1), np.float32), np.full((1, 1), np.nan, np.float32))).all()


@pytest.mark.parametrize("width", [1, 3, 16, 31, 128, 1023])
def test_norms(native: NativeBackend, width: int) -> None:
    make = Inputs(width)
    for rows in (1, 3, 17, 65):
        x, weight, bias = make(rows, width) + np.float32(3), make(width), make(width)
        close(native.rms_norm(x, weight, 1e-6), rms(x, 1e-6) * (1 + weight.astype(np.float64)))
        exact = x.astype(np.float64)
        centred = exact - exact.mean(-1, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight + bias
        close(native.layer_norm(x, weight, bias, 1e-6), expected, 5e-6)
        heads, z = make(rows, 3 * width), make(rows, 3 * width)
        shape = (rows, 3, width)
        gated = weight * rms(heads.reshape(shape), 1e-6) * silu(z.reshape(shape))
        close(native.gated_rms_norm(heads, z, weight, 1e-6), gated.reshape(rows, -1))


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (17, 33), (129, 300)])
def test_gates(native: NativeBackend, shape: tuple[int, int]) -> None:
    make = Inputs()
    x, gate = make(*shape), make(*shape, scale=5)
    close(native.swiglu(gate, x), silu(gate) * x)
    close(native.sigmoid_gate(x, gate), sigmoid(gate) * x)


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_rows(native: NativeBackend, dtype: str) -> None:
    make = Inputs()
    stored = make.matrix(50, 33, dtype)
    ids = make.random.integers(0, 50, 300).astype(np.int32)
    np.testing.assert_array_equal(native.embed(native.prepare(stored, "matrix"), ids), stored.float32()[ids])
    x = make(50, 33)
    np.testing.assert_array_equal(native.take(x, ids), x[ids])
    rows, values = np.array([7, 0, 49], np.int32), make(3, 33)
    expected = x.copy()
    expected[rows] = values
    native.put(x, rows, values)
    np.testing.assert_array_equal(x, expected)
    assert native.take(x, np.zeros(0, np.int32)).shape == (0, 33)
    np.testing.assert_array_equal(native.concat([x[:20], values, x[20:]]), np.concatenate([x[:20], values, x[20:]]))


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("start", [0, 1])
def test_rows_are_looked_up_where_they_are_stored(native: NativeBackend, dtype: Any, start: int) -> None:
    """Each of the 65,536 numbers, subnormal, infinite and not-a-number ones among them, also at odd addresses."""
    memory = np.zeros((1 << 17) + 1, np.uint8)
    numbers = np.frombuffer(memory, np.float16 if dtype == "f16" else np.uint16, 1 << 16, start)
    numbers.view(np.uint16)[:] = np.arange(1 << 16)
    stored = DenseTensor("rows", dtype, numbers.reshape(256, 256))
    table = native.prepare(stored, "embedding")
    assert isinstance(table, Matrix)
    assert np.shares_memory(table.data, stored.data)
    ids = np.random.default_rng(0).permutation(256).astype(np.int32)
    floats = numbers.astype(np.float32) if dtype == "f16" else bfloat16_to_float32(numbers)
    found, expected = native.embed(table, ids), floats.reshape(256, 256)[ids]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


def test_windows(native: NativeBackend) -> None:
    make = Inputs()
    sizes = [(2, 2), (4, 6), (32, 10), (2, 8)]
    x = make(sum(h * w for h, w in sizes), 5)
    grouped = native.regroup_2x2(x, np.array(sizes, np.int32))
    np.testing.assert_array_equal(grouped, regroup_2x2(x, sizes))
    close(native.window_mean(grouped), grouped.reshape(-1, 4, 5).astype(np.float64).mean(1))


def test_vectors_keep_their_shape(native: NativeBackend) -> None:
    stored = Inputs().matrix(6, 4, "bf16").reshape(6, 1, 4)
    vector = native.prepare(stored, "vector")
    assert vector.shape == (6, 1, 4)
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(native.to_numpy(native.from_numpy(vector)), stored.float32())
    assert not native.zeros(2, 3).any()


def test_bf16_weights_are_not_copied(native: NativeBackend) -> None:
    stored = Inputs().matrix(6, 4, "bf16")
    assert np.shares_memory(native.prepare(stored, "matrix").data, stored.data)
