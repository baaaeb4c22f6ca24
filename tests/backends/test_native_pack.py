"""Packing quantized tensors: the packed layout and its products against plain NumPy, and what the kernels refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_kit import Inputs, quantization, round_and_pack, usable
from numpy.typing import NDArray

from pocketvlm import _native
from pocketvlm.backends.backend import CacheLocation
from pocketvlm.backends.native import NativeBackend
from pocketvlm.backends.native.pack import pack
from pocketvlm.backends.native.packed_matrix import PackedMatrix
from pocketvlm.backends.options import choose
from pocketvlm.errors import BackendError
from pocketvlm.quantize import round_to_nearest
from pocketvlm.schemes import INT4_CODEBOOK, QuantizationScheme
from pocketvlm.tensors import BlockValues, DenseTensor, Floats, LazyArray, QuantizedTensor, grid_shape, load

SCHEMES = [(8, None), (8, 32), (8, 64), (4, 64), (4, 32), (4, 128)]
RUNTIME = _native.Runtime(2, usable()[-1])


def unpacked(packed: PackedMatrix) -> tuple[NDArray[np.uint8], NDArray[np.float16] | None, Floats]:
    """Codes [outputs, inputs], group scales [outputs, groups] and row scales as native/quantized/quantized.h says."""
    tiles, steps, _ = packed.codes.shape
    codes = np.zeros((tiles * 16, packed.depth), np.uint8)
    for tile in range(tiles):
        for step in range(steps):
            for column in range(16):
                four = packed.codes[tile, step, 4 * column : 4 * column + 4]
                row = codes[tile * 16 + column]
                if packed.bits == 8:
                    row[4 * step : 4 * step + 4] = four
                else:
                    row[8 * step : 8 * step + 8] = [*(four & 15), *(four >> 4)]
    scales = None
    if packed.group_scale is not None:
        scales = packed.group_scale.view(np.float16).transpose(0, 2, 1).reshape(tiles * 16, -1)[: packed.outputs]
    return codes[: packed.outputs, : packed.inputs], scales, packed.row_scale[: packed.outputs, None]


def seen(packed: PackedMatrix) -> Floats:
    """The values that the kernels multiply with."""
    out = np.empty((packed.outputs, packed.inputs), np.float32)
    RUNTIME.quantized_embed(packed.handle, np.arange(packed.outputs, dtype=np.int32), out)
    return out


@pytest.mark.parametrize(("bits", "group"), SCHEMES)
@pytest.mark.parametrize("shape", [(33, 130), (16, 64), (5, 40), (17, 200)])
def test_the_kernels_round_as_the_quantizer_does(bits: int, group: int | None, shape: tuple[int, int]) -> None:
    """Scales are equal; a value between two codes, or a scale of equal error, may be taken otherwise."""
    tensor = round_to_nearest(Inputs(4).matrix(*shape, "bf16"), quantization(bits, group))
    codes, scales, row_scale = unpacked(pack(RUNTIME, tensor))
    expected = load(tensor.codes).astype(int) + (128 if bits == 8 else 0)
    assert (codes != expected).mean() < 2e-3
    if group is None:
        np.testing.assert_array_equal(row_scale, load(tensor.scales.values))
        return
    assert tensor.scales.scale is not None
    np.testing.assert_array_equal(row_scale, load(tensor.scales.scale.values))
    np.testing.assert_array_equal(scales, load(tensor.scales.values))


@pytest.mark.parametrize(("bits", "group"), SCHEMES)
@pytest.mark.parametrize("shape", [(33, 130), (5, 40)])
def test_what_was_rounded_elsewhere_is_packed_exactly(bits: int, group: int | None, shape: tuple[int, int]) -> None:
    """The same bytes, whether the kernels round a matrix or get its codes and scales."""
    scheme = quantization(bits, group)
    packed = round_and_pack(RUNTIME, Inputs(5).matrix(*shape, "f32"), bits, group)
    codes, scales, row_scale = unpacked(packed)
    signed = (codes.astype(int) - 128).astype(np.int8) if bits == 8 else codes
    parts = BlockValues(row_scale, (1, shape[1]))
    if scales is not None:
        assert group is not None
        parts = BlockValues(scales, (1, group), scale=BlockValues(row_scale, (1, scales.shape[1])))
    book = None if scheme.codebook is None else np.array(scheme.codebook, np.float32)
    again = pack(RUNTIME, QuantizedTensor("w", bits, shape, signed, parts, codebook=book))
    assert (again.bits, again.group) == (packed.bits, packed.group)
    for one, other in zip(unpacked(again), (codes, scales, row_scale), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.group_bias is None
    np.testing.assert_array_equal(again.codebook, packed.codebook)
    np.testing.assert_array_equal(seen(again), seen(packed))


def tensor_of(shape: tuple[int, int] = (20, 96), bits: int = 4, block: Any = (1, 32), **parts: Any) -> QuantizedTensor:
    """A random tensor as a file may hold it; unsigned codes, scales in float16."""
    random = np.random.default_rng(bits)
    grid = grid_shape(shape, block)
    given = {name: value(random, grid, block) if callable(value) else value for name, value in parts.items()}
    defaults = {
        "codes": random.integers(0, 2**bits, shape).astype(np.uint8),
        "scales": BlockValues(random.uniform(0.01, 0.1, grid).astype(np.float16), block),
    }
    return QuantizedTensor("w", bits, shape, **{**defaults, **given})


def integers(random: np.random.Generator, grid: Any, block: Any) -> BlockValues:
    """Zero points."""
    return BlockValues(random.integers(0, 16, grid).astype(np.uint8), block)


def floats(dtype: Any, size: float = 1.0) -> Any:
    """Scales or biases of a dtype."""
    return lambda random, grid, block: BlockValues((random.uniform(-1, 1, grid) * size).astype(dtype), block)


def two_levels(random: np.random.Generator, grid: Any, block: Any) -> BlockValues:
    """Small integers, each with a float16 for three of them."""
    second = BlockValues(random.uniform(0, 1, [grid[0], -(-grid[1] // 3)]).astype(np.float16), (1, 3))
    return BlockValues(random.integers(0, 64, grid).astype(np.uint8), block, scale=second)


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(tensor_of(zero_points=integers), id="AWQ"),
        pytest.param(tensor_of(biases=floats(np.float16)), id="Q4_1"),
        pytest.param(tensor_of(scales=two_levels, biases=two_levels), id="Q4_K"),
        pytest.param(tensor_of(bits=5, scales=two_levels, biases=two_levels), id="Q5_K"),
        pytest.param(tensor_of(bits=8, scales=floats(np.float32), biases=floats(np.float32)), id="MLX 8 bits"),
        pytest.param(tensor_of(bits=6, block=(1, 16), scales=floats(np.float32, 1e-20)), id="6 bits, tiny scales"),
        pytest.param(tensor_of(bits=3, zero_points=integers), id="3 bits"),
        pytest.param(tensor_of(bits=2, block=(1, 8), biases=floats(np.float32)), id="2 bits"),
        pytest.param(tensor_of(bits=8, block=(16, 24), zero_points=integers), id="blocks of rows"),
        pytest.param(tensor_of(block=48, zero_points=integers), id="flat blocks that divide rows"),
        pytest.param(tensor_of(block=(1, 96), zero_points=integers), id="a scale an output"),
        pytest.param(tensor_of(block=(20, 96)), id="one scale"),
        pytest.param(tensor_of((20, 90), zero_points=integers), id="a partial group"),
        pytest.param(
            tensor_of(bits=8, block=(1, 96), codes=np.arange(20 * 96).reshape(20, 96).astype(np.int8)), id="LLM.int8"
        ),
        pytest.param(
            tensor_of(codes=(np.arange(20 * 96) % 16 - 8).reshape(20, 96).astype(np.int8)), id="signed 4 bits"
        ),
        pytest.param(tensor_of(codebook=np.array(INT4_CODEBOOK, np.float32), global_scale=3.0), id="codebook"),
        pytest.param(tensor_of(global_divisor=5.0, biases=floats(np.float16)), id="global divisor"),
    ],
)
def test_any_tensor_whose_blocks_lie_in_rows(tensor: QuantizedTensor) -> None:
    """The kernels see the values of the formula, within the rounding of scales and biases to float16."""
    packed = pack(RUNTIME, tensor)
    values = tensor.dequantize()
    step = np.abs(values).max(1, keepdims=True)
    assert (np.abs(seen(packed) - values) <= 3e-3 * step).all()
    ops = NativeBackend(RUNTIME, {}, choose("native"))
    weight = ops.prepare(tensor, "matrix")
    x = Inputs(7)(5, tensor.shape[1])
    expected = x.astype(np.float64) @ values.T.astype(np.float64)
    assert np.linalg.norm(ops.linear(x, weight) - expected) <= 0.02 * np.linalg.norm(expected)
    np.testing.assert_array_equal(ops.embed(weight, np.array([3, 0], np.int32)), seen(packed)[[3, 0]])
    # Exact arithmetic multiplies the numbers of the formula.
    exact = NativeBackend(RUNTIME, {})
    found = exact.linear(x, exact.prepare(tensor, "matrix"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("bits", "group"), [(6, 32), (5, 64), (7, None), (4, 32), (3, 32)])
def test_schemes_that_the_kernels_do_not_round_to(bits: int, group: int | None) -> None:
    """Round-to-nearest makes their codes, so that a new weight type needs no kernel."""
    tensor = round_to_nearest(Inputs(4).matrix(33, 130, "bf16"), QuantizationScheme(bits, group))
    packed = pack(RUNTIME, tensor)
    assert packed.bits == (4 if bits <= 4 else 8)
    values = tensor.dequantize()
    np.testing.assert_allclose(seen(packed), values, atol=3e-3 * np.abs(values).max())


def test_scales_of_halves_are_exact() -> None:
    """Codes times float16 and bfloat16 scales lose nothing."""
    for dtype in (np.float16, np.float32):
        scales = np.random.default_rng(1).uniform(0.1, 0.9, (20, 3)).astype(np.float32)
        scales = (scales.view(np.uint32) & 0xFFFF0000).view(np.float32).astype(dtype)
        tensor = tensor_of(
            zero_points=BlockValues(np.full((1, 1), 8, np.uint8), (20, 96)), scales=BlockValues(scales, (1, 32))
        )
        packed = pack(RUNTIME, tensor)
        assert packed.group_bias is None
        np.testing.assert_array_equal(seen(packed), tensor.dequantize())


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (tensor_of(permutation=np.arange(96)[::-1]), "a matrix with permuted inputs"),
        (tensor_of(block=64), "blocks of 64 that straddle rows of 96"),
        (tensor_of(block=(1, 12)), "groups of 12 inputs"),
        (tensor_of(bits=8, codebook=np.zeros(256, np.float32)), "8-bit codes with this codebook"),
        (tensor_of(codebook=np.linspace(-1, 1, 16, dtype=np.float32)), "4-bit codes with this codebook"),
        (
            tensor_of(biases=BlockValues(np.zeros((20, 2), np.float32), (1, 48))),
            r"blocks of different widths \[32, 48\]",
        ),
    ],
)
def test_what_the_kernels_cannot_multiply_is_refused(tensor: QuantizedTensor, words: str) -> None:
    """By name; exact arithmetic takes it, and so does a look-up."""
    ops = NativeBackend(RUNTIME, {}, choose("native"))
    with pytest.raises(BackendError, match=f"^w: the native kernels cannot multiply {words}.*precision='exact'"):
        ops.prepare(tensor, "matrix")
    np.testing.assert_array_equal(NativeBackend(RUNTIME, {}).prepare(tensor, "matrix").data, tensor.dequantize())
    rows = ops.embed(ops.prepare(tensor, "embedding"), np.array([1], np.int32))
    np.testing.assert_array_equal(rows, tensor.dequantize()[[1]])


def test_a_dense_matrix_that_should_be_quantized_is_refused() -> None:
    ops = NativeBackend(RUNTIME, {}, choose("native", "int4"))
    with pytest.raises(ValueError, match="weight is dense, but int4 weights want it quantized"):
        ops.prepare(Inputs().matrix(16, 64, "bf16"), "matrix")
    ops.prepare(Inputs().matrix(16, 64, "bf16"), "patch_embedding")


@pytest.mark.parametrize("rounded", [False, True])
def test_a_hit_in_the_cache_reads_neither_weights_nor_codes(tmp_path: Path, rounded: bool) -> None:
    """The first start packs and writes; in the second one every array raises that is read."""
    values = Inputs(2).matrix(33, 130, "f32").data
    reads: list[str] = []
    broken = False

    def lazy(what: str, array: NDArray[Any]) -> LazyArray:
        def read() -> NDArray[Any]:
            if broken:
                raise AssertionError(f"{what} are read")
            reads.append(what)
            return array

        return LazyArray(array.shape, array.dtype, read)

    def tensor() -> QuantizedTensor:
        made = round_to_nearest(DenseTensor("w", "f32", lazy("weights", values)), quantization(4, 64))
        if rounded:
            return made
        codes = lazy("codes", load(made.codes))
        scales = BlockValues(lazy("scales", made.block_scales()), (1, 64))
        return QuantizedTensor("w", 4, (33, 130), codes, scales, codebook=made.codebook)

    def start(given: QuantizedTensor) -> tuple[str, Floats]:
        ops = NativeBackend(RUNTIME, {}, choose("native", "int4"))
        with ops.weight_cache(CacheLocation(tmp_path, "nano", "here", "fingerprint"), {"w": given}):
            weight = ops.prepare(given, "matrix")
        return ops.describe()["packed weights"], seen(weight)  # type: ignore[arg-type]

    first, second = tensor(), tensor()
    said, expected = start(first)
    assert said.startswith("encoded, cached in ")
    assert reads
    broken = True
    said, found = start(second)
    assert said.startswith("read from ")
    np.testing.assert_array_equal(found, expected)
