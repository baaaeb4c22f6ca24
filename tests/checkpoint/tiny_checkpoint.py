"""A tiny random checkpoint directory, written with nothing but NumPy, and the tensor list of the facts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors_kit import write_arrays, write_json

from pocketvlm.config import ModelConfig

CONFIG: dict[str, Any] = {
    "architectures": ["MiniCPMV4_6ForConditionalGeneration"],
    "model_type": "minicpmv4_6",
    "tie_word_embeddings": True,
    "image_token_id": 7,
    "video_token_id": 8,
    "eos_token_id": 2,
    "insert_layer_id": 0,
    "text_config": {
        "model_type": "qwen3_5_text",
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 37,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        "linear_key_head_dim": 6,
        "linear_value_head_dim": 5,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    },
    "vision_config": {
        "model_type": "minicpmv4_6_vision",
        "hidden_size": 10,
        "intermediate_size": 14,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 14,
        "image_size": 56,
    },
}
PREPROCESSOR = {"max_slice_nums": 9, "scale_resolution": 448, "patch_size": 14}
TOKENIZER = {"added_tokens": [{"id": 2, "content": "<|endoftext|>"}, {"id": 4, "content": "<|im_end|>"}]}
TOKENIZER_CONFIG = {"eos_token": "<|im_end|>", "chat_template": "from tokenizer_config"}


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a checkpoint (docs/model.md 2)."""
    text, vision = config.text, config.vision
    hidden, heads = text.hidden_size, text.num_attention_heads
    shapes: dict[str, tuple[int, ...]] = {}

    def add(prefix: str, items: Mapping[str, tuple[int, ...]]) -> None:
        shapes.update({prefix + name: shape for name, shape in items.items()})

    def linear(prefix: str, outputs: int, inputs: int) -> None:
        add(prefix, {".weight": (outputs, inputs), ".bias": (outputs,)})

    def norm(prefix: str, size: int) -> None:
        add(prefix, {".weight": (size,), ".bias": (size,)})

    def attention(prefix: str, size: int) -> None:
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{prefix}.{name}", size, size)

    add(
        "model.language_model.",
        {"embed_tokens.weight": (text.vocab_size, hidden), "norm.weight": (hidden,)},
    )
    for index, kind in enumerate(text.layer_types):
        layer = f"model.language_model.layers.{index}."
        add(layer, {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)})
        for name in ("gate_proj", "up_proj"):
            add(layer, {f"mlp.{name}.weight": (text.intermediate_size, hidden)})
        add(layer, {"mlp.down_proj.weight": (hidden, text.intermediate_size)})
        if kind == "full_attention":
            kv = text.num_key_value_heads * text.head_dim
            add(
                layer + "self_attn.",
                {
                    "q_proj.weight": (2 * heads * text.head_dim, hidden),
                    "k_proj.weight": (kv, hidden),
                    "v_proj.weight": (kv, hidden),
                    "o_proj.weight": (hidden, heads * text.head_dim),
                    "q_norm.weight": (text.head_dim,),
                    "k_norm.weight": (text.head_dim,),
                },
            )
        else:
            values = text.linear_num_value_heads
            add(
                layer + "linear_attn.",
                {
                    "in_proj_qkv.weight": (text.conv_dim, hidden),
                    "in_proj_z.weight": (text.value_dim, hidden),
                    "in_proj_b.weight": (values, hidden),
                    "in_proj_a.weight": (values, hidden),
                    "conv1d.weight": (text.conv_dim, 1, text.linear_conv_kernel_dim),
                    "A_log": (values,),
                    "dt_bias": (values,),
                    "norm.weight": (text.linear_value_head_dim,),
                    "out_proj.weight": (hidden, text.value_dim),
                },
            )
    size, window = vision.hidden_size, 4 * vision.hidden_size
    tower = "model.vision_tower."
    add(
        tower + "embeddings.",
        {
            "patch_embedding.weight": (size, 3, vision.patch_size, vision.patch_size),
            "patch_embedding.bias": (size,),
            "position_embedding.weight": (vision.position_side**2, size),
        },
    )
    for index in range(vision.num_hidden_layers):
        layer = f"{tower}encoder.layers.{index}."
        norm(layer + "layer_norm1", size)
        norm(layer + "layer_norm2", size)
        attention(layer + "self_attn", size)
        linear(layer + "mlp.fc1", vision.intermediate_size, size)
        linear(layer + "mlp.fc2", size, vision.intermediate_size)
    norm(tower + "post_layernorm", size)
    norm(tower + "vit_merger.layer_norm1", size)
    attention(tower + "vit_merger.self_attn", size)
    norm(tower + "vit_merger.pre_norm", window)
    linear(tower + "vit_merger.linear_1", 4 * vision.intermediate_size, window)
    linear(tower + "vit_merger.linear_2", size, 4 * vision.intermediate_size)
    norm("model.merger.mlp.0.pre_norm", window)
    linear("model.merger.mlp.0.linear_1", window, window)
    linear("model.merger.mlp.0.linear_2", hidden, window)
    return shapes


SHAPES = tensor_shapes(ModelConfig.from_dict(CONFIG))


def random_bits(seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> dict[str, np.ndarray]:
    """Random bfloat16 bits for each shape."""
    generator = np.random.default_rng(seed)
    return {
        name: (generator.standard_normal(shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        for name, shape in shapes.items()
    }


def write_checkpoint(
    directory: Path, seed: int = 0, bits: Mapping[str, np.ndarray] | None = None, **config: Any
) -> dict[str, np.ndarray]:
    """Write a whole directory, config.json with overrides; returns the bfloat16 bits by name."""
    directory.mkdir(parents=True, exist_ok=True)
    bits = dict(random_bits(seed) if bits is None else bits)
    write_json(directory / "config.json", {**CONFIG, **config})
    write_json(directory / "generation_config.json", {"eos_token_id": [2, 4], "do_sample": True, "temperature": 0.7})
    write_json(directory / "preprocessor_config.json", PREPROCESSOR)
    write_json(directory / "tokenizer.json", TOKENIZER)
    write_json(directory / "tokenizer_config.json", TOKENIZER_CONFIG)
    (directory / "chat_template.jinja").write_text("from chat_template.jinja", encoding="utf-8")
    write_arrays(directory, {name: ("BF16", values) for name, values in bits.items()})
    return bits


def write_shards(directory: Path, parts: int = 3) -> None:
    """Split model.safetensors of a directory into shards with an index."""
    from pocketvlm.checkpoint.formats.safetensors import map_tensors, read_header

    single = directory / "model.safetensors"
    stored = {tensor.name: tensor.data for tensor in map_tensors(read_header(single).values())}
    write_arrays(directory, {name: ("BF16", values) for name, values in stored.items()}, parts)
    single.unlink()
