"""MLX checkpoints that MLX itself quantized and wrote, in the layouts of mlx-vlm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlx_writer import convert, mlx_name
from small_checkpoint import assert_changes, assert_same_logits, language_matrices, matrices, weights, write

pytestmark = pytest.mark.formats


@pytest.mark.parametrize(
    ("kind", "described"),
    [
        *(({"group_size": 64, "bits": bits}, f"MLX affine, {bits} bits, groups of 64") for bits in (2, 3, 4, 5, 6, 8)),
        ({"group_size": 32, "bits": 4, "mode": "affine"}, "MLX affine, 4 bits, groups of 32"),
        ({"group_size": 128, "bits": 4, "mode": "affine"}, "MLX affine, 4 bits, groups of 128"),
        ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, "MLX mxfp4, 4 bits, groups of 32"),
        ({"group_size": 32, "bits": 8, "mode": "mxfp8"}, "MLX mxfp8, 8 bits, groups of 32"),
        ({"group_size": 16, "bits": 4, "mode": "nvfp4"}, "MLX nvfp4, 4 bits, groups of 16"),
    ],
)
def test_the_language_model_quantized(tmp_path: Path, kind: dict[str, Any], described: str) -> None:
    names = [*language_matrices(), *matrices("tied_embedding")]
    settings = {"quantization": kind, "quantization_config": kind}
    write(tmp_path, **settings)
    values = convert(tmp_path, weights(), dict.fromkeys(names, kind))
    assert_changes({name: values[name] for name in names})
    assert_same_logits(tmp_path, values, described)


def test_modules_with_settings_of_their_own(tmp_path: Path) -> None:
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
    write(tmp_path, quantization=settings)
    values = convert(tmp_path, weights(), kinds)
    described = "MLX affine + mxfp4, 3 bits, groups of 64 or 8 bits, groups of 32 or 4 bits, groups of 32"
    assert_same_logits(tmp_path, values, described)


def test_a_file_that_was_converted_and_not_quantized(tmp_path: Path) -> None:
    write(tmp_path)
    assert_same_logits(tmp_path, convert(tmp_path, weights(), {}), None)
