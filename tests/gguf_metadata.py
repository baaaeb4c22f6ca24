"""Key-value pairs of small GGUF models, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.config import ModelConfig

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def text_metadata(config: ModelConfig) -> dict[str, Any]:
    """Key-value pairs of the file of a language model, with nano's tokenizer."""
    text = config.text
    return {
        "general.architecture": "qwen35",
        "general.type": "model",
        "general.file_type": 15,
        "qwen35.block_count": len(text.layer_types),
        "qwen35.context_length": text.max_position_embeddings,
        "qwen35.embedding_length": text.hidden_size,
        "qwen35.feed_forward_length": text.intermediate_size,
        "qwen35.attention.head_count": text.num_attention_heads,
        "qwen35.attention.head_count_kv": text.num_key_value_heads,
        "qwen35.attention.key_length": text.head_dim,
        "qwen35.attention.value_length": text.head_dim,
        "qwen35.attention.layer_norm_rms_epsilon": text.rms_norm_eps,
        "qwen35.rope.freq_base": text.rope_theta,
        "qwen35.rope.dimension_count": text.rotary_dim,
        "qwen35.rope.dimension_sections": [11, 11, 10, 0],
        "qwen35.ssm.conv_kernel": text.linear_conv_kernel_dim,
        "qwen35.ssm.state_size": text.linear_key_head_dim,
        "qwen35.ssm.group_count": text.linear_num_key_heads,
        "qwen35.ssm.time_step_rank": text.linear_num_value_heads,
        "qwen35.ssm.inner_size": text.value_dim,
        "qwen35.full_attention_interval": 4,
        **tokenizer_metadata(json.loads((embedded_directory() / "tokenizer.json").read_text()), text.vocab_size),
        "tokenizer.chat_template": (embedded_directory() / "chat_template.jinja").read_text(),
    }


def tokenizer_metadata(tokenizer: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Key-value pairs of a tokenizer.json, with holes up to `size` filled as a converter does it."""
    tokens, types = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    for text, number in tokenizer["model"]["vocab"].items():
        tokens[number], types[number] = text, NORMAL
    for token in tokenizer["added_tokens"]:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen35",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokens.index("<|im_start|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.padding_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.add_bos_token": False,
    }


def vision_metadata(config: ModelConfig) -> dict[str, Any]:
    """Key-value pairs of a vision file."""
    vision = config.vision
    assert vision is not None
    return {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "general.file_type": 1,
        "clip.has_vision_encoder": True,
        "clip.projector_type": "minicpmv4_6",
        "clip.use_gelu": True,
        "clip.vision.image_size": 448,
        "clip.vision.patch_size": vision.patch_size,
        "clip.vision.embedding_length": vision.hidden_size,
        "clip.vision.feed_forward_length": vision.intermediate_size,
        "clip.vision.block_count": vision.num_hidden_layers,
        "clip.vision.attention.head_count": vision.num_attention_heads,
        "clip.vision.attention.layer_norm_epsilon": 1e-6,
        "clip.vision.projection_dim": config.text.hidden_size,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
        "clip.vision.projector.scale_factor": 4 if config.downsample_mode == "16x" else 2,
        "clip.vision.wa_layer_indexes": [vision.insert_layer_id],
    }
