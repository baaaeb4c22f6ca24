"""Writes the vision tower for one view of 448x448 as the files that OpenVINO reads: float32, and int8 by NNCF.

    python benchmarks/peers/openvino_tower.py DIRECTORY --kinds f32 int8

The tower is stated here in plain PyTorch, with all 2x2 windows in one batch: the graph of transformers' module would
hold an attention for each of the 256 windows. Files are named after a digest of the weights and made once.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint import digest
from inputs import PATCH, VIEW, random_patches
from torch.nn import functional

from pocketvlm.config import ModelConfig
from pocketvlm.model.vision import MERGER_EPS, position_ids
from pocketvlm.tensors import DenseTensor

KINDS = ("f32", "int8")
CALIBRATION_SEEDS = (100, 101, 102, 103)  # of views that no measurement uses
SIDE = VIEW // PATCH
TOWER, MERGER = "model.vision_tower", "model.merger.mlp.0"


class Tower(torch.nn.Module):
    """Patches [1, 1024, 588] of one view -> features [64, text hidden], in the 16x mode (docs/model.md 3.6-3.8)."""

    def __init__(self, tensors: Mapping[str, DenseTensor], config: ModelConfig) -> None:
        super().__init__()
        self.config = config.vision
        parts = (TOWER, MERGER)
        self._tensors = {
            name: torch.from_numpy(tensor.data).view(torch.bfloat16).float()
            for name, tensor in tensors.items()
            if name.startswith(parts)
        }

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """The features."""
        config, embeddings = self.config, f"{TOWER}.embeddings"
        places = torch.from_numpy(position_ids(SIDE, SIDE, config.position_side).astype(np.int64))
        weight = self._tensors[f"{embeddings}.patch_embedding.weight"].flatten(1)
        x = functional.linear(patches, weight, self._tensors[f"{embeddings}.patch_embedding.bias"])
        x = x + self._tensors[f"{embeddings}.position_embedding.weight"][places]
        side = SIDE
        for index in range(config.num_hidden_layers):
            layer = f"{TOWER}.encoder.layers.{index}"
            x = x + self._attention(f"{layer}.self_attn", self._norm(f"{layer}.layer_norm1", x))
            inner = self._linear(f"{layer}.mlp.fc1", self._norm(f"{layer}.layer_norm2", x))
            x = x + self._linear(f"{layer}.mlp.fc2", functional.gelu(inner, approximate="tanh"))
            if index == config.insert_layer_id:
                x, side = self._window_merger(f"{TOWER}.vit_merger", x, side), side // 2
        x = _windows(self._norm(f"{TOWER}.post_layernorm", x), side).flatten(1)
        inner = self._linear(f"{MERGER}.linear_1", self._norm(f"{MERGER}.pre_norm", x, MERGER_EPS))
        return self._linear(f"{MERGER}.linear_2", functional.gelu(inner))

    def _window_merger(self, name: str, x: torch.Tensor, side: int) -> torch.Tensor:
        windows = _windows(x, side)
        windows = windows + self._attention(f"{name}.self_attn", self._norm(f"{name}.layer_norm1", windows))
        inner = self._linear(f"{name}.linear_1", self._norm(f"{name}.pre_norm", windows.flatten(1)))
        merged = self._linear(f"{name}.linear_2", functional.gelu(inner, approximate="tanh"))
        return (merged + windows.mean(1))[None]

    def _attention(self, name: str, x: torch.Tensor) -> torch.Tensor:
        heads = self.config.num_attention_heads
        query, key, value = (
            self._linear(f"{name}.{part}_proj", x).unflatten(2, (heads, -1)).transpose(1, 2) for part in "qkv"
        )
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self._linear(f"{name}.out_proj", mixed)

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"])

    def _norm(self, name: str, x: torch.Tensor, eps: float | None = None) -> torch.Tensor:
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, eps or self.config.layer_norm_eps)


def _windows(x: torch.Tensor, side: int) -> torch.Tensor:
    """[1, side * side, hidden] -> [windows, 4, hidden]: the patches of each 2x2 window, row by row."""
    half = side // 2
    return x.reshape(half, 2, half, 2, -1).permute(0, 2, 1, 3, 4).reshape(half * half, 4, -1)


def places(tensors: Mapping[str, DenseTensor], directory: Path) -> dict[str, Path]:
    """Where the files of these weights are, or will be, by kind."""
    return {kind: directory / f"random-{digest(tensors)}-vision-{kind}.xml" for kind in KINDS}


def export(
    tensors: Mapping[str, DenseTensor], config: ModelConfig, directory: Path, kinds: Sequence[str]
) -> dict[str, Path]:
    """The files of these kinds, made where they are missing."""
    import openvino

    directory.mkdir(parents=True, exist_ok=True)
    found = places(tensors, directory)
    if "f32" in kinds or not found["f32"].exists():
        _once(found["f32"], lambda: _converted(openvino, Tower(tensors, config)))
    if "int8" in kinds:
        _once(found["int8"], lambda: _quantized(openvino.Core().read_model(found["f32"])))
    return {kind: found[kind] for kind in kinds}


def _converted(openvino: Any, tower: Tower) -> Any:
    example = torch.from_numpy(random_patches(0))[None]
    with torch.no_grad():
        model = openvino.convert_model(tower, example_input=example)
    model.reshape(list(example.shape))
    return model


def _quantized(model: Any) -> Any:
    """Activations and weights in 8 bits, ranges taken of a few random views."""
    os.environ.setdefault("NNCF_CI", "1")  # reports nothing about its use
    import nncf

    views = [random_patches(seed)[None] for seed in CALIBRATION_SEEDS]
    return nncf.quantize(model, nncf.Dataset(views), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(views))


def _once(path: Path, make: Any) -> None:
    """Make a model and write it under another name first, unless it is there."""
    import openvino

    if path.exists():
        return
    began = time.perf_counter()
    unfinished = path.with_name(f"unfinished-{path.name}")
    openvino.save_model(make(), unfinished, compress_to_fp16=False)
    unfinished.with_suffix(".bin").replace(path.with_suffix(".bin"))
    unfinished.replace(path)
    size = path.with_suffix(".bin").stat().st_size
    print(f"{path.name}: {size / 2**20:.0f} MiB, {time.perf_counter() - began:.0f} s", file=sys.stderr)


def main() -> None:
    """Write the requested files and print their paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    from pocketvlm.bench.shape import random_tensors, released_config

    config = released_config()
    for kind, path in export(random_tensors(config), config, options.directory, options.kinds).items():
        print(f"{kind}\t{path}")


if __name__ == "__main__":
    main()
