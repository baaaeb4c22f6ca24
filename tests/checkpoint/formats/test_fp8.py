"""FP8 files by their description: blocks, edges, special codes, and files that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import bfloat16, read_matrix

from pocketvlm.checkpoint.formats.codebooks import e4m3, e5m2, e8m0
from pocketvlm.errors import CheckpointError, ConfigError, TensorError


def config(block: Any = None) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": "fp8", "weight_block_size": block}}


CODES = np.random.default_rng(0).integers(0, 127, (5, 7)).astype(np.uint8) | 0x80 * np.eye(5, 7, dtype=np.uint8)


@pytest.mark.parametrize(("dtype", "codebook"), [("F8_E4M3", e4m3()), ("F8_E5M2", e5m2())])
@pytest.mark.parametrize("suffix", ["weight_scale_inv", "weight_scale"])
def test_blocks_that_end_early(tmp_path: Path, dtype: str, codebook: np.ndarray, suffix: str) -> None:
    """The scale multiplies, whatever its name says; codes that are no numbers stay none."""
    codes = CODES & 0xBB if dtype == "F8_E5M2" else CODES
    scales = np.array([[1, 2], [0, -4], [0.5, 3]], np.float32)
    parts = {"weight": (dtype, codes), suffix: ("F32", scales)}
    found = read_matrix(tmp_path, parts, config([2, 4]), (5, 7), "model.language_model.model.layers.0.mlp.up_proj")
    spread = np.repeat(np.repeat(scales, 2, 0), 4, 1)[:5, :7]
    np.testing.assert_array_equal(found.dequantize(), codebook[codes] * spread)
    np.testing.assert_array_equal(found.codes, codes)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (5,), (5, 1)])
def test_one_scale_or_one_a_row(tmp_path: Path, shape: tuple[int, ...]) -> None:
    scales = np.arange(1, 1 + int(np.prod(shape)), dtype=np.float32)
    parts = {"weight": ("F8_E4M3", CODES), "weight_scale": ("BF16", bfloat16(scales).reshape(shape))}
    found = read_matrix(tmp_path, parts, config(), (5, 7)).dequantize()
    np.testing.assert_array_equal(found, e4m3()[CODES] * scales.reshape(-1, 1))


def test_scales_that_are_powers_of_two(tmp_path: Path) -> None:
    exponents = np.array([[0, 120], [127, 128], [1, 254]], np.uint8)
    parts = {"weight": ("F8_E4M3", np.full((5, 7), 0x38, np.uint8)), "weight_scale_inv": ("F8_E8M0", exponents)}
    found = read_matrix(tmp_path, parts, config([2, 4]), (5, 7)).dequantize()
    np.testing.assert_array_equal(found[::2, ::4], e8m0()[exponents])


def test_a_code_that_is_no_number(tmp_path: Path) -> None:
    parts = {
        "weight": ("F8_E4M3", np.array([[0x7F, 0xFF, 0x38]], np.uint8)),
        "weight_scale": ("F32", np.ones(1, "<f4")),
    }
    with pytest.raises(TensorError, match=rf"^{tmp_path}/model.safetensors: .*: 2 of 3 values of rows 0 to 0 are inf"):
        read_matrix(tmp_path, parts, config(), (1, 3)).dequantize()


def test_scales_of_activations_are_not_read(tmp_path: Path) -> None:
    scale = "F32", np.ones((), np.float32)
    parts = {"weight": ("F8_E4M3", CODES), "weight_scale": scale, "input_scale": scale, "activation_scale": scale}
    parts |= dict.fromkeys(("k_scale", "v_scale", "kv_scale"), scale)
    np.testing.assert_array_equal(read_matrix(tmp_path, parts, config(), (5, 7)).dequantize(), e4m3()[CODES])


@pytest.mark.parametrize("block", [128, [128], [128, 0], ["128", "128"], [128, 128, 1]])
def test_a_block_that_is_none(tmp_path: Path, block: Any) -> None:
    parts = {"weight": ("F8_E4M3", CODES), "weight_scale": ("F32", np.ones(1, np.float32))}
    with pytest.raises(ConfigError, match=r"weight_block_size=.* is not supported"):
        read_matrix(tmp_path, parts, config(block), (5, 7))


@pytest.mark.parametrize(
    ("parts", "block", "message"),
    [
        ({}, None, r"up_proj.weight_scale_inv: the array is missing, the file has only weight"),
        ({"weight_scale": ("F32", np.ones((2, 2), "<f4"))}, [2, 4], r"weight_scale: shape \[2, 2\] .*, \[3, 2\] would"),
        ({"weight_scale": ("F32", np.ones(4, "<f4"))}, None, r"weight_scale: shape \[4\] does not fit"),
        ({"weight_scale": ("I32", np.ones(1, "<i4"))}, None, "dtype I32 does not belong there"),
        ({"weight_scale": ("F32", np.ones(1, "<f4")), "extra": ("F32", np.ones(1, "<f4"))}, None, "1 unexpected"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, parts: dict[str, Any], block: Any, message: str) -> None:
    with pytest.raises(TensorError, match=message):
        read_matrix(tmp_path, {"weight": ("F8_E4M3", CODES), **parts}, config(block), (5, 7))


def test_8_bit_floats_of_another_kind(tmp_path: Path) -> None:
    parts = {"weight": ("F8_E4M3FNUZ", CODES), "weight_scale": ("F32", np.ones(1, np.float32))}
    with pytest.raises((TensorError, CheckpointError), match="F8_E4M3FNUZ"):
        read_matrix(tmp_path, parts, config(), (5, 7))
