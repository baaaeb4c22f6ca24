"""Updates of adapters inside products with quantized matrices have the bits of updates of the finished products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from native_kit import Inputs, round_and_pack
from numpy.typing import NDArray

from pocketvlm.backends import native as native_backend
from pocketvlm.backends.native import NativeBackend
from pocketvlm.backends.native.operations import Adapted, NativeOps
from pocketvlm.backends.ops import AdaptedRows
from pocketvlm.backends.options import choose

Floats = NDArray[np.float32]
INPUTS, OUTPUTS, HEAD, RANK = 200, 70, 40, 9
ROWS = (1, 2, 7, 12, 40)


def adapters_of(native: NativeBackend, weights: Sequence[Any], rows: int) -> list[Adapted]:
    """Three adapters: one changes the first matrix only, one all, one all but the first; rows left over have none."""
    make, found = Inputs(rows + 50), []
    for number, changed in enumerate((weights[:1], weights, weights[1:])):
        updates = {
            weight: native.low_rank(make(RANK - number, INPUTS) / 14, make(weight.outputs, RANK - number), 0.5)
            for weight in changed
        }
        found.append(AdaptedRows(np.arange(number, rows, 4, dtype=np.int32), updates))
    return found


def separately(
    native: NativeBackend,
    x: Floats,
    weights: Sequence[Any],
    adapters: Sequence[Adapted],
    residual: Floats | None = None,
) -> list[Floats]:
    """The products, and then the updates in an operation of their own."""
    outs = [native.linear(x, weight, residual=residual) for weight in weights]
    native.add_updates(x, weights, outs, adapters)
    return outs


def operations(
    native: NativeBackend, weights: Sequence[Any], rows: int, adapters: Sequence[Adapted]
) -> dict[str, tuple[Callable[[], Sequence[Floats]], Callable[[], Sequence[Floats]]]]:
    """Each operation that takes adapters, and what it stands for."""
    make = Inputs(rows)
    x, other, norm, head = make(rows, INPUTS), make(rows, INPUTS), make(INPUTS), make(HEAD)
    residual, first, pair = make(rows, OUTPUTS), weights[:1], weights[:2]
    normed, gated = native.rms_norm(x, norm, 1e-6), native.gated_rms_norm(x, other, head, 1e-6)
    sigmoid = native.sigmoid_gate(x, other)
    return {
        "linear": (
            lambda: [native.linear(x, *first, residual=residual, adapters=adapters)],
            lambda: separately(native, x, first, adapters, residual),
        ),
        "linears": (
            lambda: native.linears(x, weights, adapters=adapters),
            lambda: separately(native, x, weights, adapters),
        ),
        "rms_norm_linears": (
            lambda: native.rms_norm_linears(x, norm, 1e-6, weights, adapters),
            lambda: separately(native, normed, weights, adapters),
        ),
        "rms_norm_swiglu": (
            lambda: [native.rms_norm_swiglu(x, norm, 1e-6, *pair, adapters)],
            lambda: [native.swiglu(*separately(native, normed, pair, adapters))],
        ),
        "gated_rms_norm_linear": (
            lambda: [native.gated_rms_norm_linear(x, other, head, 1e-6, *first, residual, adapters)],
            lambda: separately(native, gated, first, adapters, residual),
        ),
        "sigmoid_gate_linear": (
            lambda: [native.sigmoid_gate_linear(x, other, *first, residual, adapters)],
            lambda: separately(native, sigmoid, first, adapters, residual),
        ),
    }


@pytest.mark.parametrize("scheme", [(4, 64), (8, None)], ids=str)
def test_updates_inside_products(
    native: NativeBackend, scheme: tuple[int, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Inputs(1)
    weights = [round_and_pack(native._native, make.matrix(OUTPUTS, INPUTS, "bf16"), *scheme) for _ in range(3)]
    alone: list[bool] = []
    plain = NativeOps.add_updates

    def counted(self: NativeOps, *args: Any) -> None:
        alone.append(True)
        plain(self, *args)

    monkeypatch.setattr(NativeOps, "add_updates", counted)
    for rounded in (False, True):
        monkeypatch.setattr(native, "_fast", rounded)
        for rows in ROWS:
            adapters = adapters_of(native, weights, rows)
            for name, (together, apart) in operations(native, weights, rows, adapters).items():
                alone.clear()
                found = together()
                assert not alone, name
                for out, expected in zip(found, apart(), strict=True):
                    np.testing.assert_array_equal(out, expected, err_msg=f"{name}, {rows} rows")


def test_rows_do_not_depend_on_the_batch(native: NativeBackend) -> None:
    make = Inputs(2)
    weights = [round_and_pack(native._native, make.matrix(OUTPUTS, INPUTS, "bf16"), 4, 64) for _ in range(2)]
    x, norm, rows = make(60, INPUTS), make(INPUTS), np.arange(0, 60, 3, dtype=np.int32)
    updates = adapters_of(native, weights, 60)[1].updates
    whole = native.rms_norm_swiglu(x, norm, 1e-6, *weights, (AdaptedRows(rows, updates),))
    every = native.rms_norm_swiglu(x, norm, 1e-6, *weights, (AdaptedRows(None, updates),))
    np.testing.assert_array_equal(whole[rows], every[rows])
    others = np.setdiff1d(np.arange(60), rows)
    np.testing.assert_array_equal(whole[others], native.rms_norm_swiglu(x, norm, 1e-6, *weights)[others])
    for n in (1, 2, 5, 13, 30):
        some = native.rms_norm_swiglu(x[:n], norm, 1e-6, *weights, (AdaptedRows(None, updates),))
        np.testing.assert_array_equal(some, every[:n])


def test_a_captured_product_reads_its_rows_again() -> None:
    native, make = native_backend.create(2, scheme=choose("native")), Inputs(3)
    weight = round_and_pack(native._native, make.matrix(OUTPUTS, INPUTS, "bf16"), 4, 64)
    x, rows = make(4, INPUTS), np.array([1, 3], np.int32)
    adapters = (AdaptedRows(rows, {weight: native.low_rank(make(3, INPUTS), make(OUTPUTS, 3), 0.3)}),)
    _, replay = native.capture(lambda: native.linear(x, weight, adapters=adapters))
    rows[:] = 0, 2
    np.testing.assert_array_equal(replay(), native.linear(x, weight, adapters=adapters))
    rows[:] = 2, 2
    with pytest.raises(ValueError, match=r"rows\[1\] must be greater than the row before"):
        replay()


def test_bad_updates_are_refused(native: NativeBackend) -> None:
    make = Inputs(4)
    weight = round_and_pack(native._native, make.matrix(OUTPUTS, INPUTS, "bf16"), 4, 64)
    x, out, good = make(3, INPUTS), make(3, OUTPUTS), native.low_rank(make(2, INPUTS), make(OUTPUTS, 2), 1.0)
    other = native.low_rank(make(2, INPUTS + 32), make(OUTPUTS + 32, 2), 1.0)
    call = native._native.quantized_linear
    before = out.copy()
    for updates, message in (
        ([[], []], "updates are of these weights"),
        ([[(None, good.a, good.b)]], "an update has rows, a, b and scale"),
        ([[(None, other.a, good.b, 1.0)]], "a must have shape"),
        ([[(None, good.a, other.b, 1.0)]], "b has 4 blocks, which 70 outputs do not fill"),
        ([[(np.array([3], np.int32), good.a, good.b, 1.0)]], r"rows\[0\] is 3, outside \[0, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call(x, [weight.handle], [], [], [out], 0, updates=updates)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exclude an activation"):
        call(x, [weight.handle], [], [], [out], 1, updates=[[(None, good.a, good.b, 1.0)]])
    np.testing.assert_array_equal(out, before)
