"""AWQ files give the values of the format's formula; damaged and unsupported ones say what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import MODULE, changed, quantized, read_matrix, read_module
from word_kit import awq_arrays, gptq_arrays, random_matrix

from pocketvlm.checkpoint.formats import awq, bitstream
from pocketvlm.checkpoint.formats.awq import read_awq
from pocketvlm.errors import ConfigError, TensorError

CONFIG = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 32,
    "zero_point": True,
    "version": "gemm",
    "modules_to_not_convert": ["model.vision_tower", "no.such.module"],
}
# AutoAWQ's own file.
OWN_FILE = {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM", "modules_to_not_convert": None}


@pytest.mark.parametrize("settings", [CONFIG, OWN_FILE])
@pytest.mark.parametrize("group", [32, 64, 128, 192])
def test_the_values_of_every_group_size(tmp_path: Path, settings: dict[str, Any], group: int) -> None:
    matrix = random_matrix(64, 384, 4, group, seed=group)
    found = read_matrix(tmp_path, awq_arrays(matrix), quantized(settings), (64, 384))
    assert (found.bits, found.block, found.permutation) == (4, (1, group), None)
    np.testing.assert_array_equal(found.dequantize(), matrix.values())


def test_one_group_an_output(tmp_path: Path) -> None:
    matrix = random_matrix(16, 96, 4, 96)
    found = read_matrix(tmp_path, awq_arrays(matrix), quantized({**CONFIG, "group_size": -1}), (16, 96))
    assert found.block == (1, 96)
    np.testing.assert_array_equal(found.dequantize(), matrix.values())


@pytest.mark.parametrize("outputs", [8, 16, 40])
def test_few_outputs(tmp_path: Path, outputs: int) -> None:
    """in_proj_a and in_proj_b have 16."""
    matrix = random_matrix(outputs, 33, 4, 11)
    found = read_matrix(tmp_path, awq_arrays(matrix), quantized(CONFIG), (outputs, 33))
    np.testing.assert_array_equal(found.dequantize(), matrix.values())


@pytest.mark.parametrize("zero", [0, 15])
def test_zero_points_at_the_ends_of_their_range(tmp_path: Path, zero: int) -> None:
    matrix = random_matrix(32, 64, 4, 32)
    matrix = replace(matrix, zeros=np.full_like(matrix.zeros, zero))
    found = read_matrix(tmp_path, awq_arrays(matrix), quantized(CONFIG), (32, 64))
    np.testing.assert_array_equal(found.dequantize(), matrix.values())


@pytest.mark.parametrize("stored", [True, False])
def test_symmetric_codes_with_and_without_zero_points(tmp_path: Path, stored: bool) -> None:
    matrix = random_matrix(32, 64, 4, 32, symmetric=True)
    arrays = {part: array for part, array in awq_arrays(matrix).items() if stored or part != "qzeros"}
    found = read_matrix(tmp_path, arrays, quantized({**CONFIG, "zero_point": False}), (32, 64))
    np.testing.assert_array_equal(found.dequantize(), matrix.values())


def test_large_matrices_are_unpacked_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def counted(array: Any, *how: Any) -> Any:
        sizes.append(array.shape)
        return bitstream.unpack(array, *how)

    monkeypatch.setattr(bitstream, "_CHUNK", 25 * 72)
    monkeypatch.setattr(awq, "unpack", counted)
    matrix = random_matrix(72, 64, 4, 32)
    found = read_matrix(tmp_path, awq_arrays(matrix), quantized(CONFIG), (72, 64))
    assert not sizes
    np.testing.assert_array_equal(found.load_codes(), matrix.codes)
    assert sizes == [(25, 9), (25, 9), (14, 9)]


ARRAYS = awq_arrays(random_matrix(32, 64, 4, 32))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"qweight": ARRAYS["qweight"]},
            r"scales: the array is missing, the file has only qweight: download",
        ),
        (
            gptq_arrays(random_matrix(32, 64, 4, 32), g_idx=False),
            r"qweight: 32 words do not hold 32 codes of 4 bits",
        ),
        (
            changed(ARRAYS, "qweight", "I32", np.zeros((63, 4), np.int32)),
            r"qweight: shape \[63, 4\] .* \[64, 4\]",
        ),
        (changed(ARRAYS, "qzeros", "I32", np.zeros((1, 4), np.int32)), r"qzeros: shape \[1, 4\] .* \[2, 4\] would"),
        (changed(ARRAYS, "scales", "F16", np.zeros((3, 32), np.float16)), r"scales: 3 groups do not divide 64 inputs"),
        (
            changed(ARRAYS, "scales", "F16", np.zeros((2, 33), np.float16)),
            r"scales: shape \[2, 33\] .* \[2, 32\]",
        ),
    ],
)
def test_damaged_files(tmp_path: Path, arrays: Any, message: str) -> None:
    with pytest.raises(TensorError, match=message) as caught:
        read_module(tmp_path, arrays, quantized(CONFIG), (32, 64))
    assert "\n" not in str(caught.value)


def test_outputs_that_do_not_fill_a_word(tmp_path: Path) -> None:
    arrays = changed(ARRAYS, "qweight", "I32", np.zeros((64, 4), np.int32))
    with pytest.raises(TensorError, match=r"up_proj.qweight: AWQ needs a multiple of 8 outputs, not 30"):
        read_module(tmp_path, arrays, quantized(CONFIG), (30, 64))


@pytest.mark.parametrize(
    ("settings", "default"),
    [
        (CONFIG, (4, 32)),
        (OWN_FILE, (4, 32)),
        ({"quant_method": "awq", "bits": 4, "group_size": -1, "format": "gemm"}, (4, -1)),
        ({"quant_method": "awq"}, (4, 128)),
    ],
)
def test_both_dialects_of_the_settings(settings: dict[str, Any], default: tuple[int, int]) -> None:
    found = read_awq(settings, "config.json", {})
    assert found is not None
    assert found.describe() == "AWQ"
    assert (found.bits, found.group_sizes[0]) == default


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            ({"version": name}, rf"config.json: version='{name}' is not supported, only 'gemm' is: use another export")
            for name in ("gemv", "GEMV_fast", "llm-awq", "marlin", "exllama", 3)
        ),
        ({"version": None, "format": "gemv"}, r"format='gemv' is not supported"),
        ({"backend": "llm-awq"}, r"backend='llm-awq' is not supported, only version 'gemm' is"),
        ({"bits": 8}, r"AWQ with 8 bits is not supported, only with 4"),
        ({"group_size": 1.5}, r"group_size=1.5 is not supported"),
        ({"zero_point": "x"}, r"zero_point='x' is neither true nor false"),
    ],
)
def test_settings_that_are_not_supported(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("'3'", "3")):
        read_awq({**CONFIG, **change}, "config.json", {})


@pytest.mark.parametrize("settings", [{"quant_method": "gptq", "bits": 4}, {"bits": 4, "group_size": 128}, {}])
def test_settings_of_another_format(settings: dict[str, Any]) -> None:
    assert read_awq(settings, "config.json", {}) is None


def test_a_missing_array_is_named_although_others_are_symmetric(tmp_path: Path) -> None:
    arrays = {part: array for part, array in ARRAYS.items() if part != "qzeros"}
    with pytest.raises(
        TensorError,
        match=rf"{MODULE}.qzeros: the array is missing, the file has only qweight, scales: download or copy",
    ):
        read_module(tmp_path, arrays, quantized(CONFIG), (32, 64))
