"""The released checkpoint's shape gets random weights, so that benchmarks need no download (docs/model.md 1, 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.config import ModelConfig
from pocketvlm.model import expected_tensors
from pocketvlm.tensors import DenseTensor, float32_to_bfloat16

RELEASED: Mapping[str, Any] = {
    "architectures": ["MiniCPMV4_6ForConditionalGeneration"],
    "model_type": "minicpmv4_6",
    "tie_word_embeddings": True,
    "insert_layer_id": 6,
    "image_token_id": 248056,
    "video_token_id": 248057,
    "eos_token_id": 248044,
    "text_config": {
        "model_type": "qwen3_5_text",
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": 24,
        "layer_types": [*["linear_attention"] * 3, "full_attention"] * 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "vocab_size": 248094,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25},
        "partial_rotary_factor": 0.25,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "max_position_embeddings": 262144,
        "tie_word_embeddings": True,
    },
    "vision_config": {
        "model_type": "minicpmv4_6_vision",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 980,
        "patch_size": 14,
    },
}

_POOL = 1 << 22


def released_config() -> ModelConfig:
    """The configuration of openbmb/MiniCPM-V-4.6."""
    return ModelConfig.from_dict(RELEASED, "the released shape")


def random_tensors(config: ModelConfig, seed: int = 0) -> dict[str, DenseTensor]:
    """Every tensor of a checkpoint in bfloat16 bits: matrices N(0, 1 / inputs), norms as training leaves them.

    Values are slices of one pool of normal numbers, each at a new index: drawing a billion numbers would take long.
    """
    random = np.random.default_rng(seed)
    normal = random.standard_normal(_POOL, dtype=np.float32)
    return {name: _tensor(name, shape, normal, random) for name, shape in expected_tensors(config).items()}


def _tensor(name: str, shape: tuple[int, ...], normal: NDArray[np.float32], random: np.random.Generator) -> DenseTensor:
    count = int(np.prod(shape))
    if len(shape) == 1 or name.endswith("conv1d.weight"):
        values = 0.1 * random.standard_normal(count, dtype=np.float32)
        if name.endswith(
            ("norm1.weight", "norm2.weight", "pre_norm.weight", "post_layernorm.weight", "attn.norm.weight")
        ):
            values += 1.0
        if name.endswith("conv1d.weight"):
            values += 0.3
        return DenseTensor(name, "bf16", float32_to_bfloat16(values).reshape(shape))
    pool = float32_to_bfloat16(normal * np.float32((count / shape[0]) ** -0.5))
    bits = np.empty(count, np.uint16)
    for start in range(0, count, _POOL):
        chunk = np.roll(pool, int(random.integers(_POOL)))[: count - start]
        bits[start : start + _POOL] = chunk
    return DenseTensor(name, "bf16", bits.reshape(shape))
