"""Quantized matrices as GGUF blocks: values computed block by block from the bytes, conversions, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gguf_kit import QUANTIZED, TYPES, random_blocks
from gguf_plain import block_values
from gguf_sources import grouped

from pocketvlm.checkpoint.formats.codebooks import e2m1, e4m3, e8m0
from pocketvlm.checkpoint.formats.gguf import BLOCK_TYPES, unpack_matrix
from pocketvlm.checkpoint.writers.gguf.blocks import PACKED, Fields, pack
from pocketvlm.checkpoint.writers.gguf.matrices import Blocks, as_blocks, problem
from pocketvlm.errors import TensorError
from pocketvlm.tensors import BlockValues, QuantizedTensor


def values_of(blocks: Blocks) -> np.ndarray:
    """The values of the packed bytes, number by number, in float64."""
    _, values, nbytes, _ = TYPES[blocks.kind]
    data = np.concatenate([rows.reshape(-1, nbytes) for rows in blocks.rows()])
    assert data.nbytes == blocks.nbytes
    found = [block_values(blocks.kind, block.tobytes()) for block in data]
    assert all(len(block) == values for block in found)
    return np.array(found).reshape(blocks.tensor.shape) * blocks.factor


def check(tensor: QuantizedTensor, kind: str) -> Blocks:
    """The matrix becomes this type and its bytes mean the same numbers."""
    assert problem(tensor) is None
    blocks = as_blocks(tensor)
    assert blocks.kind == kind
    np.testing.assert_allclose(values_of(blocks), tensor.dequantize(), rtol=2e-7, atol=0)
    np.testing.assert_array_equal(blocks.tensor.dequantize() * np.float32(blocks.factor), tensor.dequantize())
    return blocks


def test_every_type_that_is_read_is_packed() -> None:
    assert set(PACKED) == set(BLOCK_TYPES)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_blocks_of_any_bytes_are_packed_into_the_same_bytes(kind: str) -> None:
    _, values, nbytes, _ = TYPES[kind]
    data = np.random.default_rng(1).integers(0, 256, (300, nbytes), np.uint8)
    type_ = BLOCK_TYPES[kind]
    fields = Fields(
        type_.codes(data).astype(type_.dtype),
        type_.scales(data).astype(type_.scale_dtype),
        None if type_.super_scales is None else type_.super_scales(data),
        None if type_.biases is None else type_.biases(data).astype(type_.bias_dtype),
        None if type_.super_biases is None else type_.super_biases(data),
    )
    assert fields.codes.shape == (300, values)
    np.testing.assert_array_equal(pack(kind, fields), data)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_matrices_of_a_type_are_written_as_they_are(kind: str) -> None:
    columns = 768
    rows = random_blocks(kind, 5, columns, np.random.default_rng(2))
    tensor = unpack_matrix("m", kind, (5, columns), lambda: rows)
    blocks = check(tensor, kind)
    np.testing.assert_array_equal(np.concatenate([part.ravel() for part in blocks.rows()]), rows.ravel())
    order = np.array([3, 0, 4, 1, 2])
    np.testing.assert_array_equal(np.concatenate([part.ravel() for part in blocks.rows(order)]), rows[order].ravel())


@pytest.mark.parametrize("group", [32, 64, 128, 256])
@pytest.mark.parametrize(
    ("bits", "how", "kind"),
    [
        (2, {"zeros": "any"}, "Q4_0"),
        (3, {"zeros": "any"}, "Q4_0"),
        (3, {}, "Q4_0"),
        (4, {"zeros": "middle"}, "Q4_0"),
        (4, {"signed": True}, "Q4_0"),
        (4, {"zeros": "middle", "scales": np.float32}, "Q4_0"),
        (4, {"zeros": "any"}, "Q4_1"),
        (4, {"biased": True}, "Q4_1"),
        (3, {"biased": True, "scales": np.float32}, "Q4_1"),
        (5, {"biased": True}, "Q5_1"),
        (5, {"zeros": "middle"}, "Q5_0"),
        (6, {"zeros": "any"}, "Q8_0"),
        (8, {"zeros": "middle"}, "Q8_0"),
        (8, {"signed": True}, "Q8_0"),
    ],
)
def test_integers_in_groups_become_the_smallest_type_with_the_same_numbers(
    bits: int, group: int, how: dict[str, Any], kind: str
) -> None:
    check(grouped(bits, group, **how), kind)


def test_four_bits_with_zero_points_are_five_where_a_bias_would_be_rounded() -> None:
    tensor = grouped(4, 64, zeros="any")
    scales = np.full(tensor.scales.values.shape, 1025 / 1024, np.float16)  # times 3 it has twelve bits
    points = np.full(scales.shape, 3, np.uint8)
    tensor = replace(tensor, scales=BlockValues(scales, (1, 64)), zero_points=BlockValues(points, (1, 64)))
    check(tensor, "Q5_0")


def small_floats(scales: np.ndarray, group: int, codebook: np.ndarray, **fields: Any) -> QuantizedTensor:
    """FP4 whose codebooks are arrays of their own, as a file gives them."""
    codebook = codebook.copy()
    shape = (len(scales), scales.shape[1] * group)
    codes = np.random.default_rng(3).integers(0, 16, shape, np.uint8)
    return QuantizedTensor(
        "m", 4, shape, codes, BlockValues(scales, (1, group), codebook), codebook=e2m1().copy(), **fields
    )


def test_mx_and_nv_floats_keep_codes_and_scale_bytes() -> None:
    generator = np.random.default_rng(4)
    check(small_floats(generator.integers(0, 200, (3, 8), np.uint8), 32, e8m0()), "MXFP4")
    check(small_floats(generator.integers(0, 127, (3, 16), np.uint8), 16, e4m3()), "NVFP4")
    scaled = small_floats(generator.integers(1, 127, (3, 16), np.uint8), 16, e4m3(), global_divisor=8.0)
    assert check(scaled, "NVFP4").factor == 1 / 8
    # A divisor that is no power of two is rounded once more, in the last bit of float32.
    blocks = as_blocks(replace(scaled, global_divisor=3.0))
    np.testing.assert_allclose(values_of(blocks), replace(scaled, global_divisor=3.0).dequantize(), rtol=3e-7)


@pytest.mark.parametrize(("group", "codebook", "byte"), [(32, e8m0(), 255), (16, e4m3(), 127), (16, e4m3(), 0x81)])
def test_scale_bytes_without_meaning_are_refused(group: int, codebook: np.ndarray, byte: int) -> None:
    scales = np.full((2, 8), 60, np.uint8)
    scales[1, 3] = byte
    with pytest.raises(TensorError, match=f"m: the scale byte {byte} has no meaning"):
        as_blocks(small_floats(scales, group, codebook))


def test_iq4_in_larger_groups() -> None:
    codebook = BLOCK_TYPES["IQ4_NL"].codebook
    tensor = replace(grouped(4, 64), codebook=codebook)
    check(tensor, "IQ4_NL")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (grouped(4, 16), "groups of 16 in rows of 256 are no whole GGUF blocks of 32"),
        (grouped(4, 48, (2, 48)), "groups of 48"),
        (replace(grouped(4, 32), permutation=np.arange(256)[::-1]), "another order .desc_act."),
        (replace(grouped(4, 32, (1, 256)), scales=BlockValues(np.ones(8, np.float16), 32)), "blocks of 32 share"),
        (replace(grouped(4, 32), codebook=np.arange(16, dtype=np.float32)), "no GGUF type has its codebook"),
        (grouped(6, 32, biased=True), "no GGUF type has 6 bits and biases"),
        (
            replace(grouped(4, 32), scales=BlockValues(np.ones((6, 8), np.uint8), (1, 32), e4m3())),
            "scales are quantized in a way",
        ),
        (replace(grouped(4, 32, zeros="any"), zero_points=BlockValues(np.ones((3, 8)), (2, 32))), "other blocks"),
    ],
)
def test_what_no_type_holds_is_refused_before_values_are_read(tensor: QuantizedTensor, message: str) -> None:
    found = problem(tensor)
    assert found is not None
    assert "quantize the 16-bit checkpoint to a GGUF type" in found
    with pytest.raises(TensorError, match=f"a file: m.weight: .*{message}"):
        as_blocks(tensor)


@pytest.mark.parametrize("number", [1e5, 1.0001, 1e-9])
@pytest.mark.parametrize("part", ["scales", "biases"])
def test_numbers_that_float16_would_change_are_refused(number: float, part: str) -> None:
    tensor = grouped(4, 32, biased=True)
    numbers = np.ones((6, 8), np.float32)
    numbers[2, 5] = number
    tensor = replace(tensor, **{part: BlockValues(numbers, (1, 32))})
    with pytest.raises(TensorError, match=rf"a file: m.weight: 1 of 48 {part}, such as {number:g}, are no 16-bit"):
        as_blocks(tensor)


def test_zero_points_that_no_type_holds_are_refused() -> None:
    with pytest.raises(TensorError, match="no GGUF type holds 8 bits with zero points from"):
        as_blocks(grouped(8, 32, zeros="any"))
    tensor = grouped(4, 32, zeros="any")
    points = BlockValues(np.full((6, 8), 7.3, np.float32), (1, 32))
    with pytest.raises(TensorError, match=r"zero points from 7\.3 to 7\.3"):
        as_blocks(replace(tensor, zero_points=points))


def test_damaged_scales_and_codes_are_refused() -> None:
    scales = np.ones((6, 8), np.float16)
    scales[1, 1] = np.nan
    own = replace(grouped(4, 32, signed=True), scales=BlockValues(scales, (1, 32)))
    with pytest.raises(TensorError, match="infinite or NaN"):
        list(as_blocks(own).rows())
    codes = np.full((6, 256), 9, np.int8)
    with pytest.raises(TensorError, match=r"codes outside -8\.\.7"):
        list(as_blocks(replace(grouped(4, 32, signed=True), codes=codes)).rows())
    wide = random_blocks("Q4_K", 1, 256, np.random.default_rng(0))
    tensor = unpack_matrix("m", "Q4_K", (1, 256), lambda: wide)
    above = replace(tensor.scales, values=np.full((1, 8), 64, np.uint8))
    with pytest.raises(TensorError, match="m: the scale 64 does not fit Q4_K, which holds 0 to 63"):
        list(as_blocks(replace(tensor, scales=above)).rows())
