"""The model whose weights are quantized: its configuration and random tensors, at the released shape or a small one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pocketvlm.bench.shape import RELEASED, random_tensors
from pocketvlm.config import ModelConfig
from pocketvlm.tensors import DenseTensor

# Widths of the language model are the released ones; everything that only repeats them is smaller.
SMALL_LAYERS, SMALL_VOCABULARY = 4, 16384
_TINY_TOWER = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL = f"{SMALL_LAYERS} layers of the released widths, {SMALL_VOCABULARY} tokens"


@dataclass(frozen=True)
class Source:
    """shape: what config.json holds. tensors: bfloat16, by name."""

    shape: Mapping[str, Any]
    config: ModelConfig
    tensors: Mapping[str, DenseTensor]

    @classmethod
    def released(cls) -> Source:
        """The shape of openbmb/MiniCPM-V-4.6."""
        return cls._of(RELEASED)

    @classmethod
    def small(cls) -> Source:
        """Four layers of the released widths, few tokens, and a tiny vision tower, whose errors are not measured."""
        shape = copy.deepcopy(dict(RELEASED))
        text, shift = shape["text_config"], SMALL_VOCABULARY - RELEASED["text_config"]["vocab_size"]
        text |= {"num_hidden_layers": SMALL_LAYERS, "layer_types": text["layer_types"][:SMALL_LAYERS]}
        text["vocab_size"] = SMALL_VOCABULARY
        shape |= {name: shape[name] + shift for name in ("image_token_id", "video_token_id", "eos_token_id")}
        shape["vision_config"] |= _TINY_TOWER
        shape["insert_layer_id"] = 0
        return cls._of(shape)

    @classmethod
    def _of(cls, shape: Mapping[str, Any]) -> Source:
        config = ModelConfig.from_dict(shape, "the shape of the benchmark")
        return cls(shape, config, random_tensors(config))
