"""AutoRound's packings give the values that its own library computes; data types and backends of others are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import quantized, read_matrix
from word_kit import Arrays, awq_arrays, gptq_arrays, pack, random_matrix

from pocketvlm.checkpoint.formats.autoround import read_auto_round
from pocketvlm.errors import ConfigError

SETTINGS = {
    "autoround_version": "0.16.1",
    "bits": 4,
    "block_name_to_quantize": "model.language_model.layers",
    "data_type": "int",
    "extra_config": {"model.language_model.layers.0.linear_attn.in_proj_a": {"bits": 16, "data_type": "fp"}},
    "group_size": 32,
    "packing_format": "auto_round:auto_gptq",
    "quant_method": "auto-round",
    "sym": True,
}
AS_STORED = ("auto_round", "auto_round:gptqmodel")
LESS_ONE = ("auto_round:auto_gptq", "auto_round:gptq", "auto_round:gptq:exllamav2", "auto", None)
AWQ = ("auto_round:auto_awq", "auto_round:awq")


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("packing", [*AS_STORED, *LESS_ONE])
def test_packings_along_the_inputs(tmp_path: Path, bits: int, symmetric: bool, packing: str | None) -> None:
    matrix = random_matrix(64, 96, bits, 32, symmetric=symmetric, seed=bits)
    arrays = gptq_arrays(matrix, 2 if packing in AS_STORED else 1, g_idx=False)
    settings = {**SETTINGS, "bits": bits, "sym": symmetric, "packing_format": packing}
    found = read_matrix(tmp_path, arrays, quantized(settings), (64, 96))
    assert (found.bits, found.block) == (bits, (1, 32))
    np.testing.assert_array_equal(found.dequantize(), matrix.values())


@pytest.mark.parametrize("bits", [4, 5, 6, 7])
@pytest.mark.parametrize("packing", AWQ)
def test_packings_along_the_outputs(tmp_path: Path, bits: int, packing: str) -> None:
    matrix = random_matrix(64, 96, bits, 48, seed=bits)
    settings = {**SETTINGS, "bits": bits, "sym": False, "group_size": 48, "packing_format": packing}
    found = read_matrix(tmp_path, awq_arrays(matrix), quantized(settings), (64, 96))
    assert (found.bits, found.block) == (bits, (1, 48))
    np.testing.assert_array_equal(found.dequantize(), matrix.values())


def test_a_zero_point_beyond_the_codes(tmp_path: Path) -> None:
    """AutoRound adds 1 to what is stored and wraps nothing: 15 in 4 bits means 16."""
    matrix = random_matrix(32, 64, 4, 32)
    zeros = np.full_like(matrix.zeros, 16)
    arrays: Arrays = {**gptq_arrays(matrix, g_idx=False), "qzeros": ("I32", pack(zeros.T - 1, 4))}
    found = read_matrix(tmp_path, arrays, quantized(SETTINGS), (32, 64))
    np.testing.assert_array_equal(found.dequantize(), replace(matrix, zeros=zeros).values())


def test_overrides_of_some_modules(tmp_path: Path) -> None:
    """Bits and groups come from the shapes, and from `extra_config` where several sizes would fit."""
    extra = {".*up_proj": {"bits": 8, "group_size": 64}}
    matrix = random_matrix(32, 96, 8, 64)
    found = read_matrix(
        tmp_path, gptq_arrays(matrix, g_idx=False), quantized({**SETTINGS, "extra_config": extra}), (32, 96)
    )
    assert (found.bits, found.block) == (8, (1, 64))
    np.testing.assert_array_equal(found.dequantize(), matrix.values())


@pytest.mark.parametrize("method", ["auto-round", "intel/auto-round", "Auto-Round"])
def test_the_names_of_the_method(method: str) -> None:
    found = read_auto_round({**SETTINGS, "quant_method": method}, "config.json", {})
    assert found is not None
    assert found.describe() == "AutoRound"


def test_older_versions_name_the_packing_as_a_backend() -> None:
    settings = {**SETTINGS, "packing_format": None, "backend": "auto_round:gptq:exllamav2"}
    assert read_auto_round(settings, "config.json", {}) is not None


@pytest.mark.parametrize("settings", [{"quant_method": "gptq", "provider": "auto-round"}, {"quant_method": "awq"}, {}])
def test_what_it_exports_for_others_is_read_as_theirs(settings: dict[str, Any]) -> None:
    assert read_auto_round(settings, "config.json", {}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            ({"packing_format": name}, rf"packing_format='{name}' is not supported, only auto_round, auto_round:auto")
            for name in ("auto_round:exllamav2", "auto_round:llm_compressor", "auto_round:fp8_static", "mlx", "itrex")
        ),
        ({"data_type": "mx_fp"}, r"config.json: data_type='mx_fp' is not supported, only 'int' is"),
        ({"act_bits": 8}, r"act_bits=8 is not supported: activations have 16 bits or more"),
        ({"super_bits": 6}, r"super_bits=6: a scale of scales is not supported"),
        ({"rotation_config": {"kind": "hadamard"}}, r"rotation_config=.*: a rotation of activations is not supported"),
        ({"extra_config": []}, r"extra_config=\[\] is not an object"),
        (
            {"extra_config": {"lm_head": {"bits": 4, "data_type": "nv_fp"}}},
            r"extra_config\['lm_head'\]: data_type='nv_fp'",
        ),
        ({"group_size": "all"}, r"group_size='all' is not supported"),
    ],
)
def test_settings_that_are_not_supported(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_auto_round({**SETTINGS, **change}, "config.json", {})
