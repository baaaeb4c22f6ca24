"""The small files of a checkpoint directory: copied from the source, or made from what a GGUF file says."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.files import INDEX_FILE
from pocketvlm.checkpoint.formats.registry import SETTINGS_FILES
from pocketvlm.checkpoint.huggingface import processor_section
from pocketvlm.checkpoint.jsonfile import parse_object, read_json
from pocketvlm.config import GenerationConfig, ModelConfig, ProcessorConfig, TextConfig, VisionConfig
from pocketvlm.errors import CheckpointError, ConfigError

Content = dict[str, Any] | str | bytes
_SUFFIXES = frozenset({".json", ".jinja", ".txt", ".model", ".tiktoken"})
_NAMES = frozenset({"LICENSE", "LICENCE", "NOTICE"})
_SETTINGS = ("quantization_config", "quantization")
_PROCESSOR = ("max_slice_nums", "scale_resolution", "patch_size", "slice_mode", "use_image_id", "downsample_mode")
# Attributes of the reference's tokenizer, which its processor asks for, and the tokens that they name.
_TOKEN_ATTRIBUTES = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


def small_files(checkpoint: Checkpoint) -> dict[str, Content]:
    """All files but the weights by name, without quantization settings; config.json is an object.

    Files of a directory are as they are, but a tied head and the options of images are those of `checkpoint.model` and
    `checkpoint.processor`. Raises CheckpointError for a file that cannot be read, and ConfigError for a GGUF file that
    lacks what a directory must say.
    """
    if checkpoint.path.is_dir():
        return _copied(checkpoint)
    return _made(checkpoint)


def _copied(checkpoint: Checkpoint) -> dict[str, Content]:
    directory = checkpoint.path
    files: dict[str, Content] = {"config.json": _changed_config(checkpoint)}
    for path in sorted(directory.iterdir()):
        is_small = path.suffix in _SUFFIXES or path.stem in _NAMES
        if not is_small or not path.is_file() or path.name in (*files, INDEX_FILE, *SETTINGS_FILES):
            continue
        try:
            files[path.name] = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    return files | _changed_processor(checkpoint)


def _changed_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json of a directory with the head and the mode of the checkpoint's model."""
    data = read_json(checkpoint.path / "config.json")
    before, now = ModelConfig.from_dict(data), checkpoint.model
    data = without_quantization(data)
    if before.text.tie_word_embeddings != now.text.tie_word_embeddings:
        for section in (data, data["text_config"]):
            section["tie_word_embeddings"] = now.text.tie_word_embeddings
    if before.downsample_mode != now.downsample_mode:
        data["downsample_mode"] = now.downsample_mode
    return data


def _changed_processor(checkpoint: Checkpoint) -> dict[str, Content]:
    """The file of image settings, by name, if the checkpoint's processor has other values than the file."""
    path, in_section, section = processor_section(checkpoint.path)
    before = ProcessorConfig.from_dict(section, str(path))
    changed = {
        name: value for name in _PROCESSOR if (value := getattr(checkpoint.processor, name)) != getattr(before, name)
    }
    if not changed:
        return {}
    return {
        path.name: {**read_json(path), "image_processor": {**section, **changed}}
        if in_section
        else {**section, **changed}
    }


def without_quantization(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json without the sections that describe quantized weights."""
    found = copy.deepcopy(config)
    text = found.get("text_config")
    for section in (found, text if isinstance(text, dict) else {}):
        for key in _SETTINGS:
            section.pop(key, None)
    return found


def _made(checkpoint: Checkpoint) -> dict[str, Content]:
    """The files of a directory from a GGUF file and its vision file."""
    model = checkpoint.model
    if model.vision is None or model.vision.insert_layer_id is None:
        lacks = "has no vision file in its folder" if model.vision is None else "is made for 4x alone"
        raise ConfigError(
            f"{checkpoint.path}: {lacks}, and a directory holds the whole model: put a complete mmproj file, such as "
            f"mmproj-MiniCPM-V-4.6-F16.gguf, into that folder"
        )
    tokenizer = checkpoint.tokenizer.text()
    return {
        "config.json": _config(model),
        "generation_config.json": _generation(checkpoint.generation, checkpoint.eos_token_ids),
        "preprocessor_config.json": _preprocessor(checkpoint.processor),
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": _tokenizer_config(checkpoint, tokenizer),
        "chat_template.jinja": checkpoint.chat_template,
    }


def _config(model: ModelConfig) -> dict[str, Any]:
    """config.json with the keys of the released checkpoint."""
    assert model.vision is not None
    family = model.family
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "tie_word_embeddings": model.text.tie_word_embeddings,
        "eos_token_id": list(model.eos_token_ids),
        "image_token_id": model.image_token_id,
        "video_token_id": model.video_token_id,
        "insert_layer_id": model.vision.insert_layer_id,
        "downsample_mode": model.downsample_mode,
        "merger_times": model.merger_times,
        "drop_vision_last_layer": False,
        "text_config": _text(model.text),
        "vision_config": _vision(model.vision, family.vision_type),
    }


def _text(text: TextConfig) -> dict[str, Any]:
    own = {"rotary_dim", "rope_theta", "mrope_section", "layer_types"}
    sizes = {field.name: getattr(text, field.name) for field in fields(text) if field.name not in own}
    factor = text.rotary_dim / text.head_dim
    full = [index for index, kind in enumerate(text.layer_types) if kind == "full_attention"]
    return {
        "model_type": "qwen3_5_text",
        **sizes,
        "num_hidden_layers": len(text.layer_types),
        "layer_types": list(text.layer_types),
        "full_attention_interval": full[0] + 1 if full else len(text.layer_types) + 1,
        "partial_rotary_factor": factor,
        "rope_parameters": {"rope_type": "default", "rope_theta": text.rope_theta, "partial_rotary_factor": factor},
        "hidden_act": "silu",
        "attention_bias": False,
        "attn_output_gate": True,
        "mamba_ssm_dtype": "float32",
    }


def _vision(vision: VisionConfig, model_type: str) -> dict[str, Any]:
    own = {"position_side", "insert_layer_id"}
    return {
        "model_type": model_type,
        **{field.name: getattr(vision, field.name) for field in fields(vision) if field.name not in own},
        "image_size": vision.position_side * vision.patch_size,
        "hidden_act": "gelu_pytorch_tanh",
    }


def _generation(generation: GenerationConfig, ends: tuple[int, ...]) -> dict[str, Any]:
    names = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    found = {name: getattr(generation, name) for name in names}
    if not found["min_p"]:
        del found["min_p"]
    return {"eos_token_id": list(generation.eos_token_ids or ends), **found}


def _preprocessor(processor: ProcessorConfig) -> dict[str, Any]:
    return {
        "image_processor_type": "MiniCPMV4_6ImageProcessor",
        "processor_class": "MiniCPMV4_6Processor",
        **{name: getattr(processor, name) for name in _PROCESSOR},
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
    }


def _tokenizer_config(checkpoint: Checkpoint, tokenizer: bytes) -> dict[str, Any]:
    """What the reference's tokenizer needs next to tokenizer.json; tokens that the vocabulary lacks are left out."""
    added = parse_object(tokenizer.decode(), checkpoint.tokenizer.where)["added_tokens"]
    known = {token["content"] for token in added}
    named = {key: token for key, token in _TOKEN_ATTRIBUTES.items() if token in known}
    return {
        **checkpoint.tokenizer_config,
        "extra_special_tokens": named,
        **{key: token for key, token in named.items() if key in ("image_token", "video_token")},
        "model_max_length": checkpoint.model.text.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "Qwen2Tokenizer",
    }
