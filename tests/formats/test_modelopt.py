"""ModelOpt checkpoints whose matrices and settings ModelOpt itself made."""

from __future__ import annotations

import copy
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import make_prompt, reference_inputs
from safetensors.torch import load_file
from small_checkpoint import assert_changes, assert_same_logits, matrices, oracle, weights, write

pytestmark = [pytest.mark.formats, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]


def nvfp4(tensors: dict[str, torch.Tensor], names: list[str]) -> dict[str, np.ndarray]:
    """Replace the named matrices by what the tool exports; returns what it makes of them in float32."""
    tensor = import_module("modelopt.torch.quantization.qtensor.nvfp4_tensor").NVFP4QTensor
    found = {}
    for name in names:
        packed, scales, whole = tensor.quantize(tensors[name].clone(), 16)
        tensors[name] = packed._quantized_data
        tensors |= {f"{name}_scale": scales, f"{name}_scale_2": whole}
        tensors[name.replace("weight", "input_scale")] = torch.tensor(1.0)
        parts = {"scale": scales, "double_scale": whole, "block_sizes": {-1: 16}}
        found[name] = packed.dequantize(torch.float32, **parts).numpy()
    return found


def fp8(tensors: dict[str, torch.Tensor], names: list[str], each_row: bool) -> dict[str, np.ndarray]:
    """The same in FP8, with a scale for each output or for the matrix."""
    export = import_module("modelopt.torch.export.quant_utils")
    found = {}
    for name in names:
        weight = tensors[name].float()
        largest = weight.abs().amax(1) if each_row else weight.abs().max()
        scales = largest / 448
        codes = export.to_quantized_weight(weight, scales, "fp8_pc_pt" if each_row else "fp8")
        tensors |= {name: codes, f"{name}_scale": scales}
        found[name] = (codes.float() * (scales[:, None] if each_row else scales)).numpy()
    for name in names:
        if name.endswith("k_proj.weight"):
            tensors[name.replace("weight", "k_scale")] = torch.tensor(1.0)
    return found


def convert(algorithm: str, **settings: Any) -> dict[str, Any]:
    """The settings for config.json that the tool makes of those in hf_quant_config.json."""
    method = import_module("modelopt.torch.export.convert_hf_config").convert_hf_quant_config_format
    return method(original(algorithm, **settings))


def original(algorithm: str, **settings: Any) -> dict[str, Any]:
    common = {"kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head", "a_module_that_is_not_there*"]}
    producer = {"name": "modelopt", "version": "0.47.0"}
    return {"producer": producer, "quantization": {"quant_algo": algorithm, **common, **settings}}


DESCRIBED = {
    **dict.fromkeys(("NVFP4", "W4A16_NVFP4"), "4 bits, groups of 16"),
    "FP8": "8 bits, one scale a matrix",
    "FP8_PER_CHANNEL_PER_TOKEN": "8 bits, one scale an output",
}


@pytest.mark.parametrize("algorithm", DESCRIBED)
@pytest.mark.parametrize("place", ["config.json", "hf_quant_config.json"])
def test_one_algorithm(tmp_path: Path, algorithm: str, place: str) -> None:
    tensors = weights()
    if "NVFP4" in algorithm:
        values, settings = nvfp4(tensors, matrices()), {"group_size": 16}
    else:
        values, settings = fp8(tensors, matrices(), each_row="CHANNEL" in algorithm), {}
    assert_changes(values)
    if place == "config.json":
        write(tmp_path, tensors, quantization_config=convert(algorithm, **settings))
    else:
        write(tmp_path, tensors)
        (tmp_path / place).write_text(json.dumps(original(algorithm, **settings)))
    assert_same_logits(tmp_path, values, f"ModelOpt {algorithm}, {DESCRIBED[algorithm]}")


def test_both_in_one_file(tmp_path: Path) -> None:
    tensors = weights()
    values = nvfp4(tensors, matrices("matrix")) | fp8(tensors, matrices("vision_matrix"), each_row=False)
    layers: dict[str, Any] = {}
    for name in values:
        module = name.removesuffix(".weight")
        layers[module] = {"quant_algo": "FP8"} if "vision" in name else {"quant_algo": "NVFP4", "group_size": 16}
    write(tmp_path, tensors, quantization_config=convert("MIXED_PRECISION", quantized_layers=layers))
    assert_same_logits(tmp_path, values, "ModelOpt NVFP4 + FP8, 4 bits, groups of 16 or 8 bits, one scale a matrix")


@pytest.mark.parametrize(("settings", "algorithm"), [("NVFP4_DEFAULT_CFG", "NVFP4"), ("FP8_DEFAULT_CFG", "FP8")])
def test_exported_by_the_tool(tmp_path: Path, settings: str, algorithm: str) -> None:
    """The whole model: quantized with an image as the only example, and exported."""
    quantization = import_module("modelopt.torch.quantization")
    example = reference_inputs(make_prompt(oracle().config, [(4, 8)], seed=2), oracle().config)
    example["pixel_values"] = example["pixel_values"].bfloat16()
    model = copy.deepcopy(oracle().model).bfloat16()
    model.config.architectures = ["MiniCPMV4_6ForConditionalGeneration"]
    model = quantization.quantize(model, getattr(quantization, settings), lambda model: model(**example))
    write(tmp_path)
    import_module("modelopt.torch.export").export_hf_checkpoint(model, export_dir=tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    values = {name: exported(stored, name) for name in matrices() if f"{name}_scale" in stored}
    assert len(values) > 20
    assert_changes(values)
    assert_same_logits(tmp_path, values, f"ModelOpt {algorithm}, {DESCRIBED[algorithm]}")


def exported(stored: dict[str, torch.Tensor], name: str) -> np.ndarray:
    """What the tool makes of a matrix that it exported."""
    weight, scales = stored[name], stored[f"{name}_scale"]
    if weight.dtype != torch.uint8:
        return (weight.float() * scales).numpy()
    tensor = import_module("modelopt.torch.quantization.qtensor.nvfp4_tensor").NVFP4QTensor
    packed = tensor(torch.Size((weight.shape[0], 2 * weight.shape[1])), torch.float32, weight)
    parts = {"scale": scales, "double_scale": stored[f"{name}_scale_2"], "block_sizes": {-1: 16}}
    return packed.dequantize(torch.float32, **parts).numpy()
