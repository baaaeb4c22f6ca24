"""bitsandbytes files by their description: flat blocks, double quantization, and files that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import quantized, read_matrix

from pocketvlm.backends.native.layout import layout_of
from pocketvlm.errors import ConfigError, TensorError
from pocketvlm.tensors import LazyArray

FOUR = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
EIGHT = {"quantization_config": {"_load_in_8bit": True}}
LEVELS = np.linspace(-1, 1, 16).astype(np.float32)
STATE = "weight.quant_state.bitsandbytes__nf4"


def state(shape: Any, **changes: Any) -> tuple[str, np.ndarray]:
    """The JSON text of a matrix as an array of bytes."""
    fields = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(shape), **changes}
    return "U8", np.frombuffer(json.dumps(fields).encode(), np.uint8)


def four_bits(shape: tuple[int, int], blocksize: int = 64, nested: int = 0) -> tuple[dict[str, Any], np.ndarray]:
    """The arrays of a random matrix and its values; nested: the size of the blocks of scales, 0 for plain ones."""
    random = np.random.default_rng(0)
    count = shape[0] * shape[1]
    blocks = -(-count // blocksize)
    codes = random.integers(0, 16, count + count % 2).astype(np.uint8)
    parts = {
        "weight": ("U8", (codes[0::2] << 4 | codes[1::2])[:, None]),
        "weight.quant_map": ("F32", LEVELS),
        STATE: state(shape, blocksize=blocksize),
    }
    if nested:
        scale_map = np.linspace(-1, 1, 256).astype(np.float32)
        absmax = random.integers(0, 256, blocks).astype(np.uint8)
        second = random.uniform(0.1, 1, -(-blocks // nested)).astype(np.float32)
        scales = scale_map[absmax] * np.repeat(second, nested)[:blocks] + np.float32(1.25)
        parts |= {
            "weight.absmax": ("U8", absmax),
            "weight.nested_absmax": ("F32", second),
            "weight.nested_quant_map": ("F32", scale_map),
            STATE: state(shape, blocksize=blocksize, nested_blocksize=nested, nested_offset=1.25),
        }
    else:
        scales = random.uniform(0.1, 1, blocks).astype(np.float32)
        scales[1:2] = 0  # a block of zeros
        parts["weight.absmax"] = "F32", scales
    values = LEVELS[codes[:count]] * np.repeat(scales, min(blocksize, count))[:count]
    return parts, values.reshape(shape)


@pytest.mark.parametrize("shape", [(8, 64), (3, 80), (5, 13), (1, 1), (16, 272)])
@pytest.mark.parametrize("blocksize", [64, 32, 4096])
@pytest.mark.parametrize("nested", [0, 256, 4])
def test_flat_blocks(tmp_path: Path, shape: tuple[int, int], blocksize: int, nested: int) -> None:
    """Rows that no block divides, an odd number of codes, and last blocks of either level that are not full."""
    parts, values = four_bits(shape, blocksize, nested)
    tensor = read_matrix(tmp_path, parts, FOUR, shape)
    assert isinstance(tensor.codes, LazyArray)
    assert tensor.block == blocksize
    np.testing.assert_array_equal(tensor.dequantize(), values)


@pytest.mark.parametrize(("dtype", "stored"), [("BF16", "<u2"), ("F32", "<f4"), ("I8", "i1"), ("F64", "<f8")])
def test_bytes_under_another_dtype(tmp_path: Path, dtype: str, stored: str) -> None:
    parts, values = four_bits((3, 80))
    parts["weight"] = dtype, parts["weight"][1].reshape(-1).view(stored)[:, None]
    np.testing.assert_array_equal(read_matrix(tmp_path, parts, FOUR, (3, 80)).dequantize(), values)


def test_the_native_kernels_take_blocks_that_straddle_rows(tmp_path: Path) -> None:
    """Groups of the largest common part of block and row, in a 4-bit container."""
    tensor = read_matrix(tmp_path, four_bits((3, 80))[0], FOUR, (3, 80))
    assert (layout_of(tensor).bits, layout_of(tensor).group) == (4, 16)


@pytest.mark.parametrize("layout", [None, 0])
def test_llm_int8(tmp_path: Path, layout: int | None) -> None:
    codes = np.array([[-127, 0, 127], [1, -2, 3]], np.int8)
    scales = np.array([2.5, 0.0], np.float32)
    parts = {"weight": ("I8", codes), "SCB": ("F32", scales)}
    if layout is not None:
        parts["weight_format"] = "U8", np.array(layout, np.uint8)
    found = read_matrix(tmp_path, parts, EIGHT, (2, 3)).dequantize()
    np.testing.assert_allclose(found, codes * scales[:, None] / np.float32(127), rtol=2e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "neither load_in_4bit nor load_in_8bit is true"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf3"}, "bnb_4bit_quant_type='nf3' is not supported"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_matrix(tmp_path, four_bits((3, 80))[0], {"quantization_config": settings}, (3, 80))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({STATE: None}, r"up_proj.weight.quant_state.bitsandbytes__nf4: the array is missing"),
        ({"weight": None}, r"up_proj.weight: the array is missing"),
        ({"weight.absmax": None}, r"up_proj.weight.absmax: the array is missing"),
        ({"weight.quant_map": None}, r"up_proj.weight.quant_map: the array is missing"),
        ({"weight": ("U8", np.zeros((119, 1), np.uint8))}, "119 bytes do not hold 240 codes of 4 bits"),
        ({"weight": ("U8", np.zeros((121, 1), np.uint8))}, "121 bytes do not hold 240 codes of 4 bits"),
        ({"weight.absmax": ("F32", np.zeros(3, "<f4"))}, r"up_proj.weight.absmax: shape \[3\] .* \[4\] would"),
        ({"weight.absmax": ("U8", np.zeros(4, np.uint8))}, "dtype U8 does not belong there, F32 does"),
        ({STATE: state((80, 3))}, r"shape \[80, 3\] does not fit a matrix \[3, 80\]"),
        ({STATE: state((3, 80), blocksize=0)}, "blocks of 0 values are not supported"),
        ({STATE: state((3, 80), nested_offset="x")}, "nested_offset='x' is not a finite number"),
        ({STATE: state((3, 80), nested_offset=10**400)}, "nested_offset=1000.* is not a finite number"),
        ({STATE: state((3, 80), nested_offset=float("nan"))}, "nested_offset=nan is not a finite number"),
        ({STATE: state((3, 80), blocksize=2**40)}, "blocks of 1099511627776 values are not supported"),
        ({STATE: ("U8", np.frombuffer(b'{"shape": [3,', np.uint8))}, "its text is not read"),
        ({STATE: ("U8", np.frombuffer(b"\xff\xfe[]", np.uint8))}, "its text is not read"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    parts = {**four_bits((3, 80))[0], **changes}
    with pytest.raises(TensorError, match=message):
        read_matrix(tmp_path, {key: value for key, value in parts.items() if value}, FOUR, (3, 80))


def test_the_method_in_other_letters(tmp_path: Path) -> None:
    parts, values = four_bits((3, 80))
    settings = {**FOUR["quantization_config"], "quant_method": "BitsAndBytes"}
    np.testing.assert_array_equal(read_matrix(tmp_path, parts, quantized(settings), (3, 80)).dequantize(), values)


def test_a_layout_of_old_versions_is_refused(tmp_path: Path) -> None:
    parts = {
        "weight": ("I8", np.zeros((2, 3), np.int8)),
        "SCB": ("F32", np.ones(2, np.float32)),
        "weight_format": ("U8", np.array(2, np.uint8)),
    }
    with pytest.raises(TensorError, match=r"up_proj.weight_format: layout 2 is not supported"):
        read_matrix(tmp_path, parts, EIGHT, (2, 3))


def test_a_block_far_larger_than_the_matrix_takes_no_memory(tmp_path: Path) -> None:
    parts, values = four_bits((3, 80), 2**31)
    tensor = read_matrix(tmp_path, parts, FOUR, (3, 80))
    np.testing.assert_array_equal(tensor.dequantize(), values)
