"""The network's weights are records of backend handles, built from the tensors of docs/model.md 2."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.ops import A, W
from pocketvlm.config import ModelConfig, VisionConfig
from pocketvlm.errors import TensorError
from pocketvlm.schemes import Role
from pocketvlm.tensors import DenseTensor, Tensor

Shape = tuple[int, ...]
Find = Callable[[str, Shape, Role], Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Linear(Generic[A, W]):
    """weight [out, in] and, where the layer has one, bias [out]."""

    weight: W
    bias: A | None = None


@dataclass(frozen=True, slots=True)
class Norm(Generic[A]):
    """weight and bias of a LayerNorm."""

    weight: A
    bias: A


@dataclass(frozen=True, slots=True)
class FullAttention(Generic[A, W]):
    """Gated softmax attention (docs/model.md 3.3)."""

    q_proj: W
    k_proj: W
    v_proj: W
    o_proj: W
    q_norm: A
    k_norm: A


@dataclass(frozen=True, slots=True)
class LinearAttention(Generic[A, W]):
    """Gated DeltaNet (docs/model.md 3.5)."""

    in_proj_qkv: W
    in_proj_z: W
    in_proj_b: W
    in_proj_a: W
    conv1d: A
    a_log: A
    dt_bias: A
    norm: A
    out_proj: W


@dataclass(frozen=True, slots=True)
class DecoderLayer(Generic[A, W]):
    """One layer of the language model (docs/model.md 3.2)."""

    input_layernorm: A
    mixer: FullAttention[A, W] | LinearAttention[A, W]
    post_attention_layernorm: A
    gate_proj: W
    up_proj: W
    down_proj: W


@dataclass(frozen=True, slots=True)
class Attention(Generic[A, W]):
    """Vision attention: four linears with bias."""

    q_proj: Linear[A, W]
    k_proj: Linear[A, W]
    v_proj: Linear[A, W]
    out_proj: Linear[A, W]


@dataclass(frozen=True, slots=True)
class VisionLayer(Generic[A, W]):
    """One encoder layer of the vision tower (docs/model.md 3.6)."""

    layer_norm1: Norm[A]
    attention: Attention[A, W]
    layer_norm2: Norm[A]
    fc1: Linear[A, W]
    fc2: Linear[A, W]


@dataclass(frozen=True, slots=True)
class WindowMerger(Generic[A, W]):
    """The in-tower merger of 2x2 windows (docs/model.md 3.7)."""

    layer_norm1: Norm[A]
    attention: Attention[A, W]
    pre_norm: Norm[A]
    linear_1: Linear[A, W]
    linear_2: Linear[A, W]


@dataclass(frozen=True, slots=True)
class MergerMLP(Generic[A, W]):
    """One round of the final merger (docs/model.md 3.8)."""

    pre_norm: Norm[A]
    linear_1: Linear[A, W]
    linear_2: Linear[A, W]


@dataclass(frozen=True, slots=True)
class VisionWeights(Generic[A, W]):
    """The vision tower and the final merger. vit_merger: None in a tower that runs 4x alone."""

    patch_embedding: Linear[A, W]
    position_embedding: W
    layers: tuple[VisionLayer[A, W], ...]
    post_layernorm: Norm[A]
    vit_merger: WindowMerger[A, W] | None
    merger: tuple[MergerMLP[A, W], ...]


@dataclass(frozen=True, slots=True)
class Weights(Generic[A, W]):
    """The whole network.

    vision: None in a language model without its tower. handles: the handle of each tensor by its checkpoint name.
    """

    embed_tokens: W
    layers: tuple[DecoderLayer[A, W], ...]
    norm: A
    lm_head: W
    vision: VisionWeights[A, W] | None
    handles: Mapping[str, Any]


class WeightsBuilder:
    """Walks the network once; `find` either collects names and shapes or returns prepared handles."""

    def __init__(self, config: ModelConfig, find: Find) -> None:
        self.config = config
        self.find = find

    def matrix(self, name: str, out: int, width: int, role: Role = "matrix") -> Any:
        return self.find(name, (out, width), role)

    def vector(self, name: str, *shape: int) -> Any:
        return self.find(name, shape, "vector")

    def norm_weight(self, name: str, width: int) -> Any:
        return self.find(f"{name}.weight", (width,), "norm")

    def linear(self, name: str, out: int, width: int) -> Linear[Any, Any]:
        """A linear layer of the vision tower."""
        return Linear(self.matrix(f"{name}.weight", out, width, "vision_matrix"), self.vector(f"{name}.bias", out))

    def norm(self, name: str, width: int) -> Norm[Any]:
        return Norm(self.norm_weight(name, width), self.vector(f"{name}.bias", width))

    def decoder_layer(self, index: int) -> DecoderLayer[Any, Any]:
        c, name = self.config.text, f"model.language_model.layers.{index}"
        full = c.layer_types[index] == "full_attention"
        return DecoderLayer(
            input_layernorm=self.norm_weight(f"{name}.input_layernorm", c.hidden_size),
            mixer=self.full_attention(f"{name}.self_attn") if full else self.linear_attention(f"{name}.linear_attn"),
            post_attention_layernorm=self.norm_weight(f"{name}.post_attention_layernorm", c.hidden_size),
            gate_proj=self.matrix(f"{name}.mlp.gate_proj.weight", c.intermediate_size, c.hidden_size),
            up_proj=self.matrix(f"{name}.mlp.up_proj.weight", c.intermediate_size, c.hidden_size),
            down_proj=self.matrix(f"{name}.mlp.down_proj.weight", c.hidden_size, c.intermediate_size),
        )

    def full_attention(self, name: str) -> FullAttention[Any, Any]:
        c = self.config.text
        heads, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        return FullAttention(
            q_proj=self.matrix(f"{name}.q_proj.weight", 2 * heads, c.hidden_size),
            k_proj=self.matrix(f"{name}.k_proj.weight", kv, c.hidden_size),
            v_proj=self.matrix(f"{name}.v_proj.weight", kv, c.hidden_size),
            o_proj=self.matrix(f"{name}.o_proj.weight", c.hidden_size, heads),
            q_norm=self.norm_weight(f"{name}.q_norm", c.head_dim),
            k_norm=self.norm_weight(f"{name}.k_norm", c.head_dim),
        )

    def linear_attention(self, name: str) -> LinearAttention[Any, Any]:
        c = self.config.text
        heads = c.linear_num_value_heads
        return LinearAttention(
            in_proj_qkv=self.matrix(f"{name}.in_proj_qkv.weight", c.conv_dim, c.hidden_size),
            in_proj_z=self.matrix(f"{name}.in_proj_z.weight", c.value_dim, c.hidden_size),
            in_proj_b=self.matrix(f"{name}.in_proj_b.weight", heads, c.hidden_size, "gate"),
            in_proj_a=self.matrix(f"{name}.in_proj_a.weight", heads, c.hidden_size, "gate"),
            conv1d=self.find(f"{name}.conv1d.weight", (c.conv_dim, 1, c.linear_conv_kernel_dim), "conv"),
            a_log=self.vector(f"{name}.A_log", heads),
            dt_bias=self.vector(f"{name}.dt_bias", heads),
            norm=self.norm_weight(f"{name}.norm", c.linear_value_head_dim),
            out_proj=self.matrix(f"{name}.out_proj.weight", c.hidden_size, c.value_dim),
        )

    def attention(self, name: str, width: int) -> Attention[Any, Any]:
        return Attention(*(self.linear(f"{name}.{part}_proj", width, width) for part in ("q", "k", "v", "out")))

    def vision_layer(self, c: VisionConfig, index: int) -> VisionLayer[Any, Any]:
        name = f"model.vision_tower.encoder.layers.{index}"
        return VisionLayer(
            layer_norm1=self.norm(f"{name}.layer_norm1", c.hidden_size),
            attention=self.attention(f"{name}.self_attn", c.hidden_size),
            layer_norm2=self.norm(f"{name}.layer_norm2", c.hidden_size),
            fc1=self.linear(f"{name}.mlp.fc1", c.intermediate_size, c.hidden_size),
            fc2=self.linear(f"{name}.mlp.fc2", c.hidden_size, c.intermediate_size),
        )

    def window_merger(self, c: VisionConfig) -> WindowMerger[Any, Any]:
        name = "model.vision_tower.vit_merger"
        return WindowMerger(
            layer_norm1=self.norm(f"{name}.layer_norm1", c.hidden_size),
            attention=self.attention(f"{name}.self_attn", c.hidden_size),
            pre_norm=self.norm(f"{name}.pre_norm", 4 * c.hidden_size),
            linear_1=self.linear(f"{name}.linear_1", 4 * c.intermediate_size, 4 * c.hidden_size),
            linear_2=self.linear(f"{name}.linear_2", c.hidden_size, 4 * c.intermediate_size),
        )

    def merger_mlp(self, width: int, index: int) -> MergerMLP[Any, Any]:
        name = f"model.merger.mlp.{index}"
        last = index == self.config.merger_times - 1
        return MergerMLP(
            pre_norm=self.norm(f"{name}.pre_norm", 4 * width),
            linear_1=self.linear(f"{name}.linear_1", 4 * width, 4 * width),
            linear_2=self.linear(f"{name}.linear_2", self.config.text.hidden_size if last else width, 4 * width),
        )

    def build(self, handles: Mapping[str, Any]) -> Weights[Any, Any]:
        vision, embed = self.config.vision, self.embedding()
        return Weights(
            embed_tokens=embed,
            layers=tuple(self.decoder_layer(i) for i in range(len(self.config.text.layer_types))),
            norm=self.final_norm(),
            lm_head=self.head(embed),
            vision=None if vision is None else self.vision(vision),
            handles=handles,
        )

    def embedding(self) -> Any:
        text = self.config.text
        return self.find(
            "model.language_model.embed_tokens.weight",
            (text.vocab_size, text.hidden_size),
            "tied_embedding" if text.tie_word_embeddings else "embedding",
        )

    def final_norm(self) -> Any:
        return self.norm_weight("model.language_model.norm", self.config.text.hidden_size)

    def head(self, embed: Any = None) -> Any:
        """The head; with a tied one the handle of the embedding, which is prepared if it is not given."""
        text = self.config.text
        if text.tie_word_embeddings:
            return self.embedding() if embed is None else embed
        return self.matrix("lm_head.weight", text.vocab_size, text.hidden_size, "head")

    def vision(self, c: VisionConfig) -> VisionWeights[Any, Any]:
        tower = "model.vision_tower"
        patch = (c.hidden_size, c.num_channels, c.patch_size, c.patch_size)
        return VisionWeights(
            patch_embedding=Linear(
                self.find(f"{tower}.embeddings.patch_embedding.weight", patch, "patch_embedding"),
                self.vector(f"{tower}.embeddings.patch_embedding.bias", c.hidden_size),
            ),
            position_embedding=self.find(
                f"{tower}.embeddings.position_embedding.weight",
                (c.position_side**2, c.hidden_size),
                "position_embedding",
            ),
            layers=tuple(self.vision_layer(c, i) for i in range(c.num_hidden_layers)),
            post_layernorm=self.norm(f"{tower}.post_layernorm", c.hidden_size),
            vit_merger=None if c.insert_layer_id is None else self.window_merger(c),
            merger=tuple(self.merger_mlp(c.hidden_size, i) for i in range(self.config.merger_times)),
        )


def expected_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Every tensor name and shape that a checkpoint of this configuration must hold, hub names."""
    return {name: shape for name, (shape, _) in _listed(config).items()}


def tensor_roles(config: ModelConfig) -> dict[str, Role]:
    """What each tensor of `expected_tensors` is for."""
    return {name: role for name, (_, role) in _listed(config).items()}


def _listed(config: ModelConfig) -> dict[str, tuple[Shape, Role]]:
    found: dict[str, tuple[Shape, Role]] = {}

    def collect(name: str, shape: Shape, role: Role) -> None:
        found[name] = shape, role

    WeightsBuilder(config, collect).build({})
    return found


def build_weights(
    config: ModelConfig, backend: AnyBackend, tensors: Mapping[str, Tensor], progress: Progress | None = None
) -> Weights[Any, Any]:
    """Prepare every tensor for a backend. Convolutions become the matrices that they are.

    progress(done, total) is called after each tensor. Raises TensorError for a convolution that is quantized.
    """
    done = itertools.count(1)
    handles: dict[str, Any] = {}
    find = preparing(backend, tensors)

    def prepare(name: str, shape: Shape, role: Role) -> Any:
        handle = handles[name] = find(name, shape, role)
        if progress is not None:
            progress(next(done), len(tensors))
        return handle

    return WeightsBuilder(config, prepare).build(handles)


def preparing(backend: AnyBackend, tensors: Mapping[str, Tensor]) -> Find:
    """A function that prepares the tensor of a name, shape and role, at each call anew, and returns its handle."""
    return lambda name, shape, role: backend.prepare(_as_prepared(tensors[name], shape, role), role)


def _as_prepared(tensor: Tensor, shape: Shape, role: Role) -> Tensor:
    """A tensor of this shape; the patch embedding as [out, in], a depthwise convolution as [width, channels]."""
    is_convolution = role in ("patch_embedding", "conv")
    if is_convolution and not isinstance(tensor, DenseTensor):
        raise TensorError(f"{tensor.label}: quantized convolutions are not supported: use a checkpoint with dense ones")
    if tensor.shape != shape:
        raise ValueError(f"{tensor.name}: shape {tensor.shape}, expected {shape}")
    if not (is_convolution and isinstance(tensor, DenseTensor)):
        return tensor
    matrix = tensor.reshape(shape[0], -1)
    return matrix if role == "patch_embedding" else matrix.transposed()
