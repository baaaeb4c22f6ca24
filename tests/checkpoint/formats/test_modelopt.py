"""ModelOpt files by their description: two levels of scales, where settings stand, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import read_matrix
from word_kit import packed

from pocketvlm.checkpoint.formats.codebooks import e2m1, e4m3
from pocketvlm.errors import ConfigError, TensorError

CODES = np.random.default_rng(0).integers(0, 16, (2, 32))
SCALES = np.array([[0x38, 0x01], [0xB8, 0x7E]], np.uint8)
PARTS: dict[str, Any] = {
    "weight": ("U8", packed(CODES, 4, 8)),
    "weight_scale": ("F8_E4M3", SCALES),
    "weight_scale_2": ("F32", np.array(0.3, np.float32)),
    "input_scale": ("F32", np.array(1, np.float32)),
    "k_scale": ("F32", np.array(1, np.float32)),
}
VALUES = e2m1()[CODES] * np.repeat(e4m3()[SCALES] * np.float32(0.3), 16, axis=1)


def config(algorithm: Any = "NVFP4", **settings: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": "modelopt", "quant_algo": algorithm, **settings}}


def test_the_second_scale_multiplies(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_matrix(tmp_path, PARTS, config(), (2, 32)).dequantize(), VALUES)


def test_settings_in_a_file_of_their_own(tmp_path: Path) -> None:
    settings = {"quantization": {"quant_algo": "NVFP4", "group_size": 16, "kv_cache_quant_algo": "FP8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"producer": {"name": "modelopt"}, **settings}))
    np.testing.assert_array_equal(read_matrix(tmp_path, PARTS, {}, (2, 32)).dequantize(), VALUES)


@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_fp8(tmp_path: Path, shape: tuple[int, ...]) -> None:
    codes = np.array([[1, 0x38, 0xB8], [0x7E, 0xFE, 0]], np.uint8)
    scales = np.arange(2, 2 + int(np.prod(shape)), dtype=np.float32)
    parts = {"weight": ("F8_E4M3", codes), "weight_scale": ("F32", scales.reshape(shape))}
    found = read_matrix(tmp_path, parts, config("FP8"), (2, 3)).dequantize()
    np.testing.assert_array_equal(found, e4m3()[codes] * scales[:, None])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *((config(name), f"quant_algo='{name}' is not supported") for name in ("W4A16_AWQ", "NVFP4_AWQ", "INT8_SQ")),
        (config(None), "quant_algo=None is not supported"),
        (config(group_size=32), "group_size=32 is not supported with NVFP4"),
        (config("MIXED_PRECISION"), "quantized_layers=None is not supported"),
        (
            config("MIXED_PRECISION", quantized_layers={"a.b": {"quant_algo": "W4A8_AWQ"}}),
            "quantized_layers: a.b: quant_algo='W4A8_AWQ' is not supported",
        ),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_matrix(tmp_path, PARTS, settings, (2, 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": None}, "up_proj.weight: the array is missing"),
        ({"weight_scale": None}, "up_proj.weight_scale: the array is missing"),
        ({"weight_scale_2": None}, "up_proj.weight_scale: dtype F8_E4M3 does not belong there"),
        ({"weight_scale_2": ("F32", np.array(0, np.float32))}, "up_proj.weight_scale_2: 0.0 is no scale"),
        ({"weight_scale_2": ("F32", np.array(np.nan, np.float32))}, "up_proj.weight_scale_2: nan is no scale"),
        ({"weight": ("U8", np.zeros((2, 8), np.uint8))}, r"up_proj.weight: shape \[2, 8\] .*, \[2, 16\] would"),
        ({"pre_quant_scale": ("F32", np.ones(32, np.float32))}, "1 unexpected: .*up_proj.pre_quant_scale"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    parts = {key: value for key, value in {**PARTS, **changes}.items() if value}
    with pytest.raises(TensorError, match=message):
        read_matrix(tmp_path, parts, config(), (2, 32))
