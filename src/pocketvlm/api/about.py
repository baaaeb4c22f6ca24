"""Describes a checkpoint and how it would run, chooses its scheme, and says where prepared files are cached."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from pocketvlm.api.parts import parts_of, quantized_modules
from pocketvlm.backends import cache as packed_cache
from pocketvlm.backends.backend import AnyBackend, CacheLocation
from pocketvlm.backends.options import Scheme, choose
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.engine.memory import page_bytes, slot_bytes
from pocketvlm.errors import CacheWarning, OptionError
from pocketvlm.model import expected_tensors

# Smaller checkpoints are read and quantized in no time.
MIN_CACHED_BYTES = 64_000_000


def scheme_for(
    checkpoint: Checkpoint,
    backend: str,
    weights: str = "auto",
    precision: str | None = None,
    kv_cache_dtype: str = "auto",
) -> Scheme:
    """The scheme of a checkpoint on a backend: see `pocketvlm.backends.options.choose`. Raises OptionError."""
    return choose(backend, weights, precision, checkpoint.quantization, kv_cache_dtype)


def arithmetic(ops: AnyBackend) -> dict[str, str]:
    """The part of a backend's description on which its results depend: all but threads, paths and reasons."""
    relevant = ("backend", "device", "isa", "precision", "weights", "arithmetic")
    return {name: text.partition(" (")[0] for name, text in ops.describe().items() if name in relevant}


def cache_location(cache: bool | str | Path, model: str, checkpoint: Checkpoint) -> CacheLocation | None:
    """The cache location of a checkpoint's packed weights and tokenizer, or None."""
    if cache is False or checkpoint.nbytes < MIN_CACHED_BYTES:
        return None
    try:
        directory = packed_cache.directory(None if cache is True else cache)
    except OptionError as error:
        if cache is not True:
            raise
        warnings.warn(f"weights and tokenizer of {model} are not cached: {error}", CacheWarning, stacklevel=3)
        return None
    return CacheLocation(directory, model, str(checkpoint.path.resolve()), checkpoint.fingerprint)


def parameter_count(checkpoint: Checkpoint) -> int:
    """Number of the network's parameters, however many words hold their codes; a tied head counts once."""
    return sum(math.prod(shape) for shape in expected_tensors(checkpoint.model).values())


def describe(name: str, checkpoint: Checkpoint, ops: AnyBackend) -> dict[str, Any]:
    """Describe a checkpoint and how a backend would run it, from the files' headers alone."""
    config = checkpoint.model
    return {
        "model": name,
        "path": str(checkpoint.path),
        "family": config.family.name,
        "parameters": parameter_count(checkpoint),
        "bytes": checkpoint.nbytes,
        "stored_as": checkpoint.dtypes,
        "quantization": checkpoint.quantization,
        "parts": parts_of(checkpoint, ops),
        "quantized_modules": quantized_modules(checkpoint),
        "vocabulary": config.text.vocab_size,
        "context": config.text.max_position_embeddings,
        "text_layers": len(config.text.layer_types),
        "full_attention_layers": config.text.layer_types.count("full_attention"),
        "text_width": config.text.hidden_size,
        "vision_layers": 0 if config.vision is None else config.vision.num_hidden_layers,
        "vision_width": 0 if config.vision is None else config.vision.hidden_size,
        "downsample_mode": checkpoint.processor.downsample_mode,
        "max_slice_nums": checkpoint.processor.max_slice_nums,
        "eos_token_ids": list(checkpoint.eos_token_ids),
        "kv_cache_bytes_per_token": page_bytes(config.text, 1, ops.scheme.kv_cache),
        "state_bytes_per_sequence": slot_bytes(config.text, ops.state_dtype.itemsize),
        "backend": ops.describe(),
    }
