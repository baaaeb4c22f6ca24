"""Compresses matrices as compressed-tensors does, with the library itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch


def scheme(format_: str, how: Mapping[str, Any], targets: list[str]) -> Any:
    """A group of config_groups, as the library has it."""
    quantization = import_module("compressed_tensors.quantization")
    dtypes = {"float8_e4m3fn": torch.float8_e4m3fn, "uint8": torch.uint8}
    how = {**how, **({"scale_dtype": dtypes[how["scale_dtype"]]} if "scale_dtype" in how else {})}
    args = quantization.QuantizationArgs(**how)
    return quantization.QuantizationScheme(targets=targets, weights=args, format=format_)


def config(groups: list[Any], ignore: list[str], format_: str) -> dict[str, Any]:
    """The settings as the library writes them into config.json."""
    quantization = import_module("compressed_tensors.quantization")
    named = {f"group_{index}": group for index, group in enumerate(groups)}
    made = quantization.QuantizationConfig(
        config_groups=named, ignore=ignore, format=format_, quantization_status="compressed"
    )
    return {"quantization_config": made.model_dump(mode="json")}


def grouped(weight: torch.Tensor, args: Any) -> torch.Tensor:
    """The values [block rows, block columns, values] that share a scale, padded with zeros."""
    rows, columns = weight.shape
    height, width = {
        "group": (1, args.group_size),
        "tensor_group": (1, args.group_size),
        "channel": (1, columns),
        "tensor": (rows, columns),
        "block": tuple(args.block_structure or (1, 1)),
    }[args.strategy]
    padded = torch.nn.functional.pad(weight, (0, -columns % width, 0, -rows % height))
    blocks = padded.unflatten(0, (-1, height)).unflatten(2, (-1, width))
    return blocks.transpose(1, 2).flatten(2)


def compress(tensors: dict[str, torch.Tensor], names: list[str], group: Any) -> dict[str, np.ndarray]:
    """Replace the named matrices by what the library stores; returns what it makes of them in float32."""
    helpers = import_module("compressed_tensors.quantization.utils.helpers")
    method = compressor(group.format)
    args, found = group.weights, {}
    for name in names:
        weight = tensors.pop(name)
        blocks = grouped(weight.float(), args)
        low, high = blocks.amin(2), blocks.amax(2)
        local = {}
        if args.strategy == "tensor_group":
            local["weight_global_scale"] = helpers.generate_gparam(low.min(), high.max())
        scales, zeros = helpers.calculate_qparams(low, high, args, local.get("weight_global_scale"))
        if args.strategy == "tensor":
            scales, zeros = scales.reshape(1), zeros.reshape(1)
        local |= {
            "weight": weight,
            "weight_scale": scales.to(torch.bfloat16),
            "weight_zero_point": zeros.to(torch.int8),
        }
        stored = method.compress(local, group)
        tensors |= {name.removesuffix("weight") + part: value for part, value in stored.items()}
        found[name] = exact(method, stored, group).numpy()
    return found


def compressor(format_: str) -> Any:
    return import_module("compressed_tensors.compressors").BaseCompressor.get_value_from_registry(format_)


def exact(method: Any, stored: dict[str, torch.Tensor], group: Any) -> torch.Tensor:
    """What the library makes of a matrix if it computes in float32, as it does with scales of that type."""
    if group.format == "nvfp4-pack-quantized":
        fp4 = import_module("compressed_tensors.compressors.nvfp4.helpers")
        lifecycle = import_module("compressed_tensors.quantization.lifecycle.forward")
        rows, half = stored["weight_packed"].shape
        codes = fp4.unpack_fp4_from_uint8(stored["weight_packed"], rows, 2 * half, torch.float32)
        scales, whole = stored["weight_scale"].float(), stored["weight_global_scale"]
        return lifecycle.dequantize(codes, scales, args=group.weights, dtype=torch.float32, global_scale=whole)
    if stored["weight_scale"].dtype == torch.bfloat16:
        stored = {**stored, "weight_scale": stored["weight_scale"].float()}
    return method.decompress(stored, group)["weight"].float()
