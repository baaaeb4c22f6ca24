"""compressed-tensors files by their description: packing, zero points, orders of columns, groups, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import MODULE, read_matrix
from word_kit import packed

from pocketvlm.checkpoint.formats.codebooks import e2m1, e4m3
from pocketvlm.errors import ConfigError, TensorError
from pocketvlm.tensors import LazyArray

GROUP, COLUMNS = 32, 96
WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": True}


def config(format_: str = "pack-quantized", targets: Any = ("Linear",), **weights: Any) -> dict[str, Any]:
    group = {"targets": list(targets), "weights": {**WEIGHTS, **weights}}
    return {"quantization_config": {**METHOD, "format": format_, "config_groups": {"group_0": group}}}


METHOD: dict[str, Any] = {"quant_method": "compressed-tensors", "ignore": ["lm_head", "re:.*vision.*"]}
SCALES = np.array([[1, -2, 0], [0.5, 4, 3]], np.float32)


def random_codes(bits: int, shape: tuple[int, int] = (2, COLUMNS)) -> np.ndarray:
    codes = np.random.default_rng(bits).integers(0, 2**bits, shape)
    codes[:, 7:9] = 2**bits - 1  # the highest bit of the first word of 4-bit codes is set
    return codes


def words(codes: np.ndarray, bits: int, old: bool = False) -> tuple[str, np.ndarray]:
    """Codes in int32 words; old: each word is filled by itself."""
    each = 32 // bits if old else codes.shape[1]
    parts = [packed(codes[:, at : at + each], bits) for at in range(0, codes.shape[1], each)]
    return "I32", np.ascontiguousarray(np.hstack(parts)).view("<i4")


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("old", [False, True])
def test_packed_without_zero_points(tmp_path: Path, bits: int, old: bool) -> None:
    codes = random_codes(bits)
    parts = {
        "weight_packed": words(codes, bits, old),
        "weight_scale": ("F32", SCALES),
        "weight_shape": ("I64", np.array([2, COLUMNS])),
    }
    tensor = read_matrix(tmp_path, parts, config(num_bits=bits), (2, COLUMNS))
    assert isinstance(tensor.codes, LazyArray)
    expected = (codes - 2 ** (bits - 1)) * np.repeat(SCALES, GROUP, axis=1)
    np.testing.assert_array_equal(tensor.dequantize(), expected.astype(np.float32))


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("old", [False, True])
def test_packed_zero_points(tmp_path: Path, bits: int, old: bool) -> None:
    """From the least to the largest code, packed along the outputs, into words of the same kind."""
    codes, scales = random_codes(bits, (12, COLUMNS)), np.tile(SCALES, (6, 1))
    zeros = np.random.default_rng(0).integers(0, 2**bits, (12, 3))
    zeros[0, :2], zeros[11, 1:] = (0, 2**bits - 1), (2**bits - 1, 0)
    dtype, packed_zeros = words(zeros.T, bits, old)
    parts = {
        "weight_packed": words(codes, bits, old),
        "weight_scale": ("F32", scales),
        "weight_zero_point": (dtype, np.ascontiguousarray(packed_zeros.T)),
    }
    found = read_matrix(tmp_path, parts, config(num_bits=bits, symmetric=False), (12, COLUMNS)).dequantize()
    expected = (codes - np.repeat(zeros, GROUP, axis=1)) * np.repeat(scales, GROUP, axis=1)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_a_last_group_that_is_not_full(tmp_path: Path) -> None:
    codes = random_codes(4, (2, 85))
    parts = {"weight_packed": words(codes, 4), "weight_scale": ("F32", SCALES)}
    found = read_matrix(tmp_path, parts, config(), (2, 85)).dequantize()
    np.testing.assert_array_equal(found, ((codes - 8) * np.repeat(SCALES, GROUP, axis=1)[:, :85]).astype(np.float32))


ORDER = np.random.default_rng(0).permutation(np.arange(COLUMNS) // GROUP)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("index", [ORDER, np.arange(COLUMNS) // GROUP, np.full(COLUMNS, -1)])
def test_columns_that_belong_to_groups_in_any_order(tmp_path: Path, index: np.ndarray, symmetric: bool) -> None:
    codes, zeros = random_codes(4), np.array([[0, 15, 3], [7, 8, 9]])
    dtype, packed_zeros = words(zeros.T, 4)
    parts: dict[str, Any] = {
        "weight_packed": words(codes, 4),
        "weight_scale": ("F32", SCALES),
        "weight_g_idx": ("I32", index.astype(np.int32)),
    }
    if not symmetric:
        parts["weight_zero_point"] = dtype, np.ascontiguousarray(packed_zeros.T)
    tensor = read_matrix(tmp_path, parts, config(symmetric=symmetric, actorder="group"), (2, COLUMNS))
    group = np.arange(COLUMNS) // GROUP if -1 in index else index
    assert (tensor.permutation is None) == np.array_equal(group, np.arange(COLUMNS) // GROUP)
    shift = np.full((2, 3), 8) if symmetric else zeros
    expected = (codes - shift[:, group]) * SCALES[:, group]
    np.testing.assert_array_equal(tensor.dequantize(), expected.astype(np.float32))


def test_integers_a_byte_each(tmp_path: Path) -> None:
    codes = np.array([[-128, 127, 0], [5, -6, 7]], np.int8)
    parts = {
        "weight": ("I8", codes),
        "weight_scale": ("F16", np.array([[0.5], [-2]], np.float16)),
        "weight_zero_point": ("I8", np.array([[-128], [127]], np.int8)),
        "input_scale": ("F32", np.ones(1, np.float32)),
    }
    settings = config("int-quantized", num_bits=8, strategy="channel", group_size=None, symmetric=False)
    found = read_matrix(tmp_path, parts, settings, (2, 3)).dequantize()
    assert found.tolist() == [[0, 127.5, 64], [244, 266, 240]]


def test_nvfp4_divides_by_the_global_scale(tmp_path: Path) -> None:
    codes = random_codes(4, (2, 32))
    scales = np.array([[0x38, 0x01], [0xB8, 0x7E]], np.uint8)
    parts = {
        "weight_packed": ("U8", packed(codes, 4, 8)),
        "weight_scale": ("F8_E4M3", scales),
        "weight_global_scale": ("F32", np.array([3], np.float32)),
        "input_global_scale": ("F32", np.array([3], np.float32)),
    }
    settings = config("nvfp4-pack-quantized", type="float", strategy="tensor_group", group_size=16)
    found = read_matrix(tmp_path, parts, settings, (2, 32)).dequantize()
    expected = e2m1()[codes] * np.repeat(e4m3()[scales] / np.float32(3), 16, axis=1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("structure", [[1, 16], "1x16"])
def test_the_most_exact_target_counts(tmp_path: Path, structure: Any) -> None:
    """A name before an expression, an expression before a class; the name may be that of another tool."""
    parts = {"weight": ("I8", np.full((2, COLUMNS), 2, np.int8)), "weight_scale": ("F32", np.ones((2, 6), np.float32))}
    wrong = {"num_bits": 8, "type": "int", "strategy": "group", "group_size": 8}
    right = {"num_bits": 8, "type": "int", "strategy": "block", "block_structure": structure}
    groups = {
        "a": {"targets": ["Linear"], "weights": wrong, "format": "int-quantized"},
        "b": {"targets": ["re:.*up_proj"], "weights": wrong, "format": "int-quantized"},
        "c": {"targets": ["language_model.model.layers.0.mlp.up_proj"], "weights": right, "format": "int-quantized"},
        "d": {"targets": ["Linear"], "weights": None, "input_activations": {"num_bits": 8}},
    }
    settings = {"quantization_config": {**METHOD, "format": "mixed-precision", "config_groups": groups}}
    assert (read_matrix(tmp_path, parts, settings, (2, COLUMNS)).dequantize() == 2).all()


def test_a_module_that_no_target_names(tmp_path: Path) -> None:
    parts = {"weight_packed": words(random_codes(4), 4), "weight_scale": ("F32", SCALES)}
    group = {"targets": ["re:vision.*"], "weights": WEIGHTS}
    groups = {"quantization_config": {**METHOD, "format": "pack-quantized", "config_groups": {"a": group}}}
    read_matrix(tmp_path, parts, groups, (2, COLUMNS))  # there is only one scheme that it could have
    groups["quantization_config"]["config_groups"]["b"] = {**group, "targets": ["Embedding"]}
    with pytest.raises(TensorError, match=f"{MODULE} is quantized, but no target of 2 groups"):
        read_matrix(tmp_path, parts, groups, (2, COLUMNS))


@pytest.mark.parametrize(
    "format_", ["marlin-24", "sparse-24-bitmask", "sparse-bitmask", "dense", "mixed-precision", None]
)
def test_formats_that_are_refused_by_name(tmp_path: Path, format_: Any) -> None:
    with pytest.raises(ConfigError, match=f"group_0: format {format_!r} is not supported: pack-quantized"):
        read_matrix(tmp_path, {"weight": ("F32", SCALES)}, config(format_), (2, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config(num_bits=9), "9 bits of type 'int' are not supported"),
        (config(num_bits=1), "1 bits of type 'int' are not supported"),
        (config(type="float"), "4 bits of type 'float' are not supported with format 'pack-quantized'"),
        (config("float-quantized", type="float"), "4 bits of type 'float' are not supported"),
        (config("nvfp4-pack-quantized", type="float", group_size=32), "group_size=32 is not supported: expected 16"),
        (
            config("mxfp8-quantized", type="float", num_bits=8, group_size=8),
            "group_size=8 is not supported: expected 32",
        ),
        (config(group_size=None), "group_size=None is not supported"),
        (config(strategy="token"), "strategy='token' is not supported"),
        (config("int-quantized", strategy="block"), "block_structure=None is not supported"),
        (config("float-quantized", type="float", num_bits=8, symmetric=False), "symmetric=False is not supported"),
        (config(targets=["re:(("]), r"targets: 're:\(\(' is no regular expression"),
        (config(targets=[f"re:{'(' * 5000}"]), "is no regular expression"),
        (config(targets=[r"re:(\w+\.?)+!"]), "is not supported: it repeats a group"),
        (config(targets=["re:" + ".*" * 6]), "is not supported: .* more than 5 repetitions"),
        (config(num_bits=4.0), "4.0 bits of type 'int' are not supported"),
        (config("int-quantized", strategy="block", block_structure="9x" + "9" * 5000), "expected two sizes"),
        ({"quantization_config": {**METHOD, "sparsity_config": ["x"]}}, r"format=\['x'\] is not supported"),
        ({"quantization_config": {**METHOD, "config_groups": {"W4A16": ["Linear"]}}}, "W4A16=.* expected an object"),
        ({"quantization_config": {**METHOD, "config_groups": {}}}, "quantizes no weights"),
        ({"quantization_config": {**METHOD}}, "config_groups=None is not an object"),
        (
            {"quantization_config": {**METHOD, "sparsity_config": {"format": "sparse-bitmask"}}},
            "format='sparse-bitmask'",
        ),
        (
            {"quantization_config": {**METHOD, "transform_config": {"config_groups": {"R1": {}}}}},
            "transform_config is not",
        ),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_matrix(tmp_path, {"weight": ("F32", SCALES)}, settings, (2, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_packed": None}, "up_proj.weight_packed: the array is missing"),
        ({"weight_scale": None}, "up_proj.weight_scale: the array is missing"),
        ({"weight_packed": ("U8", np.zeros((2, 12), np.uint8))}, "dtype U8 does not belong there, I32 does"),
        (
            {"weight_packed": ("I32", np.zeros((2, 4), "<i4"))},
            r"\[2, 4\] words do not hold 2 x 96 codes: 12 a row would",
        ),
        ({"weight_shape": ("I64", np.array([24, 2]))}, r"weight_shape: \[24, 2\] does not fit a matrix \[2, 96\]"),
        ({"weight_scale": ("F32", np.ones((2, 2), "<f4"))}, r"weight_scale: shape \[2, 2\] .*, \[2, 3\] would"),
        (
            {"weight_zero_point": ("I32", np.zeros((2, 3), "<i4"))},
            r"weight_zero_point: shape \[2, 3\] .*, \[1, 3\] would",
        ),
        ({"weight_g_idx": ("I32", np.zeros(COLUMNS, "<i4"))}, "do not put 96 columns into groups of 32"),
        ({"weight_g_idx": ("I32", np.zeros(23, "<i4"))}, r"weight_g_idx: shape \[23\] does not fit"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    parts = {"weight_packed": words(random_codes(4), 4), "weight_scale": ("F32", SCALES), **changes}
    with pytest.raises(TensorError, match=message):
        read_matrix(tmp_path, {key: value for key, value in parts.items() if value}, config(), (2, COLUMNS))


def test_zero_points_that_the_scheme_wants_and_the_file_lacks(tmp_path: Path) -> None:
    parts = {"weight_packed": words(random_codes(4), 4), "weight_scale": ("F32", SCALES)}
    with pytest.raises(TensorError, match=r"up_proj.weight_zero_point: the array is missing"):
        read_matrix(tmp_path, parts, config(symmetric=False), (2, COLUMNS))


@pytest.mark.parametrize("bits", [3, 5])
def test_words_that_may_be_packed_in_two_ways(tmp_path: Path, bits: int) -> None:
    parts = {"weight_packed": words(random_codes(bits, (2, 9)), bits), "weight_scale": ("F32", SCALES[:, :1])}
    with pytest.raises(TensorError, match=f"may be packed in two ways for 9 codes of {bits} bits"):
        read_matrix(tmp_path, parts, config(num_bits=bits), (2, 9))
