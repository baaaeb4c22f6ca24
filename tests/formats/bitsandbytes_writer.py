"""Quantizes matrices as transformers does with bitsandbytes, with the library itself."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch


def dequantize(packed: torch.Tensor, state: Any, dtype: torch.dtype) -> torch.Tensor:
    """What the library makes of a matrix, read as one row.

    Its kernel for CPUs begins a block with each row, where its quantizer and its kernels for GPUs count on: matrices
    whose rows are no multiples of a block come out wrong.
    """
    shape, state.shape, state.dtype = state.shape, torch.Size((1, state.shape.numel())), dtype
    values = import_module("bitsandbytes").functional.dequantize_4bit(packed, state)
    return values.reshape(shape)


def four_bits(tensors: dict[str, torch.Tensor], names: list[str], **options: Any) -> dict[str, np.ndarray]:
    """Replace the named tensors by what Linear4bit saves; returns what the library makes of them in float32."""
    functional = import_module("bitsandbytes").functional
    found = {}
    for name in names:
        packed, state = functional.quantize_4bit(tensors[name], **options)
        tensors[name] = packed
        tensors |= {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
        found[name] = dequantize(packed, state, torch.float32).numpy()
    return found


def settings(kind: str, nested: bool) -> dict[str, Any]:
    return {
        "quant_method": "bitsandbytes",
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": nested,
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": ["lm_head", "a_module_that_is_not_there"],
    }
