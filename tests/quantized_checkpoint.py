"""Writes small checkpoints whose matrices are quantized, beside the transformers model that holds the same values."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from oracle import Oracle, config_dict, make_oracle
from safetensors_kit import write_arrays, write_json
from word_kit import Arrays, Matrix

from pocketvlm.checkpoint.hub import embedded_directory

# Of a published checkpoint these are quantized, and nothing else.
PUBLISHED = re.compile(
    r"model\.language_model\.layers\.\d+\."
    r"(self_attn\.[qkvo]_proj|linear_attn\.(in_proj_qkv|in_proj_z|out_proj)|mlp\.(gate|up|down)_proj)\.weight"
)
GATES = re.compile(r".*\.in_proj_[ab]\.weight")
VISION = re.compile(r"model\.(vision_tower|merger)\..*(proj|fc\d|linear_\d)\.weight")
HEAD = re.compile(r"lm_head\.weight")

TEXT: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1280,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "max_position_embeddings": 2048,
}
TOWER: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}

# The arrays of a quantized matrix by suffix, and the values float32 that they stand for.
Quantize = Callable[[str, NDArray[np.float32]], tuple[Arrays, NDArray[np.float32]]]


def with_arrays(quantize: Callable[[NDArray[np.float32]], Matrix], arrays: Callable[[Matrix], Arrays]) -> Quantize:
    """A quantization by a writer of word_kit.py."""

    def quantized(name: str, weight: NDArray[np.float32]) -> tuple[Arrays, NDArray[np.float32]]:
        matrix = quantize(weight)
        return arrays(matrix), matrix.values()

    return quantized


def write_quantized(
    directory: Path,
    settings: Mapping[str, Any],
    quantize: Quantize,
    *,
    modules: tuple[re.Pattern[str], ...] = (PUBLISHED,),
    dtype: torch.dtype = torch.float16,
    tied: bool = True,
    settings_file: str | None = None,
    shards: int = 1,
    rename: Callable[[str], str] = lambda name: name,
    seed: int = 0,
) -> Oracle:
    """Write a checkpoint with random weights and return the transformers model with the values of the file.

    settings: go into config.json as quantization_config, or into a file of their own. modules: what is quantized.
    dtype: of the rest. shards: files with an index. rename: the file's name of a tensor.
    """
    data = config_dict(
        text={**TEXT, "tie_word_embeddings": tied},
        vision=TOWER,
        tie_word_embeddings=tied,
        image_token_id=1242,
        video_token_id=1243,
        eos_token_id=1230,
    )
    data["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
    data["text_config"]["partial_rotary_factor"] = 0.25
    oracle = make_oracle(data, seed, dtype)
    if settings_file is None:
        data["quantization_config"] = dict(settings)
    arrays: Arrays = {}
    parameters = dict(oracle.model.named_parameters())
    for name, tensor in oracle.tensors.items():
        if not any(pattern.fullmatch(name) for pattern in modules):
            arrays[rename(name)] = (_DTYPES[dtype], tensor.data)
            continue
        parts, values = quantize(name, tensor.float32())
        with torch.no_grad():
            parameters[name].copy_(torch.from_numpy(values))
        module = name.removesuffix("weight")
        arrays.update({rename(module + part): array for part, array in parts.items()})
    write_directory(directory, data, arrays, shards)
    if settings_file is not None:
        write_json(directory / settings_file, dict(settings))
    return oracle


def write_directory(directory: Path, config: Mapping[str, Any], arrays: Arrays | None, shards: int = 1) -> None:
    """A checkpoint of these arrays, or one without weights, with tokenizer, template and processor of the embedded."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in embedded_directory().iterdir():
        if file.suffix in {".json", ".jinja"} and file.name != "config.json":
            shutil.copy(file, directory)
    write_json(directory / "config.json", config)
    if arrays is not None:
        write_arrays(directory, arrays, shards)
