"""Configurations out of the headers of a text file (`qwen35`) and a vision file (`clip`, projector `minicpmv4_6`)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from pocketvlm.checkpoint.gguf import defaults
from pocketvlm.checkpoint.gguf.header import MAX_TENSORS, ArrayValue, Header
from pocketvlm.checkpoint.gguf.names import block_number
from pocketvlm.config import GenerationConfig, ModelConfig, ProcessorConfig, TextConfig, VisionConfig
from pocketvlm.errors import CheckpointError, ConfigError, TensorError
from pocketvlm.fields import Fields
from pocketvlm.types import DownsampleMode

TEXT, VISION, PROJECTOR = "qwen35", "clip", "minicpmv4_6"
# Prefix of the keys that our own writer adds where a model differs from what llama.cpp has as constants.
OWN = "pocketvlm"
# The mode that a projector's scale factor stands for: how far each side of a view is reduced.
_MODES: dict[int, DownsampleMode] = {4: "16x", 2: "4x"}


def check_text(header: Header) -> None:
    """Raise ConfigError for a file that is not of MiniCPM-V 4.6's language model."""
    if header.architecture == VISION:
        raise ConfigError(
            f"{header.path}: is a vision file (mmproj), not a model: give the text model, and this one as mmproj"
        )
    if header.architecture != TEXT:
        raise ConfigError(
            f"{header.path}: the architecture {header.architecture!r} is not supported: pocketvlm runs MiniCPM-V 4.6, "
            f"whose GGUF files have the architecture {TEXT!r}"
        )


def check_vision(header: Header) -> None:
    """Raise ConfigError for a file that is not of MiniCPM-V 4.6's vision tower."""
    projector = header.metadata.get("clip.projector_type", header.metadata.get("clip.vision.projector_type"))
    if header.architecture != VISION:
        raise ConfigError(
            f"{header.path}: the architecture {header.architecture!r} is not that of a vision file (mmproj), which is "
            f"{VISION!r}: give the model's mmproj file"
        )
    if projector != PROJECTOR:
        raise ConfigError(
            f"{header.path}: the projector {projector!r} is not supported: give the mmproj file of MiniCPM-V 4.6, "
            f"whose projector is {PROJECTOR!r}"
        )


def layer_count(header: Header) -> int:
    """Layers of the language model: blocks that are there and are not for predicting further tokens.

    Converters count prediction layers among the blocks whether or not the file has their tensors.
    """
    count = _fields(header).integer(f"{TEXT}.block_count", maximum=MAX_TENSORS)
    predicting = _fields(header).integer(f"{TEXT}.nextn_predict_layers", 0, minimum=0)
    numbers = {name: block_number(name) for name in header.tensors}
    present = {number for number in numbers.values() if number is not None}
    extra = {number for name, number in numbers.items() if ".nextn." in name}
    layers = count
    while layers > 1 and (layers - 1 in extra or (layers - 1 not in present and layers > count - max(predicting, 1))):
        layers -= 1
    missing = sorted(set(range(layers)) - present)
    if missing:
        raise TensorError(
            f"{header.path}: the tensors of block {missing[0]} are missing although {TEXT}.block_count={count}: the "
            f"file is damaged, download or copy it again"
        )
    return layers


def model_config(text: Header, vision: Header | None, tokens: dict[str, int], eos: tuple[int, ...]) -> ModelConfig:
    """The model's configuration; without a vision file it has no vision tower.

    tokens: the ids of the control tokens. eos: ids that end an answer. Raises ConfigError and CheckpointError.
    """
    if defaults.IMAGE_TOKEN not in tokens:
        raise CheckpointError(
            f"{text.path}: the vocabulary has no control token {defaults.IMAGE_TOKEN!r}: this is not a file of "
            f"MiniCPM-V 4.6"
        )
    model = ModelConfig(
        text=TextConfig.read(Fields(_text(text), str(text.path)), "output.weight" not in text.tensors),
        vision=None,
        image_token_id=tokens[defaults.IMAGE_TOKEN],
        video_token_id=tokens.get(defaults.VIDEO_TOKEN),
        eos_token_ids=eos,
        downsample_mode="16x",
        merger_times=1,
    )
    if vision is None:
        return model
    width = _fields(vision).integer("clip.vision.projection_dim")
    if width != model.text.hidden_size:
        raise ConfigError(
            f"{vision.path}: makes features {width} wide, but {text.path} is {model.text.hidden_size} wide: the two "
            f"files belong to different models"
        )
    tower = VisionConfig.read(Fields(_vision(vision), str(vision.path)), _insert_layer(vision))
    return replace(model, vision=tower, downsample_mode=_MODES[_scale(vision)])


def processor_config(vision: Header | None, model: ModelConfig, missing: str) -> ProcessorConfig:
    """Settings for images; without a vision file `missing` says why there are none. Raises ConfigError."""
    if vision is None:
        return ProcessorConfig(downsample_modes=(), vision_missing=missing)
    fields = _fields(vision)
    data: dict[str, Any] = {
        "max_slice_nums": fields.integer(f"{OWN}.max_slice_nums", defaults.MAX_SLICE_NUMS),
        "slice_mode": fields.flag(f"{OWN}.slice_mode", True),
        "use_image_id": fields.flag(f"{OWN}.use_image_id", True),
        "scale_resolution": fields.integer("clip.vision.image_size"),
        "patch_size": fields.integer("clip.vision.patch_size"),
        "downsample_mode": model.downsample_mode,
    }
    for key in ("image_mean", "image_std"):
        numbers = vision.numbers(f"clip.vision.{key}")
        if numbers is not None:
            data[key] = [float(str(number)) for number in numbers.astype(np.float32)]
    return replace(ProcessorConfig.from_dict(data, str(vision.path)), downsample_modes=model.downsample_modes)


def generation_config(text: Header) -> GenerationConfig:
    """Sampling as newer files say it, else as the released checkpoint has it. Temperature 0 is greedy, as in llama.cpp.

    Raises ConfigError.
    """
    fields, known = _fields(text), defaults.GENERATION
    temperature = fields.number("general.sampling.temp", known.temperature)
    if temperature == 0:
        known, temperature = GenerationConfig(do_sample=False), 1.0
    return replace(
        known,
        temperature=temperature,
        top_p=fields.number("general.sampling.top_p", known.top_p),
        top_k=fields.integer("general.sampling.top_k", known.top_k, minimum=0),
        min_p=fields.number("general.sampling.min_p", known.min_p),
        repetition_penalty=fields.number("general.sampling.penalty_repeat", known.repetition_penalty),
    )


def _fields(header: Header) -> Fields:
    return Fields(header.metadata, str(header.path))


def _text(header: Header) -> dict[str, Any]:
    """text_config as config.json would have it."""
    fields = _fields(header)

    def integer(key: str, default: int | None = None) -> int:
        return fields.integer(f"{TEXT}.{key}", default)

    layers, head_dim = layer_count(header), integer("attention.key_length")
    if integer("attention.value_length", head_dim) != head_dim:
        raise fields.fail(f"{TEXT}.attention.value_length", f"that of the keys, {head_dim}")
    fields.only(f"{TEXT}.rope.scaling.type", "none", default="none")
    inner, heads = integer("ssm.inner_size"), integer("ssm.time_step_rank")
    if inner % heads:
        raise fields.fail(f"{TEXT}.ssm.inner_size", f"a multiple of the {heads} value heads")
    if "token_embd.weight" not in header.tensors:
        raise TensorError(f"{header.path}: tensor 'token_embd.weight' is missing: download or copy the file again")
    interval = integer("full_attention_interval", 4)
    recurrent = header.numbers(f"{TEXT}.attention.recurrent_layers")
    kinds = [(number + 1) % interval != 0 for number in range(layers)] if recurrent is None else recurrent[:layers]
    return {
        "hidden_size": integer("embedding_length"),
        "intermediate_size": integer("feed_forward_length"),
        "num_hidden_layers": layers,
        "layer_types": ["linear_attention" if kind else "full_attention" for kind in kinds],
        "num_attention_heads": _heads(header, "attention.head_count"),
        "num_key_value_heads": _heads(header, "attention.head_count_kv"),
        "head_dim": head_dim,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": fields.number(f"{TEXT}.rope.freq_base"),
            "partial_rotary_factor": integer("rope.dimension_count", head_dim) / head_dim,
        },
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "rms_norm_eps": fields.number(f"{TEXT}.attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": integer("context_length"),
        "linear_conv_kernel_dim": integer("ssm.conv_kernel"),
        "linear_key_head_dim": integer("ssm.state_size"),
        "linear_value_head_dim": inner // heads,
        "linear_num_key_heads": integer("ssm.group_count"),
        "linear_num_value_heads": heads,
    }


def _heads(header: Header, key: str) -> int:
    """A number of heads, for all layers or one for each; 0 stands for layers without such heads."""
    name = f"{TEXT}.{key}"
    if not isinstance(header.metadata.get(name), ArrayValue):
        return _fields(header).integer(name)
    numbers = header.numbers(name)
    counts = sorted(set([] if numbers is None else numbers.tolist()) - {0})
    if len(counts) != 1:
        raise ConfigError(f"{header.path}: {name}={counts} is not supported: expected one number")
    return Fields({name: counts[0]}, str(header.path)).integer(name)


def _vision(header: Header) -> dict[str, Any]:
    """vision_config as config.json would have it."""
    fields = _fields(header)
    fields.only("clip.use_silu", False, default=False)
    patch = fields.integer("clip.vision.patch_size")
    positions = header.tensors.get("v.position_embd.weight")
    side = 0 if positions is None else math.isqrt(positions.shape[0])
    if positions is None or side * side != positions.shape[0]:
        raise TensorError(
            f"{header.path}: tensor 'v.position_embd.weight' is missing or no square of positions: download or copy "
            f"the file again"
        )
    return {
        "hidden_size": fields.integer("clip.vision.embedding_length"),
        "intermediate_size": fields.integer("clip.vision.feed_forward_length"),
        "num_hidden_layers": fields.integer("clip.vision.block_count"),
        "num_attention_heads": fields.integer("clip.vision.attention.head_count"),
        "image_size": side * patch,
        "patch_size": patch,
        "layer_norm_eps": fields.number("clip.vision.attention.layer_norm_epsilon", 1e-6),
    }


def _scale(header: Header) -> int:
    key = "clip.vision.projector.scale_factor"
    scale = _fields(header).integer(key, 4)
    if scale not in _MODES:
        raise _fields(header).fail(key, " or ".join(map(str, _MODES)))
    return scale


def _insert_layer(header: Header) -> int | None:
    """The layer that the window merger follows; None if the file, made for 4x alone, has none."""
    if not any(name.startswith("v.vit_merger.") for name in header.tensors) and _scale(header) == 2:
        return None
    layers = header.numbers("clip.vision.wa_layer_indexes")
    if layers is None:
        return defaults.INSERT_LAYER
    key = "clip.vision.wa_layer_indexes"
    if len(layers) != 1:
        raise ConfigError(f"{header.path}: {key}={layers.tolist()} is not supported: expected one layer")
    return Fields({key: layers.tolist()[0]}, str(header.path)).integer(key, minimum=0)
