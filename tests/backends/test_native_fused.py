"""Operations on the rows inside a product have the bits of the operation followed by the product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from native_kit import Inputs, round_and_pack
from numpy.typing import NDArray

from pocketvlm.backends.native import NativeBackend
from pocketvlm.backends.native.matrices import Matrix, NativeWeight, Tied
from pocketvlm.backends.ops import AdaptedRows, Ops

Floats = NDArray[np.float32]
INPUTS, HEAD = 200, 40
ROWS = (1, 2, 7, 12, 40)
SCHEMES = [(4, 64), (8, 64), (8, None)]


def weights_of(native: NativeBackend, schemes: Sequence[tuple[int, int | None]]) -> list[NativeWeight]:
    make = Inputs(1)
    return [
        round_and_pack(native._native, make.matrix(33 + i, INPUTS, "bf16"), *scheme) for i, scheme in enumerate(schemes)
    ]


def calls(native: NativeBackend, weights: Sequence[NativeWeight], rows: int) -> dict[str, Callable[[type[Any]], Any]]:
    """Each fused operation as a function of the class whose method is called: `NativeOps` or the contract's default."""
    make = Inputs(rows)
    x, other, norm, bias = make(rows, INPUTS), make(rows, INPUTS), make(INPUTS), make(INPUTS)
    head, first = make(HEAD), weights[0]
    biases, residual = [make(weight.outputs) for weight in weights[:-1]], make(rows, first.outputs)
    activated = {"biases": biases, "activation": "gelu_tanh"}
    return {
        "rms_norm_linears": lambda c: c.rms_norm_linears(native, x, norm, 1e-6, weights),
        "rms_norm_swiglu": lambda c: [c.rms_norm_swiglu(native, x, norm, 1e-6, first, first)],
        "layer_norm_linears": lambda c: c.layer_norm_linears(native, x, (norm, bias), 1e-6, weights, biases),
        "with an activation": lambda c: c.layer_norm_linears(native, x, (norm, bias), 1e-6, weights, **activated),
        "gated_rms_norm_linear": lambda c: [c.gated_rms_norm_linear(native, x, other, head, 1e-6, first, residual)],
        "sigmoid_gate_linear": lambda c: [c.sigmoid_gate_linear(native, x, other, first, residual)],
    }


def counted(native: NativeBackend, monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> tuple[Any, list[bool]]:
    """The result, and for each attempt to fuse whether one kernel did it."""
    fused: list[bool] = []
    plain = type(native)._fused

    def attempt(self: NativeBackend, *args: Any, **kwargs: Any) -> Any:
        outs = plain(self, *args, **kwargs)
        fused.append(outs is not None)
        return outs

    with monkeypatch.context() as patch:
        patch.setattr(type(native), "_fused", attempt)
        return work(), fused


@pytest.mark.parametrize("schemes", [[scheme] * 2 for scheme in SCHEMES] + [[(4, 64), (8, 64), (4, 64)]], ids=str)
def test_fused_equals_separate(
    native: NativeBackend, schemes: list[tuple[int, int | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = weights_of(native, schemes)
    for rows in ROWS:
        for name, call in calls(native, weights, rows).items():
            actual, fused = counted(native, monkeypatch, lambda call=call: call(type(native)))
            assert fused == [True], name
            for a, b in zip(actual, call(Ops), strict=True):
                np.testing.assert_array_equal(a, b, err_msg=name)


def test_rows_do_not_depend_on_the_batch(native: NativeBackend) -> None:
    weights, make = weights_of(native, [(4, 64), (8, 64)]), Inputs(3)
    x, z, norm, head, residual = make(60, INPUTS), make(60, INPUTS), make(INPUTS), make(HEAD), make(60, 33)
    whole = native.rms_norm_swiglu(x, norm, 1e-6, weights[0], weights[0])
    gated = native.gated_rms_norm_linear(x, z, head, 1e-6, weights[0], residual)
    for n in (1, 2, 5, 13, 30):
        np.testing.assert_array_equal(native.rms_norm_swiglu(x[:n], norm, 1e-6, weights[0], weights[0]), whole[:n])
        last = native.gated_rms_norm_linear(x[-n:], z[-n:], head, 1e-6, weights[0], residual[-n:])
        np.testing.assert_array_equal(last, gated[-n:])


def test_matrices_that_share_no_activations(native: NativeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other groups and stored matrices take two operations, a tied embedding and adapters one."""
    make = Inputs(5)
    stored = Matrix(make(33, INPUTS), False, 33)
    packed, other = weights_of(native, [(4, 64), (8, None)])
    x, norm = make(5, INPUTS), make(INPUTS)
    adapter = native.low_rank(make(2, INPUTS), make(33, 2), 0.5)
    adapted = (AdaptedRows(np.array([1, 3], np.int32), {packed: adapter}),)
    cases: list[tuple[list[NativeWeight], tuple[Any, ...], bool]] = [
        ([packed, other], (), False),
        ([stored, packed], (), False),
        ([packed], adapted, True),
        ([Tied(packed, stored)], (), True),  # type: ignore[arg-type]
    ]
    for weights, adapters, expected in cases:
        actual, fused = counted(
            native, monkeypatch, lambda w=weights, a=adapters: native.rms_norm_linears(x, norm, 1e-6, w, a)
        )
        assert fused == [expected]
        separate = Ops.rms_norm_linears(native, x, norm, 1e-6, weights, adapters)
        for a, b in zip(actual, separate, strict=True):
            np.testing.assert_array_equal(a, b)


def test_bad_sizes_are_refused(native: NativeBackend) -> None:
    weight, other = weights_of(native, [(4, 64), (8, None)])
    make = Inputs(6)
    x, residual = make(3, INPUTS), make(3, 33)
    with pytest.raises(ValueError, match=r"norm_weight must have shape \[200\], not \[199\]"):
        native.rms_norm_linears(x, make(199), 1e-6, [weight])
    with pytest.raises(ValueError, match="norm_weight has 30 numbers, which do not divide a row of 200"):
        native.gated_rms_norm_linear(x, x, make(30), 1e-6, weight, residual)
    with pytest.raises(ValueError, match=r"other must have shape \[3, 200\], not \[2, 200\]"):
        native.sigmoid_gate_linear(x, make(2, INPUTS), weight, residual)
    handles, out = [weight.handle, other.handle], make(3, 33)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="these weights do not quantize their activations alike"):
        native._native.quantized_linear(x, handles, [], [], [out, make(3, 34)], 0, 1, None, make(INPUTS))
    with pytest.raises(ValueError, match="gates take two weights and one out"):
        native._native.quantized_linear(x, handles[:1], [], [], [out], 0, gates=True)
    with pytest.raises(ValueError, match="there is no operation on rows with number 9"):
        native._native.quantized_linear(x, handles[:1], [], [], [out], 0, 9)
