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
from pocketvlm.quantize import round_to_nearest
from pocketvlm.schemes import QuantizationScheme
from pocketvlm.tensors import BlockValues, DenseTensor, Floats, LazyArray, QuantizedTensor, load

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


@pytest.mark.parametrize(("bits", "group"), [(8, None), (8, 32), (4, 64)])
@pytest.mark.parametrize("rows", [1, 16, 33, 100])
def test_float16_is_rounded_some_tiles_at_a_time(
    monkeypatch: pytest.MonkeyPatch, bits: int, group: int | None, rows: int
) -> None:
    monkeypatch.setattr("pocketvlm.backends.native.pack._CONVERTED", 32 * 130)
    half = Inputs(5).matrix(rows, 130, "f16")
    single = DenseTensor(half.name, "f32", half.float32())
    found, expected = (pack(RUNTIME, round_to_nearest(tensor, quantization(bits, group))) for tensor in (half, single))
    assert isinstance(found, PackedMatrix)
    assert isinstance(expected, PackedMatrix)
    for part, array in expected.arrays().items():
        np.testing.assert_array_equal(found.arrays()[part], array, part)


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


def test_a_dense_matrix_that_should_be_quantized_is_refused() -> None:
    ops = NativeBackend(RUNTIME, {}, choose("native", "int4"))
    with pytest.raises(ValueError, match="weight is dense, but int4 weights want it quantized"):
        ops.prepare(Inputs().matrix(16, 64, "bf16"), "matrix")
    ops.prepare(Inputs().matrix(16, 64, "bf16"), "patch_embedding")


@pytest.mark.parametrize(("bits", "group"), [(6, 32), (5, 64), (7, None), (4, 32), (3, 32), (8, 256)])
def test_schemes_that_the_kernels_do_not_round_to(bits: int, group: int | None) -> None:
    """Round-to-nearest makes their codes, so that a new weight type needs no kernel."""
    tensor = round_to_nearest(Inputs(4).matrix(33, 512, "bf16"), QuantizationScheme(bits, group))
    packed = pack(RUNTIME, tensor)
    assert isinstance(packed, PackedMatrix)
    assert packed.bits == (max(4, bits) if bits <= 6 else 8)
    values = tensor.dequantize()
    np.testing.assert_allclose(seen(packed), values, atol=1e-6 * np.abs(values).max())


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
