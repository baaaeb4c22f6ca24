"""Dense and quantized tensors: the formula against plain NumPy in every combination, laziness, and refused parts."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain import Random, dequantized, quantized_tensors

from pocketvlm import tensors
from pocketvlm.errors import TensorError
from pocketvlm.tensors import (
    BlockValues,
    DenseTensor,
    LazyArray,
    QuantizedTensor,
    StoredDtype,
    bfloat16_to_float32,
    float32_to_bfloat16,
    load,
)


@given(quantized_tensors())
def test_the_formula_element_by_element(tensor: QuantizedTensor) -> None:
    found = tensor.dequantize()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, dequantized(tensor))


@pytest.mark.parametrize("levels", ["f16", "f32", "integers", "codebook"])
@pytest.mark.parametrize("block", [(1, 32), (1, 50), (128, 128), (2, 16), 64, 33])
@pytest.mark.parametrize("shift", [None, "zero_points", "biases"])
@pytest.mark.parametrize("codebook", [False, True])
def test_each_combination(
    levels: str, block: Any, shift: str | None, codebook: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rows at a time, so that blocks straddle them, and all at once."""
    monkeypatch.setattr(tensors, "_CHUNK", 150)
    make, shape = Random(np.random.default_rng(3)), (7, 50)
    parts = {} if shift is None else {shift: make.block_values(shape, block, levels)}
    book = make.random.normal(size=16).astype(np.float32) if codebook else None
    tensor = QuantizedTensor(
        "w", 4, shape, make.codes(shape, 4, False), make.block_values(shape, block, levels), codebook=book, **parts
    )
    np.testing.assert_array_equal(tensor.dequantize(), dequantized(tensor))
    np.testing.assert_array_equal(tensor.bfloat16(), float32_to_bfloat16(dequantized(tensor)))
    order = make.random.permutation(50)
    permuted = QuantizedTensor("w", 4, shape, tensor.codes, tensor.scales, codebook=book, permutation=order, **parts)
    np.testing.assert_array_equal(permuted.dequantize()[:, order], tensor.dequantize())
    monkeypatch.undo()
    np.testing.assert_array_equal(tensor.dequantize(), dequantized(tensor))


def test_bfloat16_is_made_some_rows_at_a_time() -> None:
    """The whole matrix in float32 alone would take twice the memory of the result."""
    codes = np.full((4096, 512), 3, np.uint8)
    scales = BlockValues(np.ones((32, 4), np.float32), (128, 128))
    tensor = QuantizedTensor("w", 8, codes.shape, codes, scales, codebook=np.arange(256, dtype=np.float32))
    tracemalloc.start()
    try:
        bits = tensor.bfloat16()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert bits[0, 0] == float32_to_bfloat16(np.array([3], np.float32))[0]
    assert bits.nbytes < peak < 2.5 * bits.nbytes


INFINITE = {"f32": 0x7F800000, "f16": 0x7C00, "bf16": 0x7F80}


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("mantissa", [0, 1, -1])
@pytest.mark.parametrize("index", [0, 149, 150, 349])
def test_values_that_are_not_finite_are_refused(
    dtype: StoredDtype, sign: int, mantissa: int, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Infinity, the numbers next to it that are none, and the largest number; misaligned too."""
    monkeypatch.setattr(tensors, "_CHUNK", 150)
    unsigned, kind = ("u4", "f4") if dtype == "f32" else ("u2", "f2" if dtype == "f16" else "u2")
    raw = np.zeros(350 * np.dtype(unsigned).itemsize + 1, np.uint8)
    bits = np.frombuffer(memoryview(raw)[1:], unsigned)
    bits[index] = INFINITE[dtype] + mantissa + (sign << 8 * bits.itemsize - 1)
    tensor = DenseTensor("w", dtype, bits.view(kind).reshape(7, 50), "some/file")
    if mantissa < 0:
        assert np.isfinite(tensor.float32()).all()
        return
    assert tensor.data is tensor.source
    message = rf"some/file: w: 1 of 350 values are infinite or NaN, the first at \[{index // 50}, {index % 50}\]"
    for read in (tensor.float32, tensor.finite_data, tensor.dequantize):
        with pytest.raises(TensorError, match=message):
            read()
    with pytest.raises(TensorError, match="some/file: w: 1 of 350 values are infinite"):
        tensor.transposed().float32()


def test_codes_without_a_number_are_refused() -> None:
    book = np.array([0, 1, np.nan, 3], np.float32)
    scales = BlockValues(np.ones((3, 1), np.float32), (1, 8))
    codes = np.zeros((3, 8), np.uint8)
    QuantizedTensor("w", 2, codes.shape, codes, scales, codebook=book).dequantize()
    codes[1, 1] = 2
    tensor = QuantizedTensor("w", 2, codes.shape, codes, scales, codebook=book, origin="some/file")
    for read in (tensor.dequantize, tensor.bfloat16):
        with pytest.raises(TensorError, match="some/file: w: 1 of 24 values of rows 0 to 2 are infinite or NaN"):
            read()


def test_known_formats() -> None:
    """Formulas of files, by hand: AWQ, Q4_K, NF4 with double quantization, FP8 in blocks of 128 x 128."""
    codes = np.array([[0, 15, 7, 8]], np.uint8)

    def values(numbers: Any, dtype: Any, block: Any, **more: Any) -> BlockValues:
        return BlockValues(np.array(numbers, dtype), block, **more)

    awq = QuantizedTensor(
        "awq", 4, (1, 4), codes, values([[0.5, 2]], np.float16, (1, 2)), zero_points=values([[7, 8]], np.uint8, (1, 2))
    )
    np.testing.assert_array_equal(awq.dequantize(), [[-3.5, 4, -2, 0]])
    d, minimum = (values([[number]], np.float16, (1, 2)) for number in (0.25, 0.125))
    q4k = QuantizedTensor(
        "q4k", 4, (1, 4), codes, values([[1, 3]], np.uint8, (1, 2), scale=d),
        biases=values([[-8, -16]], np.int8, (1, 2), scale=minimum),
    )  # fmt: skip
    np.testing.assert_array_equal(q4k.dequantize(), [[-1, 2.75, 3.25, 4]])
    absmax = values(
        [0, 255], np.uint8, 2, codebook=np.linspace(-1, 1, 256, dtype=np.float32), scale=values([2], np.float32, 256),
        offset=3.0,
    )  # fmt: skip
    book = np.linspace(-1, 1, 16, dtype=np.float32)
    nf4 = QuantizedTensor("nf4", 4, (2, 2), codes.reshape(2, 2), absmax, codebook=book)
    np.testing.assert_array_equal(nf4.dequantize(), [book[[0, 15]] * np.float32(1), book[[7, 8]] * np.float32(5)])
    scales = values([[1, 2], [3, 4]], np.float32, (128, 128))
    fp8 = QuantizedTensor(
        "fp8", 8, (130, 200), np.ones((130, 200), np.uint8), scales, codebook=np.arange(256, dtype=np.float32)
    )
    expected = np.kron([[1, 2], [3, 4]], np.ones((128, 128)))[:130, :200]
    np.testing.assert_array_equal(fp8.dequantize(), expected)


GOOD: dict[str, Any] = {
    "name": "layers.3.w",
    "bits": 4,
    "shape": (2, 6),
    "codes": np.zeros((2, 6), np.uint8),
    "scales": BlockValues(np.ones((2, 2), np.float32), (1, 4)),
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": 1}, "1 bits a code"),
        ({"bits": 9}, "9 bits a code"),
        ({"shape": (2, 7)}, r"codes of shape \[2, 6\] do not fit a matrix \[2, 7\]"),
        ({"codes": np.zeros((2, 6), np.int32)}, "codes are uint8 or int8, not int32"),
        ({"scales": BlockValues(np.ones((2, 3), np.float32), (1, 4))}, r"scales have shape \[2, 3\].*need \[2, 2\]"),
        ({"scales": BlockValues(np.ones((2, 2), np.float32), (0, 4))}, r"\(0, 4\) is no block"),
        ({"scales": BlockValues(np.ones(2, np.float32), 5)}, r"blocks 5 of \[2, 6\] need \[3\]"),
        ({"scales": BlockValues(np.ones((2, 2)), (1, 4), np.ones(256, np.float32))}, "scales: codes of a codebook"),
        (
            {"scales": BlockValues(np.ones((2, 2)), (1, 4), scale=BlockValues(np.ones((2, 2)), (1, 2)))},
            r"scales: scales of the second level have shape \[2, 2\]",
        ),
        ({"zero_points": GOOD["scales"], "biases": GOOD["scales"]}, "exclude each other"),
        ({"biases": BlockValues(np.ones((1, 1)), (1, 6))}, "biases have shape"),
        ({"codebook": np.ones(8, np.float32)}, r"codebook of shape \[8\] does not fit 4 bits"),
        ({"codebook": np.ones(16, np.float32), "codes": np.zeros((2, 6), np.int8)}, "codes of a codebook are uint8"),
        ({"permutation": np.array([0, 1, 2, 3, 4, 4])}, "none of 6 columns"),
        ({"global_divisor": 0.0}, "divisor is zero"),
        ({"rounded_from": DenseTensor("x", "f32", np.zeros((3, 6), np.float32))}, r"shape \[3, 6\]"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    QuantizedTensor(**GOOD)
    with pytest.raises(TensorError, match=f"^layers.3.w: .*{words}"):
        QuantizedTensor(**{**GOOD, **change})


@pytest.mark.parametrize(("dtype", "code"), [(np.uint8, 16), (np.int8, 8), (np.int8, -9)])
def test_codes_beyond_their_bits_are_refused(dtype: Any, code: int) -> None:
    codes = np.full((2, 6), code, dtype)
    with pytest.raises(TensorError, match=r"w: codes outside .* do not fit 4 bits"):
        QuantizedTensor(**{**GOOD, "codes": codes}).dequantize()


def test_lazy_arrays_are_read_when_used_and_must_be_what_they_announced() -> None:
    reads: list[int] = []

    def read() -> np.ndarray:
        reads.append(1)
        return np.arange(12, dtype=np.uint16).reshape(3, 4)

    dense = DenseTensor("w", "bf16", LazyArray((3, 4), np.dtype(np.uint16), read))
    matrix = dense.reshape(6, -1).transposed()
    assert (matrix.shape, reads) == ((2, 6), [])
    np.testing.assert_array_equal(matrix.data, np.arange(12).reshape(6, 2).T)
    assert reads == [1]
    for shape, kind in (((4, 3), np.uint16), ((3, 4), np.uint8)):
        with pytest.raises(TensorError, match="announced"):
            load(LazyArray(shape, np.dtype(kind), read))


def test_dense_tensors_hold_what_they_say() -> None:
    with pytest.raises(TensorError, match="w: an array of float32 does not hold bf16 values"):
        DenseTensor("w", "bf16", np.zeros(3, np.float32))
    with pytest.raises(TensorError, match="does not hold q8 values"):
        DenseTensor("w", "q8", np.zeros(3, np.float32))  # type: ignore[arg-type]
    float16s = np.array([1.5, -2, 65504], np.float16)
    np.testing.assert_array_equal(DenseTensor("w", "f16", float16s).float32(), float16s.astype(np.float32))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=2.0**120, min_value=-(2.0**120))))
def test_bfloat16(numbers: list[float]) -> None:
    """To the nearest, ties to even; back exactly."""
    values = np.array(numbers, np.float32)
    bits = float32_to_bfloat16(values)
    found = bfloat16_to_float32(bits).astype(np.float64)
    below, above = (
        bfloat16_to_float32((bits.astype(np.int64) + step).astype(np.uint16)).astype(np.float64) for step in (-1, 1)
    )
    error = np.abs(found - values)
    finite = np.isfinite(below) & np.isfinite(above)
    for other in (below, above):
        near = np.abs(other - values)
        assert (error <= near)[finite].all()
        assert (bits[finite & (error == near) & (error > 0)] % 2 == 0).all()
    np.testing.assert_array_equal(float32_to_bfloat16(bfloat16_to_float32(bits)), bits)


def test_ties_go_to_the_even_bfloat16() -> None:
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20], np.float32)
    np.testing.assert_array_equal(
        bfloat16_to_float32(float32_to_bfloat16(values)), np.array([1, 1 + 2**-6, -1, 1 + 2**-7], np.float32)
    )
