"""`convert_model` changes the container and no code: between directories, from GGUF files, and to 16 bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_kit import TYPES, write_pair
from writer_kit import assert_same_codes, quantized, write, write_source

import pocketvlm
from pocketvlm.api.converting import convert_model, label_of
from pocketvlm.checkpoint.formats.gguf import unpack_matrix
from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import CheckpointError, ConfigError, OptionError
from pocketvlm.model import expected_tensors
from pocketvlm.tensors import Tensor


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "MiniCPM-V-4.6")


def dequantize(kind: str, rows: np.ndarray) -> np.ndarray:
    _, values, nbytes, _ = TYPES[kind]
    return unpack_matrix("m", kind, (len(rows), rows.shape[1] // nbytes * values), lambda: rows).dequantize()


def tensors_of(path: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(path)
    return checkpoint.tensors(expected_tensors(checkpoint.model))


def record(calls: list[Any]) -> Any:
    return lambda *call: calls.append(call)


@pytest.mark.parametrize(
    ("scheme", "formats"),
    [
        ("int4-g64", ("awq", "gptq", "compressed-tensors", "native")),
        ("int4-g32-sym", ("awq", "gptq", "compressed-tensors", "mlx", "native")),
        ("int8-g64-sym", ("gptq", "compressed-tensors", "mlx", "native")),
        ("mxfp4", ("compressed-tensors", "mlx", "native")),
        ("int4-g64-permuted", ("gptq", "native")),
    ],
)
def test_containers_change_and_codes_do_not(
    source: Path, tmp_path: Path, scheme: str, formats: tuple[str, ...]
) -> None:
    """Through all formats that hold the numbers, and back to the first, whose file is then the same bit for bit."""
    tensors = quantized(source, scheme)
    before = tmp_path / "first"
    write(formats[0], source, tensors, before)
    for index, format in enumerate((*formats[1:], formats[0])):
        out = tmp_path / f"{index}-{format}"
        calls: list[Any] = []
        paths = convert_model(before, out, format=format, progress=record(calls))
        assert out / "model.safetensors" in paths
        assert calls[-1][0] == "write"
        assert calls[-1][1] == calls[-1][2]
        found = tensors_of(out)
        assert assert_same_codes(found, tensors) > 20
        before = out
    if "mlx" not in formats:  # its norms are rounded sums
        assert (before / "model.safetensors").read_bytes() == (tmp_path / "first" / "model.safetensors").read_bytes()
        assert (before / "config.json").read_bytes() == (tmp_path / "first" / "config.json").read_bytes()


def test_to_16_bits_the_values_are_rounded_once(source: Path, tmp_path: Path) -> None:
    tensors = quantized(source, "int4-g64")
    write("awq", source, tensors, tmp_path / "awq")
    convert_model(tmp_path / "awq", tmp_path / "f16", format="f16")
    for name, tensor in tensors_of(tmp_path / "f16").items():
        assert np.array_equal(tensor.dequantize(), tensors[name].dequantize().astype(np.float16).astype(np.float32))
    assert "quantization_config" not in json.loads((tmp_path / "f16" / "config.json").read_text())
    assert not (tmp_path / "f16" / "quantize_config.json").exists()


@pytest.mark.parametrize("format", ["bf16", "native", "mlx"])
def test_a_gguf_pair_becomes_a_directory(tmp_path: Path, format: str) -> None:
    """Its small files are made from the metadata; the tokenizer, template and settings are those of the pair."""
    pair = write_pair(tmp_path / "pair", dequantize, ["Q4_0", "Q8_0"])
    out = tmp_path / format
    convert_model(pair.text, out, format=format)
    made, original = open_checkpoint(out), open_checkpoint(pair.text)
    assert made.model == original.model
    assert made.processor == original.processor
    assert made.generation == replace(original.generation, eos_token_ids=original.eos_token_ids)
    assert (made.eos_token_ids, made.chat_template) == (original.eos_token_ids, original.chat_template)
    assert made.tokenizer.text() == original.tokenizer.text()
    if format != "bf16":
        assert_same_codes(tensors_of(out), tensors_of(pair.text))
    with pocketvlm.load(out, cache=False, threads=1, max_model_len=256) as model:
        assert model.ask("What is 12 + 3?", max_tokens=2, temperature=0).usage.completion_tokens


def test_gguf_files_that_do_not_hold_the_whole_model(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "pair", dequantize, ["Q8_0"], mode="4x")
    with pytest.raises(ConfigError, match="is made for 4x alone, and a directory holds the whole model"):
        convert_model(pair.text, tmp_path / "out", format="native")
    pair.mmproj.unlink()
    with pytest.raises(ConfigError, match="has no vision file in its folder"):
        convert_model(pair.text, tmp_path / "out", format="native")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pair"]


def test_k_quants_fit_native_alone(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "pair", dequantize, ["Q4_K"])
    for format, reason in (("mlx", "its scales have two levels"), ("gptq", "engines load only linear layers")):
        with pytest.raises(OptionError, match=reason):
            convert_model(pair.text, tmp_path / "out", format=format)
    convert_model(pair.text, tmp_path / "out", format="native")
    assert_same_codes(tensors_of(tmp_path / "out"), tensors_of(pair.text))


def test_wrong_arguments(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="format='int4': no such format: there are native, "):
        convert_model(source, tmp_path / "out", format="int4")
    with pytest.raises(OptionError, match=r"format awq is a directory: give a name that does not end in \.gguf"):
        convert_model(source, tmp_path / "out.gguf", format="awq")
    with pytest.raises(OptionError, match="exists already"):
        convert_model(source, source, format="bf16")
    with pytest.raises(CheckpointError, match="not-there"):
        convert_model("not-there", tmp_path / "out", format="bf16")


def test_labels(source: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(source)
    assert label_of(checkpoint, tensors_of(source)) == "bf16"
    assert label_of(checkpoint, quantized(source, "int4-g64")) == "int4-g64"
    assert label_of(checkpoint, quantized(source, "int8")) == "int8"
