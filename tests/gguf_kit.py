"""Writes small random GGUF models with NumPy alone, and dense checkpoints of the same weights in Hugging Face's layout.

Everything is written from the description in docs/formats.md and docs/model.md, and shares no code with the reader.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf_metadata import text_metadata, vision_metadata

from pocketvlm.checkpoint.formats.safetensors import write_tensors
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.config import ModelConfig
from pocketvlm.model import expected_tensors
from pocketvlm.tensors import DenseTensor

# Type -> id, values of a block, bytes of a block, and where the float16 scales of a block begin.
TYPES = {
    "F32": (0, 1, 4, ()),
    "F16": (1, 1, 2, ()),
    "BF16": (30, 1, 2, ()),
    "Q4_0": (2, 32, 18, (0,)),
    "Q4_1": (3, 32, 20, (0, 2)),
    "Q5_0": (6, 32, 22, (0,)),
    "Q5_1": (7, 32, 24, (0, 2)),
    "Q8_0": (8, 32, 34, (0,)),
    "Q2_K": (10, 256, 84, (80, 82)),
    "Q3_K": (11, 256, 110, (108,)),
    "Q4_K": (12, 256, 144, (0, 2)),
    "Q5_K": (13, 256, 176, (0, 2)),
    "Q6_K": (14, 256, 210, (208,)),
    "IQ4_NL": (20, 32, 18, (0,)),
    "IQ4_XS": (23, 256, 136, (0,)),
    "MXFP4": (39, 32, 17, ()),
    "NVFP4": (40, 64, 36, ()),
}
QUANTIZED = [kind for kind in TYPES if kind not in ("F32", "F16", "BF16")]
# What makes values of a standard deviation near one out of random codes, for each float16 scale.
_SCALES = {
    "Q4_0": (1 / 4.6,), "Q4_1": (1 / 4.6, -7.5 / 4.6), "Q5_0": (1 / 9.2,), "Q5_1": (1 / 9.2, -15.5 / 9.2),
    "Q8_0": (1 / 74,), "Q2_K": (1 / 10, 1.5 / 10), "Q3_K": (1 / 43,), "Q4_K": (1 / 170, 7.5 / 170),
    "Q5_K": (1 / 340, 15.5 / 340), "Q6_K": (1 / 1360,), "IQ4_NL": (1 / 72,), "IQ4_XS": (1 / 1330,),
}  # fmt: skip
_DENSE = {"F16": np.float16, "F32": np.float32}

Tensors = Mapping[str, tuple[str, tuple[int, ...], bytes]]
Dequantize = Callable[[str, np.ndarray], np.ndarray]

TEXT: dict[str, Any] = {
    "model_type": "qwen3_5_text",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "full_attention_interval": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1280,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
VISION: dict[str, Any] = {
    "model_type": "minicpmv4_6_vision",
    "hidden_size": 64,
    "intermediate_size": 86,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 98,
    "patch_size": 14,
}
CONFIG: dict[str, Any] = {
    "architectures": ["MiniCPMV4_6ForConditionalGeneration"],
    "model_type": "minicpmv4_6",
    "tie_word_embeddings": True,
    "text_config": TEXT,
    "vision_config": VISION,
    "insert_layer_id": 1,
    "image_token_id": 1242,
    "video_token_id": 1243,
    "eos_token_id": 1230,
}
_TEXT_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "linear_attn.in_proj_qkv": "attn_qkv", "linear_attn.in_proj_z": "attn_gate", "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta", "linear_attn.conv1d": "ssm_conv1d", "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
_VISION_NAMES = {
    "model.vision_tower.embeddings.patch_embedding": "v.patch_embd",
    "model.vision_tower.embeddings.position_embedding": "v.position_embd",
    "model.vision_tower.post_layernorm": "v.post_ln",
    "model.merger.mlp.0.pre_norm": "mm.input_norm", "model.merger.mlp.0.linear_1": "mm.up",
    "model.merger.mlp.0.linear_2": "mm.down",
}  # fmt: skip
_LAYER_NAMES = {
    "layer_norm1": "ln1", "layer_norm2": "ln2", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.out_proj": "attn_out", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
    "pre_norm": "ds_ln", "linear_1": "ds_ffn_up", "linear_2": "ds_ffn_down",
}  # fmt: skip


def encode(metadata: Mapping[str, Any], tensors: Tensors, version: int = 3, alignment: int = 32) -> bytes:
    """A GGUF file: tensors are (type, shape, bytes) by name."""
    pairs = {**metadata, **({} if alignment == 32 else {"general.alignment": alignment})}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    head += b"".join(_string(key) + _value(value) for key, value in pairs.items())
    data = b""
    for name, (kind, shape, content) in tensors.items():
        sides = tuple(reversed(shape))
        head += _string(name) + struct.pack(f"<I{len(sides)}Q", len(sides), *sides)
        head += struct.pack("<IQ", TYPES[kind][0] if kind in TYPES else int(kind), len(data))
        data += content + bytes(-len(content) % alignment)
    return head + bytes(-len(head) % alignment) + data


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        kind = _KINDS[type(value[0]), True] if value else 5
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(_content(kind, item) for item in value)
    kind = _KINDS[type(value), False]
    return struct.pack("<I", kind) + _content(kind, value)


# Value type of a number or text, alone and in arrays; whole numbers in arrays are signed.
_KINDS = {(bool, False): 7, (int, False): 4, (float, False): 6, (str, False): 8}
_KINDS |= {(bool, True): 7, (int, True): 5, (float, True): 6, (str, True): 8}


def _content(kind: int, value: Any) -> bytes:
    return _string(value) if kind == 8 else struct.pack({7: "<?", 4: "<I", 5: "<i", 6: "<f"}[kind], value)


def random_blocks(kind: str, rows: int, columns: int, generator: np.random.Generator, size: float = 1.0) -> np.ndarray:
    """Random rows of a quantized type, uint8 [rows, bytes of a row]. size: about the values' standard deviation."""
    _, values, nbytes, places = TYPES[kind]
    blocks = generator.integers(0, 256, (rows, columns // values, nbytes), np.uint8)
    for place, scale in zip(places, _SCALES.get(kind, ()), strict=True):
        numbers = (size * scale * generator.uniform(0.8, 1.2, blocks.shape[:2])).astype(np.float16)
        blocks[:, :, place : place + 2] = numbers[:, :, None].view(np.uint8)
    if kind == "MXFP4":
        blocks[:, :, 0] = 127 + round(np.log2(size / 3)) + generator.integers(0, 2, blocks.shape[:2])
    if kind == "NVFP4":
        blocks[:, :, :4] = generator.integers(0, 8, (rows, blocks.shape[1], 4)) + 8 * round(np.log2(size / 3) + 7)
    return blocks.reshape(rows, -1)


def tiny_config(mode: str = "16x", **text: Any) -> ModelConfig:
    """The configuration of the small model; with 4x its dense twin has the in-tower merger all the same."""
    return ModelConfig.from_dict({**CONFIG, "text_config": {**TEXT, **text}, "downsample_mode": mode})


@dataclass(frozen=True)
class Pair:
    """A small model twice: GGUF files, and a directory with the dense weights that they stand for."""

    text: Path
    mmproj: Path
    dense: Path
    tensors: Mapping[str, np.ndarray]


def write_pair(
    directory: Path,
    dequantize: Dequantize,
    kinds: list[str] = QUANTIZED,
    mode: str = "16x",
    seed: int = 0,
    text: Mapping[str, Any] | None = None,
    write: Callable[[Path, Mapping[str, Any], Tensors], None] | None = None,
    vision_kind: str = "F16",
) -> Pair:
    """Write both. kinds: the types of matrices in turn. dequantize: the values of rows of a type, by another library.

    write: writes a GGUF file; None does it here. vision_kind: of the vision file's matrices with rows of whole blocks.
    """
    config, generator = tiny_config(mode, **(text or {})), np.random.default_rng(seed)
    stored: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    vision: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    dense: dict[str, np.ndarray] = {}
    turn = 0
    for name, shape in expected_tensors(config).items():
        is_text = "language_model" in name or name == "lm_head.weight"
        blocks = len(shape) == 2 and shape[-1] % TYPES[vision_kind][1] == 0 and "position" not in name
        if len(shape) == 2 and (is_text or (blocks and vision_kind in QUANTIZED)):
            kind, turn = (kinds[turn % len(kinds)], turn + 1) if is_text else (vision_kind, turn)
            size = 0.1 if "embed_tokens" in name or name == "lm_head.weight" else shape[1] ** -0.5
            rows = _random_rows(kind, shape, generator, size)
            values, content = _values(kind, rows, dequantize).reshape(shape), rows.tobytes()
        else:
            kind, values, content = "F32", random_values(name, shape, generator), b""
            if not is_text and len(shape) == 2:
                kind, values = "F16", values.astype(np.float16).astype(np.float32)
        dense[name] = regroup(name, values, config) if is_text else values
        if not content:
            content = in_file(name, values).astype(np.float16 if kind == "F16" else np.float32).tobytes()
        sides = (shape[0], shape[2]) if name.endswith("conv1d.weight") else shape
        (stored if is_text else vision)[gguf_name(name)] = kind, sides, content
    if mode == "4x":
        vision = {name: tensor for name, tensor in vision.items() if "vit_merger" not in name}
    directory.mkdir(parents=True, exist_ok=True)
    write = write or (lambda path, metadata, tensors: path.write_bytes(encode(metadata, tensors)) and None)
    result = Pair(directory / "tiny-Q4_K_M.gguf", directory / "mmproj-tiny-F16.gguf", directory / "dense", dense)
    write(result.text, text_metadata(config), stored)
    write(result.mmproj, vision_metadata(config), vision)
    _write_dense(result.dense, config, dense, mode)
    return result


def _random_rows(kind: str, shape: tuple[int, ...], generator: np.random.Generator, size: float) -> np.ndarray:
    """Rows of any type as the file holds them; uint16 for bfloat16."""
    if kind in QUANTIZED:
        return random_blocks(kind, shape[0], shape[1], generator, size)
    values = (size * generator.standard_normal(shape)).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16) if kind == "BF16" else values.astype(_DENSE[kind])


def _values(kind: str, rows: np.ndarray, dequantize: Dequantize) -> np.ndarray:
    if kind == "BF16":
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return dequantize(kind, rows).astype(np.float32) if kind in QUANTIZED else rows.astype(np.float32)


def random_values(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Values of a tensor that is not quantized, exact in float16, and one more than a norm's exact in float32."""
    values = 0.2 * generator.standard_normal(shape)
    if len(shape) > 1 and "conv1d" not in name:
        values = values / 0.2 / np.prod(shape[1:]) ** 0.5
    elif (
        "norm" in name and name.endswith("weight") and any(part in name for part in ("linear_attn", "tower", "merger"))
    ):
        values += 1
    return values.astype(np.float16).astype(np.float32)


def regroup(name: str, values: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The hub's order of a tensor whose value heads a file has in turn: the first head of each key head, and so on."""
    text = config.text
    keys, each = text.linear_num_key_heads, text.linear_num_value_heads // text.linear_num_key_heads
    if each == 1 or "linear_attn." not in name:
        return values
    module, width = name.rpartition("linear_attn.")[2], text.linear_value_head_dim

    def rows(part: np.ndarray) -> np.ndarray:
        heads = part.reshape(each, keys, -1, *part.shape[1:])
        return np.ascontiguousarray(heads.swapaxes(0, 1)).reshape(part.shape)

    if module in ("A_log", "dt_bias", "in_proj_a.weight", "in_proj_b.weight", "in_proj_z.weight"):
        return rows(values)
    if module in ("in_proj_qkv.weight", "conv1d.weight"):
        first = 2 * text.key_dim
        return np.concatenate([values[:first], rows(values[first:])])
    assert width * text.linear_num_value_heads == text.value_dim
    return np.ascontiguousarray(rows(np.ascontiguousarray(values.T)).T) if module == "out_proj.weight" else values


def in_file(name: str, values: np.ndarray) -> np.ndarray:
    """What a converter makes of values."""
    if name.endswith("A_log"):
        return -np.exp(values)
    norms = ("layernorm.weight", "q_norm.weight", "k_norm.weight", "language_model.norm.weight")
    if name.endswith(norms) and "vision_tower" not in name:
        return values + np.float32(1)
    return values


def gguf_name(name: str) -> str:
    """The name of a tensor in a GGUF file."""
    fixed = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
    rest = name.removeprefix("model.language_model.")
    if name == "lm_head.weight":
        return "output.weight"
    if rest != name:
        if rest in fixed:
            return fixed[rest]
        _, number, module = rest.split(".", 2)
        special = {"linear_attn.A_log": "ssm_a", "linear_attn.dt_bias": "ssm_dt.bias"}
        stem, _, suffix = module.rpartition(".")
        return f"blk.{number}." + (special.get(module) or f"{_TEXT_NAMES[stem]}.{suffix}")
    stem, _, suffix = name.rpartition(".")
    if stem in _VISION_NAMES:
        return f"{_VISION_NAMES[stem]}.{suffix}"
    module = stem.removeprefix("model.vision_tower.")
    if module.startswith("vit_merger."):
        return f"v.vit_merger.{_LAYER_NAMES[module.removeprefix('vit_merger.')]}.{suffix}"
    _, _, number, part = module.split(".", 3)
    return f"v.blk.{number}.{_LAYER_NAMES[part]}.{suffix}"


def _write_dense(directory: Path, config: ModelConfig, tensors: Mapping[str, np.ndarray], mode: str) -> None:
    directory.mkdir()
    text = {**TEXT, **{key: getattr(config.text, key) for key in TEXT if hasattr(config.text, key)}}
    text["num_hidden_layers"] = len(config.text.layer_types)
    (directory / "config.json").write_text(json.dumps({**CONFIG, "text_config": text}))
    nano = embedded_directory()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (directory / name).write_bytes((nano / name).read_bytes())
    (directory / "preprocessor_config.json").write_text(json.dumps({"downsample_mode": mode}))
    generation = {"eos_token_id": [1230, 1232], "do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 1.0}
    (directory / "generation_config.json").write_text(json.dumps(generation))
    stored = {name: DenseTensor(name, "f32", np.ascontiguousarray(values)) for name, values in tensors.items()}
    write_tensors(directory / "model.safetensors", stored)
