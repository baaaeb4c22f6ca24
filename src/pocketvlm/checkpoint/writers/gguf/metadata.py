"""The key-value pairs of a text file (`qwen35`) and a vision file (`clip`), as llama.cpp's converter writes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.gguf.defaults import MAX_SLICE_NUMS
from pocketvlm.checkpoint.gguf.settings import OWN, PROJECTOR, TEXT, VISION
from pocketvlm.checkpoint.writers.gguf.vocabulary import tokenizer_metadata
from pocketvlm.config import ProcessorConfig, TextConfig
from pocketvlm.errors import ConfigError

# general.file_type by the label of a file.
FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q3_K_M": 12,
    "Q4_K_S": 14, "Q4_K_M": 15, "Q4_K": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q5_K": 17, "Q6_K": 18, "IQ4_NL": 25,
    "IQ4_XS": 30, "BF16": 32, "MXFP4": 38, "NVFP4": 39,
}  # fmt: skip
# llama.cpp needs sections although all position channels of a token are equal; these are the converter's.
_SECTIONS = [11, 11, 10, 0]
_QUANTIZATION_VERSION = 2
_TAG = re.compile(r"[-.](F32|F16|BF16|I?Q\d\w*|MXFP4\w*|NVFP4\w*|int\d+-g\d+\S*|int8|\d+(\.\d+)?bpw)$", re.IGNORECASE)


def model_name(path: Path) -> str:
    """The model's name: of a directory, of a GGUF file without its type, or of a repository in the hub's cache."""
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.rpartition("--")[2]
    return _TAG.sub("", path.stem if path.suffix.lower() == ".gguf" else path.name)


def check_model(checkpoint: Checkpoint) -> None:
    """Raise ConfigError, naming the value, for a model that GGUF files cannot describe."""
    model, way_out = checkpoint.model, "use another format, such as native"
    if model.family.positions is not None:
        raise ConfigError(
            f"{checkpoint.path}: GGUF files cannot say that positions have three dimensions, as {model.family.name} "
            f"has them: {way_out}"
        )
    text = model.text
    if text.linear_key_head_dim != text.linear_value_head_dim:
        raise ConfigError(
            f"{checkpoint.path}: linear_value_head_dim={text.linear_value_head_dim} is not linear_key_head_dim="
            f"{text.linear_key_head_dim}, which llama.cpp takes for granted: {way_out}"
        )
    if model.merger_times != 1:
        raise ConfigError(
            f"{checkpoint.path}: merger_times={model.merger_times}: GGUF files have one merger: {way_out}"
        )


def text_metadata(checkpoint: Checkpoint, name: str, label: str, parameters: int) -> dict[str, Any]:
    """Pairs of the text file. label: of the file, such as "Q4_K_M". parameters: their number in the file."""
    text = checkpoint.model.text
    pairs = {
        "block_count": len(text.layer_types),
        "context_length": text.max_position_embeddings,
        "embedding_length": text.hidden_size,
        "feed_forward_length": text.intermediate_size,
        "attention.head_count": text.num_attention_heads,
        "attention.head_count_kv": text.num_key_value_heads,
        "attention.key_length": text.head_dim,
        "attention.value_length": text.head_dim,
        "attention.layer_norm_rms_epsilon": float(text.rms_norm_eps),
        "rope.freq_base": float(text.rope_theta),
        "rope.dimension_count": text.rotary_dim,
        "rope.dimension_sections": _SECTIONS,
        "ssm.conv_kernel": text.linear_conv_kernel_dim,
        "ssm.state_size": text.linear_key_head_dim,
        "ssm.group_count": text.linear_num_key_heads,
        "ssm.time_step_rank": text.linear_num_value_heads,
        "ssm.inner_size": text.value_dim,
        **_layer_kinds(text),
    }
    return {
        "general.architecture": TEXT,
        "general.type": "model",
        **_general(name, label, parameters),
        **_sampling(checkpoint),
        **{f"{TEXT}.{key}": value for key, value in pairs.items()},
        **tokenizer_metadata(checkpoint),
    }


def vision_metadata(checkpoint: Checkpoint, name: str, label: str, parameters: int) -> dict[str, Any]:
    """Pairs of the vision file."""
    model, processor = checkpoint.model, checkpoint.processor
    vision = model.vision
    assert vision is not None
    pairs = {
        "image_size": processor.scale_resolution,
        "patch_size": vision.patch_size,
        "embedding_length": vision.hidden_size,
        "feed_forward_length": vision.intermediate_size,
        "block_count": vision.num_hidden_layers,
        "attention.head_count": vision.num_attention_heads,
        "attention.layer_norm_epsilon": float(vision.layer_norm_eps),
        "projection_dim": model.text.hidden_size,
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
        "projector.scale_factor": 4 if model.downsample_mode == "16x" and vision.insert_layer_id is not None else 2,
    }
    if vision.insert_layer_id is not None:
        pairs["wa_layer_indexes"] = [vision.insert_layer_id]
    return {
        "general.architecture": VISION,
        "general.type": "mmproj",
        **_general(name, label, parameters),
        "clip.has_vision_encoder": True,
        "clip.projector_type": PROJECTOR,
        "clip.use_gelu": True,
        **{f"clip.vision.{key}": value for key, value in pairs.items()},
        **_slices(processor),
    }


def _general(name: str, label: str, parameters: int) -> dict[str, Any]:
    size = f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{max(1, round(parameters / 1e6))}M"
    return {
        "general.name": name,
        "general.basename": name,
        "general.size_label": size,
        "general.file_type": FILE_TYPES.get(label, FILE_TYPES["F16"]),
        "general.quantization_version": _QUANTIZATION_VERSION,
    }


def _sampling(checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's own sampling; temperature 0 is greedy."""
    generation = checkpoint.generation
    return {
        "general.sampling.temp": float(generation.temperature) if generation.do_sample else 0.0,
        "general.sampling.top_k": generation.top_k,
        "general.sampling.top_p": float(generation.top_p),
        "general.sampling.min_p": float(generation.min_p),
        "general.sampling.penalty_repeat": float(generation.repetition_penalty),
    }


def _layer_kinds(text: TextConfig) -> dict[str, Any]:
    """Every n-th layer has attention; where that is not so, a list says which do not."""
    kinds = text.layer_types
    interval = kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds) + 1
    regular = all((kind == "full_attention") == ((number + 1) % interval == 0) for number, kind in enumerate(kinds))
    found: dict[str, Any] = {"full_attention_interval": interval}
    return found if regular else {**found, "attention.recurrent_layers": [kind != "full_attention" for kind in kinds]}


def _slices(processor: ProcessorConfig) -> dict[str, Any]:
    """What llama.cpp has as constants, where this model has other values."""
    found: dict[str, Any] = {}
    if processor.max_slice_nums != MAX_SLICE_NUMS:
        found[f"{OWN}.max_slice_nums"] = processor.max_slice_nums
    for key in ("slice_mode", "use_image_id"):
        if not getattr(processor, key):
            found[f"{OWN}.{key}"] = False
    return found
