"""Updates of adapters on the native backend: the formula, batch invariance, rounded factors, and captured steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pocketvlm.backends import native
from pocketvlm.backends.native.backend import NativeBackend
from pocketvlm.backends.native.low_rank import BLOCK, in_blocks
from pocketvlm.backends.ops import AdaptedRows
from pocketvlm.backends.options import choose
from pocketvlm.tensors import DenseTensor, bfloat16_to_float32

SIZES = [(1, 1, 1), (33, 70, 5), (100, 31, 16), (257, 1100, 40)]  # inputs, outputs, rank
ROWS, ACTIVATIONS = 45, ("gelu_tanh", "gelu_erf", "silu")


@pytest.fixture(params=[(precision, threads) for precision in ("exact", "fast") for threads in (1, 2, 3, 4)], ids=str)
def backend(request: pytest.FixtureRequest) -> NativeBackend:
    precision, threads = request.param
    return native.create(threads, scheme=choose("native", precision=precision))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def matrix(ops: NativeBackend, outputs: int, inputs: int) -> Any:
    return ops.prepare(DenseTensor("w", "f32", normal(9, outputs, inputs)), "patch_embedding")


@pytest.mark.parametrize(("inputs", "outputs", "rank"), SIZES)
def test_updates_are_the_formula(backend: NativeBackend, inputs: int, outputs: int, rank: int) -> None:
    """Several adapters and matrices in one call, rows of one adapter apart, some without any."""
    x, keys = normal(0, ROWS, inputs), ("one", "two", "three")
    outs = [normal(i, ROWS, outputs + i) for i in range(3)]
    expected = [out.astype(np.float64) for out in outs]
    rows = np.random.default_rng(1).permutation(ROWS)[:40]
    adapters = []
    for number, part in enumerate(np.split(rows, [1, 4, 20])):
        updates, chosen = {}, np.sort(part).astype(np.int32)
        for i, key in enumerate(keys):
            if (number, key) == (1, "two"):
                continue
            a = normal(7 * number + i, rank + number, inputs) / np.float32(inputs**0.5)
            b = normal(8 * number + i, outputs + i, rank + number)
            updates[key] = backend.low_rank(a, b, 0.5)
            expected[i][chosen] += 0.5 * (x[chosen].astype(np.float64) @ a.T) @ b.T
        adapters.append(AdaptedRows(chosen, updates))
    backend.add_updates(x, keys, outs, adapters)  # type: ignore[arg-type]
    tolerance = 1e-5 if backend.scheme.precision == "exact" else 2e-2
    for out, wanted in zip(outs, expected, strict=True):
        assert np.abs(out - wanted).max() <= tolerance * max(1.0, np.abs(wanted).max())


def test_a_row_does_not_depend_on_others(backend: NativeBackend) -> None:
    x, update = normal(0, ROWS, 100), backend.low_rank(normal(1, 9, 100), normal(2, 70, 9), 1.5)
    start = normal(3, ROWS, 70)
    whole = start.copy()
    backend.add_updates(x, ("w",), (whole,), (AdaptedRows(None, {"w": update}),))  # type: ignore[arg-type]
    for chosen in ([0], [44], [3, 9], range(5), range(7, 40), range(0, ROWS, 2)):
        rows = np.array(chosen, np.int32)
        out = start.copy()
        backend.add_updates(x, ("w",), (out,), (AdaptedRows(rows, {"w": update}),))  # type: ignore[arg-type]
        np.testing.assert_array_equal(out[rows], whole[rows])
        others = np.setdiff1d(np.arange(ROWS), rows)
        np.testing.assert_array_equal(out[others], start[others])
        own, out = np.ascontiguousarray(x[rows]), np.ascontiguousarray(start[rows])
        backend.add_updates(own, ("w",), (out,), (AdaptedRows(None, {"w": update}),))  # type: ignore[arg-type]
        np.testing.assert_array_equal(out, whole[rows])


def test_threads_do_not_change_bits() -> None:
    found = []
    for threads in (1, 2, 3, 4):
        ops = native.create(threads, scheme=choose("native"))
        out = normal(3, ROWS, 1100)
        update = ops.low_rank(normal(1, 16, 100), normal(2, 1100, 16), 1.0)
        ops.add_updates(normal(0, ROWS, 100), ("w",), (out,), (AdaptedRows(None, {"w": update}),))  # type: ignore[arg-type]
        found.append(out)
    for out in found[1:]:
        np.testing.assert_array_equal(out, found[0])


@pytest.mark.parametrize("columns", [False, True])
def test_blocks_hold_each_number_once(columns: bool) -> None:
    factor = np.arange(1, 3 * 70 + 1, dtype=np.float32).reshape(3, 70)  # bfloat16 holds whole numbers up to 256
    plain, rounded = in_blocks(factor, False, columns), in_blocks(factor, True, columns)
    assert plain.shape == rounded.shape == ((3, 3, BLOCK) if columns else (3, 3 * BLOCK))
    whole = plain.transpose(1, 0, 2).reshape(3, -1) if columns else plain
    np.testing.assert_array_equal(whole[:, :70], factor)
    assert not whole[:, 70:].any()
    pairs = bfloat16_to_float32(rounded).reshape(-1, BLOCK // 2, 2)
    np.testing.assert_array_equal(pairs.swapaxes(1, 2).reshape(plain.shape), plain)


def test_factors_are_rounded_once() -> None:
    """`fast` rounds factors to bfloat16 and nothing else."""
    ops, x = native.create(2, scheme=choose("native")), normal(0, 64, 1024)
    a, b = normal(1, 16, 1024), normal(2, 300, 16)
    found = np.zeros((64, 300), np.float32)
    ops.add_updates(x, ("w",), (found,), (AdaptedRows(None, {"w": ops.low_rank(a, b, 1.0)}),))  # type: ignore[arg-type]
    exact = x.astype(np.float64) @ a.T @ b.T
    assert np.linalg.norm(found - exact) / np.linalg.norm(exact) < 2.5e-3


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_follows_the_update(backend: NativeBackend, activation: Any) -> None:
    weight, x, bias = matrix(backend, 33, 60), normal(0, 9, 60), normal(1, 33)
    adapters = (AdaptedRows(None, {weight: backend.low_rank(normal(2, 3, 60), normal(3, 33, 3), 0.3)}),)
    whole = backend.linear(x, weight, bias, adapters=adapters)
    found = backend.linear(x, weight, bias, activation=activation, adapters=adapters)
    np.testing.assert_array_equal(found, backend.activate(whole, activation))
    plain = backend.linear(x, weight, bias)
    np.testing.assert_allclose(
        backend.activate(plain, activation), backend.linear(x, weight, bias, activation=activation), atol=1e-6
    )
    with pytest.raises(ValueError, match="two operations"):
        backend.linear(x, weight, bias, whole, activation, adapters)


def test_a_captured_update_runs_again(backend: NativeBackend) -> None:
    weight, x = matrix(backend, 33, 60), normal(0, 4, 60)
    rows = np.array([1, 3], np.int32)
    adapters = (AdaptedRows(rows, {weight: backend.low_rank(normal(2, 3, 60), normal(3, 33, 3), 0.3)}),)
    _, replay = backend.capture(lambda: backend.linear(x, weight, adapters=adapters))
    x[:] = normal(5, 4, 60)
    np.testing.assert_array_equal(replay(), backend.linear(x, weight, adapters=adapters))
