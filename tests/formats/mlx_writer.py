"""Converts checkpoints as mlx-vlm does, with MLX itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pocketvlm.checkpoint.names import ZERO_CENTRED_NORMS


def mlx_name(name: str) -> str:
    """The name that mlx-vlm gives a tensor."""
    rest = name.removeprefix("model.")
    if rest.startswith("language_model."):
        return rest.replace("language_model.", "language_model.model.", 1)
    return rest.removeprefix("vision_tower.") if rest.startswith("vision_tower.vit_merger.") else rest


def sanitized(mx: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Tensors by the hub's names, with the values and layouts that mlx-vlm gives them."""
    found = {}
    for name, tensor in tensors.items():
        value = mx.array(tensor.float().numpy()).astype(mx.bfloat16)
        if name.endswith("conv1d.weight"):
            value = value.transpose(0, 2, 1)
        if name.endswith("patch_embedding.weight"):
            value = value.transpose(0, 2, 3, 1)
        if is_shifted(name):
            value = value + 1.0
        found[name] = value
    return found


def convert(
    directory: Path, tensors: Mapping[str, torch.Tensor], kinds: Mapping[str, dict[str, Any]]
) -> dict[str, np.ndarray]:
    """Write the weights of a checkpoint with the matrices of `kinds` quantized.

    Returns what MLX makes of them in float32, and the weights of norms, which lose bits in the sum with 1.
    """
    mx = import_module("mlx.core")
    stored, values = {}, {}
    for name, value in sanitized(mx, tensors).items():
        base = mlx_name(name)
        if name not in kinds:
            stored[base] = value
            if is_shifted(name):
                values[name] = np.array(value.astype(mx.float32)) - 1
            continue
        parts = mx.quantize(value, **kinds[name])
        stored |= zip((base, *(base.replace("weight", part) for part in ("scales", "biases"))), parts, strict=False)
        affine = kinds[name].get("mode", "affine") == "affine"
        exact = [parts[0], *(part.astype(mx.float32) if affine else part for part in parts[1:])]
        values[name] = np.array(mx.dequantize(*exact, **kinds[name]).astype(mx.float32))
    mx.save_safetensors(str(directory / "model.safetensors"), stored, metadata={"format": "mlx"})
    return values


def is_shifted(name: str) -> bool:
    """Whether mlx-vlm adds 1 to a tensor."""
    return ".language_model." in name and name.endswith(ZERO_CENTRED_NORMS) and "linear_attn" not in name
