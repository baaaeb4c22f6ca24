"""What a writer writes, the reader of the format reads with equal codes, scales, zero points and dense tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensor_fields import assert_same_fields
from writer_kit import (
    PUBLISHED,
    assert_dense_are_same,
    assert_same_codes,
    quantized,
    read_back,
    write,
)

from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.checkpoint.names import ZERO_CENTRED_NORMS
from pocketvlm.tensors import QuantizedTensor, float32_to_bfloat16

AFFINE = ("int4-g32", "int4-g64", "int4-g128", "int4-g64-sym")
CASES = [
    *(("awq", scheme) for scheme in AFFINE),
    *(("gptq", scheme) for scheme in (*AFFINE, "int2-g32", "int3-g64", "int8-g64", "int8-g32-sym")),
    *(("gptq", scheme) for scheme in ("int4-g64-permuted", "int4-g32-sym-permuted")),
    *(("compressed-tensors", scheme) for scheme in (*AFFINE, "int8-g64", "int8-g128-sym", "int8", "Q8_0", "Q4_0")),
    *(("compressed-tensors", scheme) for scheme in ("mxfp4", "mxfp8", "nvfp4", "nvfp4-mlx")),
    *(("mlx", f"int{bits}-g64-bias") for bits in (2, 3, 4, 5, 6, 8)),
    *(("mlx", scheme) for scheme in ("int4-g32-bias", "int4-g128-bias", "int4-g64-sym", "int6-g32-sym", "Q8_0")),
    *(("mlx", scheme) for scheme in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "mxfp4", "mxfp8", "nvfp4-mlx")),
    *(("awq", scheme) for scheme in ("Q4_0",)),
    *(("gptq", scheme) for scheme in ("Q4_0", "Q8_0")),
    *(("native", scheme) for scheme in ("int4-g64", "int3-g32-bias", "int8", "Q4_K", "Q6_K", "IQ4_NL", "nvfp4")),
    ("native", "int4-g64-permuted"),
]


@pytest.mark.parametrize(("format", "scheme"), CASES)
def test_codes_and_values_come_back(source: Path, tmp_path: Path, format: str, scheme: str) -> None:
    tensors = quantized(source, scheme)
    write(format, source, tensors, tmp_path / "out")
    found = read_back(tmp_path / "out")
    assert assert_same_codes(found, tensors) == 4 * 3 + 3 * 3 + 4
    norms = ZERO_CENTRED_NORMS if format == "mlx" else ()
    assert_dense_are_same(found, {name: its for name, its in tensors.items() if not name.endswith(norms or "/")})
    assert read_checkpoint(tmp_path / "out").quantization is not None


@pytest.mark.parametrize("scheme", ["int4-g64", "Q4_K", "Q6_K", "int8", "IQ4_NL", "nvfp4", "int5-g32-bias"])
def test_native_holds_every_field(source: Path, tmp_path: Path, scheme: str) -> None:
    """All matrices, the embedding and the vision tower included."""
    tensors = quantized(source, scheme, None)
    write("native", source, tensors, tmp_path / "out")
    for name, tensor in read_back(tmp_path / "out").items():
        assert_same_fields(tensor, tensors[name])


@pytest.mark.parametrize(("format", "dtype"), [("bf16", "bf16"), ("f16", "f16")])
def test_dense_formats_hold_the_rounded_values(source: Path, tmp_path: Path, format: str, dtype: str) -> None:
    tensors = quantized(source, "int4-g64", None)
    write(format, source, tensors, tmp_path / "out")
    found = read_back(tmp_path / "out")
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        values = tensor.dequantize()
        rounded = float32_to_bfloat16(values) if dtype == "bf16" else values.astype(np.float16)
        assert np.array_equal(found[name].data, rounded), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == {"bf16": "bfloat16", "f16": "float16"}[dtype]
    assert "quantization_config" not in config


def test_norms_of_mlx_are_one_plus_the_weight(source: Path, tmp_path: Path) -> None:
    """Rounded to bfloat16 as mlx-vlm rounds them; the reader then takes 1 off, exactly."""
    tensors = quantized(source, "int4-g64-bias")
    write("mlx", source, tensors, tmp_path / "out")
    found, count = read_back(tmp_path / "out"), 0
    for name, tensor in tensors.items():
        if name.endswith(ZERO_CENTRED_NORMS) and "linear_attn" not in name:
            effective = (tensor.dequantize() + np.float32(1)).astype(np.float32)
            rounded = (float32_to_bfloat16(effective).astype(np.uint32) << 16).view(np.float32)
            assert np.array_equal(found[name].dequantize() + 1, rounded)
            count += 1
    assert count == 2 * 4 + 1 + 2


def mixed(name: str) -> str | None:
    if ".layers.1." in name:
        return "int8-g64" if "mlp" in name else None
    return "int4-g128" if "mlp" in name else "int4-g64"


@pytest.mark.parametrize("format", ["gptq", "compressed-tensors"])
def test_mixed_bits_and_dense_layers(source: Path, tmp_path: Path, format: str) -> None:
    tensors = quantized(source, mixed)
    write(format, source, tensors, tmp_path / "out")
    found = read_back(tmp_path / "out")
    assert assert_same_codes(found, tensors) == 4 * 3 + 2 * 3 + 4
    assert_dense_are_same(found, tensors)


def test_mlx_mixes_everything(source: Path, tmp_path: Path) -> None:
    def scheme(name: str) -> str | None:
        if "embed_tokens" in name or "mlp.fc1" in name:
            return "int8-g64-bias"
        return "mxfp4" if "o_proj" in name else "int4-g64-bias" if PUBLISHED.fullmatch(name) else None

    tensors = quantized(source, scheme, None)
    write("mlx", source, tensors, tmp_path / "out")
    found = read_back(tmp_path / "out")
    assert assert_same_codes(found, tensors) == 4 * 3 + 3 * 3 + 4 + 1 + 3
    section = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    assert section["language_model.model.layers.3.self_attn.o_proj"] == {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    assert section["vision_tower.encoder.layers.0.mlp.fc1"]["bits"] == 8
    assert (section["group_size"], section["bits"], section["mode"]) == (64, 4, "affine")


@pytest.mark.parametrize("format", ["awq", "gptq", "compressed-tensors", "mlx"])
def test_large_groups_are_split(source: Path, tmp_path: Path, format: str) -> None:
    """Groups of 256, which engines do not load, become groups of 128 that repeat the scales."""
    tensors = quantized(source, "int4-g256-sym")
    write(format, source, tensors, tmp_path / "out")
    found: dict[str, Any] = read_back(tmp_path / "out")
    assert_same_codes(found, tensors)
    blocks = {its.block for its in found.values() if isinstance(its, QuantizedTensor)}
    whole = {(1, 256), (1, 512)}  # one scale an output, of matrices with so many inputs
    assert blocks <= {(1, 128)} | (whole if format in ("gptq", "compressed-tensors") else set())
    assert (1, 128) in blocks


def test_awq_splits_groups_to_a_common_size(source: Path, tmp_path: Path) -> None:
    tensors = quantized(source, lambda name: "int4-g128" if "mlp" in name else "int4-g32")
    write("awq", source, tensors, tmp_path / "out")
    found: dict[str, Any] = read_back(tmp_path / "out")
    assert_same_codes(found, tensors)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["group_size"] == 32
    assert {its.block for its in found.values() if isinstance(its, QuantizedTensor)} == {(1, 32)}
