"""Tensor names of GGUF files are mapped to the hub's names, and what converters change in tensors is undone.

The rules are those of llama.cpp's converter for `qwen35` and `clip` with the projector `minicpmv4_6`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.format import lazy
from pocketvlm.checkpoint.formats.gguf import Change, GgufFormat, read_factor
from pocketvlm.checkpoint.formats.safetensors import TensorEntry
from pocketvlm.config import ModelConfig, TextConfig
from pocketvlm.errors import TensorError
from pocketvlm.tensors import DenseTensor, Floats, QuantizedTensor, Tensor

_TEXT = "model.language_model."
_TOWER = "model.vision_tower."

_TEXT_NAMES = {
    "token_embd.weight": f"{_TEXT}embed_tokens.weight",
    "output_norm.weight": f"{_TEXT}norm.weight",
    "output.weight": "lm_head.weight",
}
_TEXT_LAYER = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TEXT_VECTORS = {"ssm_a": "linear_attn.A_log", "ssm_dt.bias": "linear_attn.dt_bias"}
_ATTENTION = {f"attn_{part}": f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")}
_VISION_NAMES = {
    "v.patch_embd": f"{_TOWER}embeddings.patch_embedding",
    "v.position_embd": f"{_TOWER}embeddings.position_embedding",
    "v.post_ln": f"{_TOWER}post_layernorm",
    "mm.input_norm": "model.merger.mlp.0.pre_norm",
    "mm.up": "model.merger.mlp.0.linear_1",
    "mm.down": "model.merger.mlp.0.linear_2",
}
_VISION_LAYER = {
    "ln1": "layer_norm1",
    "ln2": "layer_norm2",
    **_ATTENTION,
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
_MERGER = {
    "ln1": "layer_norm1",
    **_ATTENTION,
    "ds_ln": "pre_norm",
    "ds_ffn_up": "linear_1",
    "ds_ffn_down": "linear_2",
}
_BLOCK = re.compile(r"(v\.)?blk\.([0-9]{1,9})\.(.+)")
# Scales of NVFP4 weights are tensors of their own; those of activations are of no use here.
_SCALE, _INPUT_SCALE = ".scale", ".input_scale"
_ONE_ADDED = (
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    "self_attn.q_norm.weight",
    "self_attn.k_norm.weight",
    f"{_TEXT}norm.weight",
)
_FILE_NAMES, _FILE_VECTORS, _FILE_MERGER, _FILE_TEXT_LAYER, _FILE_VISION_LAYER = (
    {hub: name for name, hub in table.items()}
    for table in ({**_TEXT_NAMES, **_VISION_NAMES}, _TEXT_VECTORS, _MERGER, _TEXT_LAYER, _VISION_LAYER)
)
_LAYER = re.compile(rf"({re.escape(_TEXT)}|{re.escape(_TOWER)}encoder\.)layers\.([0-9]{{1,9}})\.(.+)")


def hub_name(name: str) -> str:
    """The hub's name for a tensor of a text or vision file, or the name itself if nothing is known about it."""
    if name in _TEXT_NAMES:
        return _TEXT_NAMES[name]
    stem, _, suffix = name.rpartition(".")
    if stem in _VISION_NAMES:
        return f"{_VISION_NAMES[stem]}.{suffix}"
    if stem.startswith("v.vit_merger."):
        part = _MERGER.get(stem.removeprefix("v.vit_merger."))
        return name if part is None else f"{_TOWER}vit_merger.{part}.{suffix}"
    found = _BLOCK.fullmatch(name)
    if found is None:
        return name
    vision, number, rest = found.groups()
    if not vision and rest in _TEXT_VECTORS:
        return f"{_TEXT}layers.{number}.{_TEXT_VECTORS[rest]}"
    module, _, suffix = rest.rpartition(".")
    target = (_VISION_LAYER if vision else _TEXT_LAYER).get(module)
    if target is None:
        return name
    return f"{f'{_TOWER}encoder.' if vision else _TEXT}layers.{number}.{target}.{suffix}"


def file_name(name: str) -> str:
    """The name that a tensor of the hub has in a text or vision file. Raises TensorError for one that has none."""
    if name in _FILE_NAMES:
        return _FILE_NAMES[name]
    stem, _, suffix = name.rpartition(".")
    if stem in _FILE_NAMES:
        return f"{_FILE_NAMES[stem]}.{suffix}"
    merger = stem.removeprefix(f"{_TOWER}vit_merger.")
    if merger != stem and merger in _FILE_MERGER:
        return f"v.vit_merger.{_FILE_MERGER[merger]}.{suffix}"
    found = _LAYER.fullmatch(name)
    if found is not None:
        module, _, suffix = found[3].rpartition(".")
        if found[1] == _TEXT and found[3] in _FILE_VECTORS:
            return f"blk.{found[2]}.{_FILE_VECTORS[found[3]]}"
        if found[1] == _TEXT and module in _FILE_TEXT_LAYER:
            return f"blk.{found[2]}.{_FILE_TEXT_LAYER[module]}.{suffix}"
        if found[1] != _TEXT and module in _FILE_VISION_LAYER:
            return f"v.blk.{found[2]}.{_FILE_VISION_LAYER[module]}.{suffix}"
    raise TensorError(f"tensor {name!r} has no name in GGUF files: use another format, such as native")


def is_text(name: str) -> bool:
    """Whether a tensor of the hub belongs to the language model, so to the text file."""
    return name.startswith(_TEXT) or name == _TEXT_NAMES["output.weight"]


def has_one_added(name: str) -> bool:
    """Whether files hold a tensor of the hub as 1 + weight."""
    return name.startswith(_TEXT) and name.endswith(_ONE_ADDED)


def block_number(name: str) -> int | None:
    """The layer of the language model that a tensor of a text file belongs to, if any."""
    found = _BLOCK.fullmatch(name)
    return int(found[2]) if found is not None and not found[1] else None


def hub_entries(tensors: Mapping[str, TensorEntry], layers: int) -> tuple[dict[str, TensorEntry], dict[str, float]]:
    """Entries by the hub's names, without prediction layers after `layers`, and the scales of whole matrices.

    Raises TensorError for two tensors that mean the same, and for a scale that is no single number.
    """
    entries: dict[str, TensorEntry] = {}
    factors: dict[str, float] = {}
    for name, entry in tensors.items():
        number = block_number(name)
        if (number is not None and number >= layers) or name.endswith(_INPUT_SCALE):
            continue
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) + ".weight" in tensors:
            factors[hub_name(name.removesuffix(_SCALE) + ".weight")] = read_factor(entry)
        elif (hub := hub_name(name)) in entries:
            raise TensorError(
                f"{entry.file}: tensors {entries[hub].name!r} and {name!r} both mean {hub!r}: the file is damaged: "
                f"download or copy it again"
            )
        else:
            entries[hub] = entry
    return entries, factors


def gguf_format(entries: Mapping[str, TensorEntry], factors: Mapping[str, float], config: ModelConfig) -> GgufFormat:
    """How the tensors of these files become the hub's."""
    text = config.text
    changes: dict[str, Change] = {}
    orders: dict[str, NDArray[np.intp]] = {}
    for name in entries:
        module = name.rpartition("linear_attn.")[2] if "linear_attn." in name else ""
        if has_one_added(name):
            changes[name] = _less_one
        elif module == "A_log":
            changes[name] = _log_of_negative
        elif module == "conv1d.weight":
            changes[name] = partial(_with_shape, shape=(text.conv_dim, 1, text.linear_conv_kernel_dim))
        if (order := row_order(name, text)) is not None:
            orders[name] = order
        if (order := column_order(name, text)) is not None:
            changes[name] = partial(_with_columns, order=order)
    shapes = {name: (text.conv_dim, text.linear_conv_kernel_dim) for name in entries if name.endswith("conv1d.weight")}
    kinds = sorted({entry.dtype for entry in entries.values()})
    return GgufFormat(changes, shapes, orders, factors, tuple(kinds))


def _value_heads(text: TextConfig, width: int) -> NDArray[np.intp]:
    """The stored index of each of the hub's: heads of one key head lie side by side there, and apart in GGUF."""
    keys = text.linear_num_key_heads
    stored = np.arange(text.linear_num_value_heads * width).reshape(-1, keys, width)
    return stored.transpose(1, 0, 2).ravel()


def row_order(name: str, text: TextConfig) -> NDArray[np.intp] | None:
    """The stored row of each of the hub's rows, for tensors whose rows belong to value heads; None: they are equal."""
    if "linear_attn." not in name or text.linear_num_value_heads == text.linear_num_key_heads:
        return None
    module = name.rpartition("linear_attn.")[2]
    if module in ("A_log", "dt_bias", "in_proj_a.weight", "in_proj_b.weight"):
        return _value_heads(text, 1)
    heads = _value_heads(text, text.linear_value_head_dim)
    if module == "in_proj_z.weight":
        return heads
    if module in ("in_proj_qkv.weight", "conv1d.weight"):
        others = 2 * text.key_dim
        return np.concatenate([np.arange(others), others + heads])
    return None


def column_order(name: str, text: TextConfig) -> NDArray[np.intp] | None:
    """`row_order` of columns."""
    if not name.endswith("linear_attn.out_proj.weight") or text.linear_num_value_heads == text.linear_num_key_heads:
        return None
    return _value_heads(text, text.linear_value_head_dim)


def _dense(tensor: Tensor) -> DenseTensor:
    if not isinstance(tensor, DenseTensor):
        raise TensorError(f"{tensor.label}: is quantized, which converters never do to vectors: use another file")
    return tensor


def _less_one(tensor: Tensor) -> Tensor:
    """A norm that the file holds as 1 + weight."""
    dense = _dense(tensor)
    source = lazy(dense.shape, np.float32, lambda: dense.float32() - np.float32(1))
    return replace(dense, dtype="f32", source=source)


def _log_of_negative(tensor: Tensor) -> Tensor:
    """A_log, which the file holds as -exp(A_log)."""
    dense = _dense(tensor)

    def read() -> Floats:
        values = -dense.float32()
        if not (values > 0).all():
            raise TensorError(f"{dense.label}: the file has a value that is not negative: download or copy it again")
        found: Floats = np.log(values)
        return found

    return replace(dense, dtype="f32", source=lazy(dense.shape, np.float32, read))


def _with_shape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return _dense(tensor).reshape(*shape)


def _with_columns(tensor: Tensor, order: NDArray[np.intp]) -> Tensor:
    """A matrix whose columns belong to value heads."""
    if isinstance(tensor, QuantizedTensor):
        return replace(tensor, permutation=np.argsort(order))
    return replace(tensor, source=lazy(tensor.shape, tensor.source.dtype, lambda: tensor.data[:, order]))
