"""MLX checkpoints that MLX itself quantized and wrote, in the layouts of mlx-vlm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_checkpoint import assert_changes, assert_same_logits, language_matrices, library, matrices, weights, write

from pocketvlm.checkpoint.names import ZERO_CENTRED_NORMS

pytestmark = pytest.mark.formats


def mlx_name(name: str) -> str:
    """The name that mlx-vlm gives a tensor."""
    rest = name.removeprefix("model.")
    if rest.startswith("language_model."):
        return rest.replace("language_model.", "language_model.model.", 1)
    return rest.removeprefix("vision_tower.") if rest.startswith("vision_tower.vit_merger.") else rest


def sanitized(mx: Any) -> dict[str, Any]:
    """The model's tensors by the hub's names, with the values and layouts that mlx-vlm gives them."""
    found = {}
    for name, tensor in weights().items():
        value = mx.array(tensor.float().numpy()).astype(mx.bfloat16)
        if name.endswith("conv1d.weight"):
            value = value.transpose(0, 2, 1)
        if name.endswith("patch_embedding.weight"):
            value = value.transpose(0, 2, 3, 1)
        if is_shifted(name):
            value = value + 1.0
        found[name] = value
    return found


def convert(mx: Any, directory: Path, kinds: dict[str, dict[str, Any]], **config: Any) -> dict[str, np.ndarray]:
    """Write a checkpoint with the matrices of `kinds` quantized.

    Returns what MLX makes of them in float32, and the weights of norms, which lose bits in the sum with 1.
    """
    stored, values = {}, {}
    for name, value in sanitized(mx).items():
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
    write(directory, **config)
    mx.save_safetensors(str(directory / "model.safetensors"), stored, metadata={"format": "mlx"})
    return values


def is_shifted(name: str) -> bool:
    """Whether mlx-vlm adds 1 to a tensor."""
    return ".language_model." in name and name.endswith(ZERO_CENTRED_NORMS) and "linear_attn" not in name


@pytest.mark.parametrize(
    ("kind", "described"),
    [
        *(({"group_size": 64, "bits": bits}, f"MLX, {bits} bits, groups of 64") for bits in (2, 3, 4, 5, 6, 8)),
        ({"group_size": 32, "bits": 4, "mode": "affine"}, "MLX, 4 bits, groups of 32"),
        ({"group_size": 128, "bits": 4, "mode": "affine"}, "MLX, 4 bits, groups of 128"),
        ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, "MLX, mxfp4, groups of 32"),
        ({"group_size": 32, "bits": 8, "mode": "mxfp8"}, "MLX, mxfp8, groups of 32"),
        ({"group_size": 16, "bits": 4, "mode": "nvfp4"}, "MLX, nvfp4, groups of 16"),
    ],
)
def test_the_language_model_quantized(tmp_path: Path, kind: dict[str, Any], described: str) -> None:
    mx = library("mlx.core")
    names = [*language_matrices(), *matrices("tied_embedding")]
    settings = {"quantization": kind, "quantization_config": kind}
    values = convert(mx, tmp_path, dict.fromkeys(names, kind), **settings)
    assert_changes({name: values[name] for name in names})
    assert_same_logits(tmp_path, values, described)


def test_modules_with_settings_of_their_own(tmp_path: Path) -> None:
    mx = library("mlx.core")
    small, large = {"group_size": 64, "bits": 3}, {"group_size": 32, "bits": 8}
    own = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    kinds = {}
    settings: dict[str, Any] = {**small, "mode": "affine"}
    for name in [*language_matrices(), *matrices("vision_matrix")]:
        if "vision_tower.encoder" in name:
            settings[mlx_name(name).removesuffix(".weight")] = False
        elif "down_proj" in name or "vit_merger.self_attn" in name:
            kinds[name] = large if "down_proj" in name else own
            settings[mlx_name(name).removesuffix(".weight")] = kinds[name]
        elif ".language_model." in name:
            kinds[name] = small
            settings[mlx_name(name).removesuffix(".weight")] = True
    values = convert(mx, tmp_path, kinds, quantization=settings)
    described = "MLX, 3 bits, groups of 64 or 8 bits, groups of 32 or mxfp4, groups of 32"
    assert_same_logits(tmp_path, values, described)


def test_a_file_that_was_converted_and_not_quantized(tmp_path: Path) -> None:
    assert_same_logits(tmp_path, convert(library("mlx.core"), tmp_path, {}), None)
