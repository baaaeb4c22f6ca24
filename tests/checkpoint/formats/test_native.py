"""The native format: every field of every tensor that a reader makes comes back with equal bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import NAME, read_matrix
from gguf_kit import QUANTIZED, random_blocks
from safetensors_kit import encode
from tensor_fields import assert_same_fields
from test_damage import SAMPLES, SHAPE
from tiny_checkpoint import SHAPES, write_checkpoint

from pocketvlm.checkpoint.formats.gguf import unpack_matrix
from pocketvlm.checkpoint.formats.native import native_settings, read_native, write_native
from pocketvlm.checkpoint.formats.safetensors import map_arrays, read_header
from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.errors import CheckpointError, ConfigError, TensorError
from pocketvlm.quantize import round_to_nearest
from pocketvlm.schemes import INT4_GROUP_64, INT8_GROUP_32, INT8_ROWS
from pocketvlm.tensors import BlockValues, DenseTensor, LazyArray, QuantizedTensor, Tensor


def round_trip(directory: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    write_native(directory / "native.safetensors", tensors)
    found = read_native(directory / "native.safetensors")
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert_same_fields(found[name], tensor)
        assert np.array_equal(found[name].dequantize(), tensor.dequantize())
    return found


@pytest.mark.parametrize("sample", SAMPLES)
def test_tensors_of_every_format(tmp_path: Path, sample: str) -> None:
    settings, arrays = SAMPLES[sample]
    (tmp_path / "source").mkdir()
    tensor = read_matrix(tmp_path / "source", arrays, {"quantization_config": settings}, SHAPE)
    found = round_trip(tmp_path, {NAME: tensor})[NAME]
    assert isinstance(found, QuantizedTensor)
    assert isinstance(found.codes, LazyArray if tensor.bits < 8 else np.ndarray)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_tensors_of_every_gguf_type(tmp_path: Path, kind: str) -> None:
    """Scales and minima of super-blocks take their 4 or 6 bits, so that the file is about as large as GGUF's."""
    rows = random_blocks(kind, 16, 2048, np.random.default_rng(0))
    tensor = unpack_matrix(NAME, kind, (16, 2048), lambda: rows)
    round_trip(tmp_path, {NAME: tensor})
    entries = read_header(tmp_path / "native.safetensors").values()
    numbers = sum(entry.nbytes for entry in entries if not entry.name.endswith((".quantization", ".codebook")))
    assert numbers <= 1.03 * rows.nbytes


@pytest.mark.parametrize("scheme", [INT8_ROWS, INT8_GROUP_32, INT4_GROUP_64])
def test_tensors_that_are_quantized_when_they_are_written(tmp_path: Path, scheme: Any) -> None:
    values = np.random.default_rng(1).standard_normal((6, 96), np.float32)
    round_trip(tmp_path, {"a": round_to_nearest(DenseTensor("a", "f32", values), scheme)})


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_codes_of_all_bits_and_widths(tmp_path: Path, bits: int, dtype: type) -> None:
    dice = np.random.default_rng(bits)
    low = 0 if dtype == np.uint8 else -(2 ** (bits - 1))
    tensors: dict[str, Tensor] = {}
    for columns in (1, 7, 64, 100):
        codes = dice.integers(low, low + 2**bits, (3, columns)).astype(dtype)
        scales = BlockValues(dice.standard_normal((3, -(-columns // 16)), np.float32), (1, 16))
        zeros = BlockValues(dice.integers(-3, 2, (3, 1)).astype(np.int8), (1, columns), offset=0.5)
        order = dice.permutation(columns) if columns > 1 else None
        name = f"m{columns}"
        tensors[name] = QuantizedTensor(name, bits, (3, columns), codes, scales, zeros, permutation=order)
        tensors[f"{name}.bias"] = DenseTensor(f"{name}.bias", "bf16", np.arange(columns, dtype=np.uint16))
    round_trip(tmp_path, tensors)


def test_equal_zero_points_take_no_array(tmp_path: Path) -> None:
    """Those of symmetric codes; blocks with a codebook always have their codes."""
    scales = BlockValues(np.ones((2, 2), np.uint8), (1, 4), codebook=np.arange(4, dtype=np.float32))
    zeros = BlockValues(np.full((2, 2), 8, np.uint8), (1, 4))
    round_trip(tmp_path, {"a": QuantizedTensor("a", 4, (2, 8), np.ones((2, 8), np.uint8), scales, zeros)})
    names = read_header(tmp_path / "native.safetensors")
    assert "a.zero_points" not in names
    assert "a.scales" in names


def test_float32_numbers_take_two_bytes_where_that_is_exact(tmp_path: Path) -> None:
    scales = np.array([[1.0, -0.0], [2.0**-126, -3.5]], np.float32)
    for values, dtype in ((scales, "BF16"), (scales + np.float32(1e-3), "F32")):
        tensor = QuantizedTensor("a", 4, (2, 8), np.ones((2, 8), np.uint8), BlockValues(values, (1, 4)))
        round_trip(tmp_path, {"a": tensor})
        assert read_header(tmp_path / "native.safetensors")["a.scales"].dtype == dtype


def test_a_directory_loads(tmp_path: Path) -> None:
    """config.json names the method; dense tensors may have any dtype."""
    bits = write_checkpoint(tmp_path, quantization_config=native_settings())
    dense = {name: DenseTensor(name, "bf16", values) for name, values in bits.items()}
    matrices = [name for name, shape in SHAPES.items() if len(shape) == 2]
    tensors = {n: round_to_nearest(its, INT4_GROUP_64) if n in matrices else its for n, its in dense.items()}
    write_native(tmp_path / "model.safetensors", tensors)
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.quantization == "native"
    found = checkpoint.tensors(SHAPES)
    for name, tensor in tensors.items():
        assert_same_fields(found[name], tensor)
    write_checkpoint(tmp_path, quantization_config={**native_settings(), "version": 2})
    with pytest.raises(ConfigError, match="version=2 is not supported, only 1 is"):
        read_checkpoint(tmp_path)


def test_values_that_are_refused(tmp_path: Path) -> None:
    codes, path = np.zeros((2, 8), np.uint8), tmp_path / "a.safetensors"
    ones = BlockValues(np.ones((2, 2), np.float32), (1, 4))
    deep = ones
    for _ in range(3):
        deep = BlockValues(np.ones((2, 2), np.float16), (1, 4) if deep is ones else (1, 1), scale=deep)
    with pytest.raises(TensorError, match=r"a: codes outside 0\.\.3 do not fit 2 bits"):
        write_native(path, {"a": QuantizedTensor("a", 2, (2, 8), codes + np.uint8(4), ones)})
    wrong = BlockValues(np.full((2, 2), np.nan, np.float32), (1, 4))
    with pytest.raises(TensorError, match="a: scales: a value is infinite or NaN"):
        write_native(path, {"a": QuantizedTensor("a", 2, (2, 8), codes, wrong)})
    with pytest.raises(TensorError, match="1 of 1 values are infinite or NaN"):
        write_native(path, {"b": DenseTensor("b", "f16", np.full(1, np.inf, np.float16))})
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_native(tmp_path / "nowhere" / "a.safetensors", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (("x.other", ("U8", np.zeros(3, np.uint8))), "tensor 'x.other' has dtype U8 and belongs to no matrix"),
        (("x.quantization", ("U8", np.zeros(3, np.uint8))), "x.quantization: its text is no JSON object"),
        (("x.codes", ("U8", np.zeros((2, 9), np.uint8))), r"x.codes: shape \[2, 9\] does not fit a matrix \[2, 8\]"),
        (("x.codes", None), "x.codes: the array is missing"),
        (("x.scales", ("F16", np.zeros((2, 2), np.float16))), "x.scales: dtype F16 does not belong there"),
        (("x.permutation", ("I32", np.zeros(8, np.int32))), "x: the permutation is none of 8 columns"),
    ],
)
def test_damaged_files(tmp_path: Path, array: tuple[str, Any], message: str) -> None:
    path = tmp_path / "a.safetensors"
    scales = BlockValues(np.full((2, 2), 0.1, np.float32), (1, 4))
    write_native(path, {"x": QuantizedTensor("x", 4, (2, 8), np.zeros((2, 8), np.uint8), scales)})
    entries = read_header(path)
    arrays = {
        name: (entry.dtype, np.array(view))
        for (name, entry), view in zip(entries.items(), map_arrays(entries.values()), strict=True)
    }
    name, value = array
    arrays.pop(name, None)
    if value is not None:
        arrays[name] = value
    path.write_bytes(encode(arrays))
    with pytest.raises(TensorError, match=message) as error:
        read_native(path)
    assert str(path) in str(error.value)
