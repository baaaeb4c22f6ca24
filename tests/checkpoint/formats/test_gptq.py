"""GPTQ files of every variant give the values of the format's formula; others say what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import MODULE, changed, quantized, read_matrix, read_module
from word_kit import gptq_arrays, gptqmodel_zeros, pack, random_matrix

from pocketvlm.checkpoint.formats import bitstream
from pocketvlm.checkpoint.formats.gptq import read_gptq
from pocketvlm.errors import ConfigError, TensorError
from pocketvlm.tensors import DenseTensor

AUTO_GPTQ = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 32,
    "damp_percent": 0.01,
    "desc_act": False,
    "static_groups": False,
    "sym": True,
    "true_sequential": True,
    "model_name_or_path": None,
    "checkpoint_format": "gptq",
}
GPTQ_MODEL = {
    "bits": 4,
    "dynamic": {"-:.*in_proj_[ab]": {}, "+:.*up_proj": {"bits": 8, "group_size": 32}},
    "group_size": 32,
    "desc_act": False,
    "lm_head": False,
    "method": "gptq",
    "quant_method": "gptq",
    "format": "gptq_v2",
    "checkpoint_format": "gptq_v2",
    "pack_dtype": "int32",
    "meta": {"quantizer": ["gptqmodel:7.7.0"], "damp_percent": 0.05},
    "sym": True,
}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("version", "dialect"), [(1, AUTO_GPTQ), (2, GPTQ_MODEL)])
@pytest.mark.parametrize("shuffled", [True, False])
def test_the_values_of_every_variant(
    tmp_path: Path, bits: int, symmetric: bool, version: int, dialect: dict[str, Any], shuffled: bool
) -> None:
    matrix = random_matrix(64, 96, bits, 32, symmetric=symmetric, shuffled=shuffled, seed=bits)
    settings = {**dialect, "bits": bits, "sym": symmetric, "desc_act": shuffled}
    found = read_matrix(tmp_path, gptq_arrays(matrix, version), quantized(settings), (64, 96))
    assert (found.bits, found.block) == (bits, (1, 32))
    assert (found.permutation is not None) is shuffled
    np.testing.assert_array_equal(found.dequantize(), matrix.values())


def test_stored_columns_of_shuffled_groups_are_contiguous(tmp_path: Path) -> None:
    matrix = random_matrix(8, 64, 4, 16, shuffled=True)
    found = read_matrix(tmp_path, gptq_arrays(matrix), quantized(AUTO_GPTQ), (8, 64))
    assert found.permutation is not None
    assert matrix.g_idx[found.permutation].tolist() == [column // 16 for column in range(64)]
    np.testing.assert_array_equal(found.load_codes(), matrix.codes[:, found.permutation])


@pytest.mark.parametrize("group", [8, 32, 64, 128, 192])
@pytest.mark.parametrize("g_idx", [True, False])
def test_bits_and_groups_come_from_the_shapes(tmp_path: Path, group: int, g_idx: bool) -> None:
    """Settings speak of most modules; `dynamic` may be missing. The last group of 128 ends early."""
    matrix = random_matrix(40, 192, 8, group, seed=group)
    settings = {**AUTO_GPTQ, "group_size": 128 if group == 128 else 64}
    found = read_matrix(tmp_path, gptq_arrays(matrix, g_idx=g_idx), quantized(settings), (40, 192))
    assert (found.bits, found.block) == (8, (1, group))
    np.testing.assert_array_equal(found.dequantize(), matrix.values())


def test_one_group_an_output(tmp_path: Path) -> None:
    matrix = random_matrix(16, 96, 4, 96)
    found = read_matrix(
        tmp_path, gptq_arrays(matrix, g_idx=False), quantized({**AUTO_GPTQ, "group_size": -1}), (16, 96)
    )
    assert found.block == (1, 96)
    np.testing.assert_array_equal(found.dequantize(), matrix.values())


@pytest.mark.parametrize("outputs", [16, 37])
def test_a_last_word_that_is_not_full(tmp_path: Path, outputs: int) -> None:
    """Outputs and inputs that end within a word, as newer writers pad them."""
    matrix = random_matrix(outputs, 44, 4, 22)
    found = read_matrix(tmp_path, gptq_arrays(matrix), quantized(AUTO_GPTQ), (outputs, 44))
    np.testing.assert_array_equal(found.dequantize(), matrix.values())


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_scales_of_other_types(tmp_path: Path, dtype: str) -> None:
    matrix = random_matrix(32, 64, 4, 32)
    exact = (matrix.scales.view(np.uint16) & np.uint16(0xFFF0)).view(np.float16)  # values that bfloat16 has too
    matrix = replace(matrix, scales=exact)
    wide = exact.T.astype(np.float32)
    stored = (wide.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else wide
    arrays = changed(gptq_arrays(matrix), "scales", dtype, np.ascontiguousarray(stored))
    np.testing.assert_array_equal(
        read_matrix(tmp_path, arrays, quantized(AUTO_GPTQ), (32, 64)).dequantize(), matrix.values()
    )


@pytest.mark.parametrize("zero", [0, 1, 15])
def test_zero_points_at_the_ends_of_their_range(tmp_path: Path, zero: int) -> None:
    matrix = random_matrix(32, 64, 4, 32)
    matrix = replace(matrix, zeros=np.full_like(matrix.zeros, zero))
    for version, dialect in ((1, AUTO_GPTQ), (2, GPTQ_MODEL)):
        found = read_matrix(tmp_path, gptq_arrays(matrix, version), quantized(dialect), (32, 64))
        np.testing.assert_array_equal(found.dequantize(), matrix.values())


def test_gptqmodel_subtracts_from_whole_words(tmp_path: Path) -> None:
    """Check values from GPTQModel: a zero point 0 borrows from its neighbour, and is read back the same way."""
    expected = np.array([[0x50, 0x0, 0x12345678, 0x80000000]], np.uint32)
    stored = np.array([[0xEEEEEF3F, 0xEEEEEEEF, 0x01234567, 0x6EEEEEEF]], np.uint32).view(np.int32)
    zeros = np.array([[word >> shift & 15 for word in expected[0].tolist() for shift in range(0, 32, 4)]]).T
    matrix = replace(random_matrix(32, 32, 4, 32), zeros=zeros)
    arrays = changed(gptq_arrays(matrix), "qzeros", "I32", stored)
    settings = {**GPTQ_MODEL, "format": "gptq", "checkpoint_format": "gptq"}
    np.testing.assert_array_equal(
        read_matrix(tmp_path, arrays, quantized(settings), (32, 32)).dequantize(), matrix.values()
    )


TWO, FOUR, EIGHT = (0x55555555,), (0x11111111,), (0x01010101,)
EXCHANGED = (0x24924924, 0x92492492, 0x49249249)  # of 3-bit zero points, up to GPTQModel 6


def gptqmodel(version: str | None, bits: int) -> dict[str, Any]:
    """The settings of GPTQModel's version 1 files; after optimum, if it used GPTQModel."""
    tools = ["optimum:1.24.0", f"gptqmodel:{version}" if version else "gptqmodel"]
    return {**GPTQ_MODEL, "bits": bits, "format": "gptq", "checkpoint_format": "gptq", "meta": {"quantizer": tools}}


@pytest.mark.parametrize(
    ("version", "default", "bits", "subtracted"),
    [
        ("1.0.9", 3, 3, EXCHANGED),
        ("2.1.0", 3, 3, EXCHANGED),
        ("6.0.3", 3, 3, EXCHANGED),
        ("7.0.0", 3, 3, None),
        ("7.7.0-dev", 3, 3, None),
        ("7.3.1", 4, 8, FOUR),
        ("7.3.1", 4, 3, FOUR),
        ("7.3.2", 4, 8, EIGHT),
        ("7.3.2", 4, 3, None),
        ("7.4", 4, 2, TWO),
        ("2.1.0", 3, 4, EXCHANGED),
        (None, 4, 4, FOUR),
    ],
)
def test_gptqmodel_subtracts_what_its_version_says(
    tmp_path: Path, version: str | None, default: int, bits: int, subtracted: tuple[int, ...] | None
) -> None:
    """Settings of `default` bits, and a matrix of `bits`: several versions took the constants of the former."""
    matrix = random_matrix(64, 96, bits, 32, seed=bits)
    matrix.zeros[::3] = 0
    arrays = gptq_arrays(matrix)
    if subtracted:
        arrays = changed(arrays, "qzeros", "I32", gptqmodel_zeros(matrix.zeros, bits, subtracted))
    found = read_matrix(tmp_path, arrays, quantized(gptqmodel(version, default)), (64, 96))
    np.testing.assert_array_equal(found.dequantize(), matrix.values())


def test_exchanged_constants_are_those_of_gptqmodel() -> None:
    """Check values that its own function gives: zero points 4, and 0 to 7 over and over."""
    stored = [[0x0, 0xB6DB6DB7, 0x49249249], [0x64687D64, 0x343FD634, 0xB1A1F6B1]]
    zeros = np.stack([np.full(32, 4), np.arange(32) % 8], 1)
    assert gptqmodel_zeros(zeros, 3, EXCHANGED).view(np.uint32).tolist() == stored


@pytest.mark.parametrize(
    ("version", "default", "bits", "message"),
    [
        (None, 3, 3, r"qzeros: how its zero points are stored depends on the version of GPTQModel, which meta.q"),
        (None, 4, 8, r"up_proj.qzeros: how its zero points are stored depends on the version of GPTQModel"),
        ("7.3.1", 3, 4, r"qzeros: GPTQModel 7.0 to 7.3.1 stored wrong zero points for matrices of other bits than"),
    ],
)
def test_zero_points_of_gptqmodel_that_cannot_be_restored(
    tmp_path: Path, version: str | None, default: int, bits: int, message: str
) -> None:
    with pytest.raises(TensorError, match=message):
        read_matrix(
            tmp_path, gptq_arrays(random_matrix(64, 96, bits, 32)), quantized(gptqmodel(version, default)), (64, 96)
        )


def test_symmetric_codes_without_zero_points(tmp_path: Path) -> None:
    matrix = random_matrix(32, 64, 4, 32, symmetric=True)
    arrays = {part: array for part, array in gptq_arrays(matrix).items() if part != "qzeros"}
    np.testing.assert_array_equal(
        read_matrix(tmp_path, arrays, quantized(AUTO_GPTQ), (32, 64)).dequantize(), matrix.values()
    )


def test_groups_of_zeros(tmp_path: Path) -> None:
    matrix = random_matrix(32, 64, 4, 32)
    matrix.scales[:, 1] = 0
    found = read_matrix(tmp_path, gptq_arrays(matrix), quantized(AUTO_GPTQ), (32, 64)).dequantize()
    assert not found[:, 32:].any()
    np.testing.assert_array_equal(found, matrix.values())


def test_large_matrices_are_unpacked_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def counted(units: Any, bits: int) -> Any:
        sizes.append(units.size)
        return whole(units, bits)

    whole = bitstream._whole
    monkeypatch.setattr(bitstream, "_CHUNK", 64 * 5)
    monkeypatch.setattr(bitstream, "_whole", counted)
    matrix = random_matrix(37, 64, 4, 32, shuffled=True)
    found = read_matrix(tmp_path, gptq_arrays(matrix), quantized(AUTO_GPTQ), (37, 64))
    assert not sizes
    np.testing.assert_array_equal(found.load_codes(), matrix.codes[:, found.permutation])
    assert sizes == [5 * 32] * 7 + [2 * 32]


def test_dense_neighbours_and_zero_biases(tmp_path: Path) -> None:
    """A bias that the model does not have is ignored where it is zero: AutoGPTQ wrote one for every layer."""
    matrix = random_matrix(32, 64, 4, 32)
    dense = np.ones((32, 64), np.float16)
    other, bias = "model.merger.mlp.0.linear_1", f"{MODULE}.bias"
    others = {f"{other}.weight": ("F16", dense), bias: ("F16", np.zeros(32, np.float16))}
    found = read_module(
        tmp_path, gptq_arrays(matrix), quantized(AUTO_GPTQ), (32, 64), others, {f"{other}.weight": (32, 64)}
    )
    assert isinstance(found[f"{other}.weight"], DenseTensor)
    assert list(found) == [f"{MODULE}.weight", f"{other}.weight"]
    others[bias] = ("F16", np.ones(32, np.float16))
    with pytest.raises(TensorError, match=r"up_proj.bias: the model has no bias there, and this one is not zero"):
        read_module(
            tmp_path, gptq_arrays(matrix), quantized(AUTO_GPTQ), (32, 64), others, {f"{other}.weight": (32, 64)}
        )


def test_a_bias_of_the_model_stays(tmp_path: Path) -> None:
    bias = np.arange(32, dtype=np.float16)
    others = {f"{MODULE}.bias": ("F16", bias)}
    arrays = gptq_arrays(random_matrix(32, 64, 4, 32))
    found = read_module(tmp_path, arrays, quantized(AUTO_GPTQ), (32, 64), others, {f"{MODULE}.bias": (32,)})[
        f"{MODULE}.bias"
    ]
    assert isinstance(found, DenseTensor)
    np.testing.assert_array_equal(found.float32(), bias)


ARRAYS = gptq_arrays(random_matrix(32, 64, 4, 32))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"qweight": ARRAYS["qweight"]},
            r"scales: the array is missing, the file has only qweight: download",
        ),
        (
            changed(ARRAYS, "qweight", "I64", np.zeros((8, 32), np.int64)),
            r"qweight: dtype I64 does not belong there",
        ),
        (
            changed(ARRAYS, "qweight", "I32", np.zeros((7, 32), np.int32)),
            r"qweight: 7 words do not hold 64 codes of 2, 3, 4, 8 bits, or config.json names another",
        ),
        (
            changed(ARRAYS, "qweight", "I32", np.zeros((8, 31), np.int32)),
            r"qweight: shape \[8, 31\] .* \[8, 32\]",
        ),
        (
            changed(ARRAYS, "qweight", "I32", np.zeros(256, np.int32)),
            r"qweight: shape \[256\] is not rows and columns",
        ),
        (changed(ARRAYS, "qzeros", "I32", np.zeros((2, 5), np.int32)), r"qzeros: shape \[2, 5\] .* \[2, 4\] would"),
        (
            changed(ARRAYS, "scales", "I32", np.zeros((2, 32), np.int32)),
            r"scales: dtype I32 does not belong there, F32 or F16 or BF16 does",
        ),
        (
            changed(ARRAYS, "scales", "F16", np.zeros((2, 31), np.float16)),
            r"scales: shape \[2, 31\] .* \[2, 32\]",
        ),
        (changed(ARRAYS, "scales", "F16", np.float16(1)), r"scales: shape \[\] is not rows and columns"),
        (changed(ARRAYS, "g_idx", "I32", np.zeros(63, np.int32)), r"g_idx: shape \[63\] .* \[64\] would"),
        (changed(ARRAYS, "g_idx", "F16", np.zeros(64, np.float16)), r"g_idx: dtype F16 does not belong there"),
        (changed(ARRAYS, "g_idx", "I32", np.full(64, 2, np.int32)), r"g_idx: it names groups 2 to 2, scales has 2"),
        (changed(ARRAYS, "g_idx", "I32", np.full(64, -1, np.int32)), r"g_idx: it names groups -1 to -1, scales has 2"),
        (
            changed(ARRAYS, "g_idx", "I32", np.repeat([0, 1], [24, 40]).astype(np.int32)[::-1]),
            r"g_idx makes groups of unequal size, from 24 to 40 inputs, which is not supported: use",
        ),
        (changed(ARRAYS, "g_idx", "I32", np.zeros(64, np.int32)), r"groups of unequal size, from 0 to 64 inputs"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:24],
)
def test_damaged_files(tmp_path: Path, arrays: Any, message: str) -> None:
    with pytest.raises(TensorError, match=message) as caught:
        read_module(tmp_path, arrays, quantized({**AUTO_GPTQ, "sym": False}), (32, 64))
    assert "\n" not in str(caught.value)


def test_a_quantized_tensor_that_is_no_matrix(tmp_path: Path) -> None:
    with pytest.raises(TensorError, match=r"up_proj.weight: a tensor of shape \[32, 1, 64\] is quantized"):
        read_module(tmp_path, ARRAYS, quantized(AUTO_GPTQ), (32, 1, 64))


def test_a_quantized_module_that_the_model_does_not_have(tmp_path: Path) -> None:
    others = {"model.extra.qweight": ("I32", pack(np.ones((8, 8), np.int64), 4))}
    with pytest.raises(TensorError, match=r"1 unexpected: model.extra.qweight"):
        read_module(tmp_path, ARRAYS, quantized(AUTO_GPTQ), (32, 64), others)


@pytest.mark.parametrize(
    ("settings", "default"),
    [
        (AUTO_GPTQ, (4, 32)),
        ({**AUTO_GPTQ, "group_size": -1, "bits": 3}, (3, -1)),
        ({**GPTQ_MODEL, "quant_method": "GPTQ"}, (4, 32)),
        ({"method": "gptq", "bits": 4, "sym": None, "dynamic": None}, (4, 128)),
        ({"bits": 4, "group_size": 64, "desc_act": False, "sym": True}, (4, 64)),
        (
            {"quant_method": "gptq", "bits": 4, "modules_in_block_to_quantize": [["no.such"]]},
            (4, 128),
        ),
    ],
)
def test_both_dialects_of_the_settings(settings: dict[str, Any], default: tuple[int, int]) -> None:
    found = read_gptq(settings, "config.json", {})
    assert found is not None
    assert found.describe() == "GPTQ"
    assert (found.bits, found.group_sizes[0]) == default


@pytest.mark.parametrize("settings", [{"quant_method": "awq", "bits": 4}, {"w_bit": 4, "q_group_size": 128}, {}])
def test_settings_of_another_format(settings: dict[str, Any]) -> None:
    assert read_gptq(settings, "config.json", {}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint_format": "marlin"}, r"config.json: checkpoint_format='marlin' is not supported, only 'gptq' or"),
        ({"checkpoint_format": "gptq_p"}, r"checkpoint_format='gptq_p' is not supported"),
        ({"checkpoint_format": None, "format": "bitblas"}, r"format='bitblas' is not supported"),
        ({"is_marlin_format": True}, r"is_marlin_format=True: the Marlin layout is not supported: use another export"),
        ({"pack_dtype": "int16"}, r"pack_dtype='int16' is not supported, only 'int32' is"),
        ({"rotation": "hadamard"}, r"rotation='hadamard': a rotation of activations is not supported"),
        ({"bits": 5}, r"GPTQ with 5 bits is not supported, only with 2, 3, 4 or 8"),
        ({"bits": "4"}, r"bits='4' is not supported"),
        ({"group_size": 0}, r"group_size=0 is not supported"),
        ({"group_size": -2}, r"group_size=-2 is not supported"),
        (
            {"dynamic": {"+:.*": {"group_size": "x"}}},
            r"config.json: dynamic\['\+:\.\*'\]: group_size='x' is not supported",
        ),
        ({"sym": "yes"}, r"sym='yes' is neither true nor false"),
    ],
)
def test_settings_that_are_not_supported(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_gptq({**AUTO_GPTQ, **change}, "config.json", {})


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_scales_that_are_not_finite_are_refused_when_they_are_read(tmp_path: Path, scale: float) -> None:
    matrix = random_matrix(32, 64, 4, 32)
    matrix.scales[3, 1] = scale
    tensor = read_matrix(tmp_path, gptq_arrays(matrix), quantized(AUTO_GPTQ), (32, 64))
    with pytest.raises(TensorError, match="1 of 64 scales are infinite or NaN: the file is damaged"):
        tensor.dequantize()
