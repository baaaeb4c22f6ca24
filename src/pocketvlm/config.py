"""Frozen configurations are read from a checkpoint's JSON files; an unsupported value is refused by name.

Defaults are those of transformers' configuration classes (docs/model.md 1); sizes, ids and flags come from the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pocketvlm.errors import ConfigError
from pocketvlm.types import DownsampleMode

LayerType = Literal["linear_attention", "full_attention"]

ARCHITECTURE = "MiniCPMV4_6ForConditionalGeneration"


class Fields:
    """Typed reading of one JSON object; every complaint names file, key and value."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data = data
        self.where = where

    def fail(self, key: str, wanted: str) -> ConfigError:
        """The error for a key whose value we do not support."""
        return ConfigError(f"{self.where}: {key}={self.data.get(key)!r} is not supported: expected {wanted}")

    def integer(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        """A whole number of at least `minimum`; without a default the key must be there."""
        value = self.data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.fail(key, f"a whole number of at least {minimum}")
        return value

    def optional_integer(self, key: str) -> int | None:
        """A whole number or null."""
        return None if self.data.get(key) is None else self.integer(key, minimum=0)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(key, "a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.data.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def section(self, key: str) -> Fields:
        """A nested object."""
        value = self.data.get(key)
        if not isinstance(value, Mapping):
            raise self.fail(key, "an object")
        return Fields(value, f"{self.where}: {key}")

    def only(self, key: str, *allowed: object, default: object) -> None:
        """Refuse any value that is not one of `allowed` (an absent key counts as `default`)."""
        value = self.data.get(key, default)
        value = tuple(value) if isinstance(value, list) else value
        if value not in allowed:
            raise self.fail(key, " or ".join(repr(item) for item in allowed))

    def ids(self, key: str) -> tuple[int, ...]:
        """One id, several, or none."""
        value = self.data.get(key)
        items = [] if value is None else value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) or not isinstance(item, int) or item < 0 for item in items):
            raise self.fail(key, "a token id or a list of token ids")
        return tuple(items)


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The hybrid language model (docs/model.md 1.2, 3.2-3.5)."""

    hidden_size: int
    intermediate_size: int
    layer_types: tuple[LayerType, ...]
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float
    vocab_size: int
    rms_norm_eps: float
    max_position_embeddings: int
    linear_conv_kernel_dim: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_num_key_heads: int
    linear_num_value_heads: int
    tie_word_embeddings: bool

    @property
    def key_dim(self) -> int:
        """Width of q and of k in a linear-attention layer."""
        return self.linear_num_key_heads * self.linear_key_head_dim

    @property
    def value_dim(self) -> int:
        """Width of v and z in a linear-attention layer."""
        return self.linear_num_value_heads * self.linear_value_head_dim

    @property
    def conv_dim(self) -> int:
        """Channels of the causal convolution: q, k and v."""
        return 2 * self.key_dim + self.value_dim

    @classmethod
    def read(cls, fields: Fields, tie_word_embeddings: bool) -> TextConfig:
        """Read `text_config`; raises ConfigError."""
        fields.only("model_type", "qwen3_5_text", default="qwen3_5_text")
        fields.only("hidden_act", "silu", default="silu")
        fields.only("attention_bias", False, default=False)
        fields.only("attn_output_gate", True, default=True)
        fields.only("mlp_only_layers", (), default=())
        fields.only("mamba_ssm_dtype", "float32", default="float32")
        layers = fields.integer("num_hidden_layers")
        types = fields.data.get("layer_types")
        if types is None:
            interval = fields.integer("full_attention_interval", 4)
            types = ["full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(layers)]
        known = {"linear_attention", "full_attention"}
        if not isinstance(types, list) or len(types) != layers or not set(types) <= known:
            raise fields.fail("layer_types", f"a list of {layers} entries out of {sorted(known)}")
        head_dim = fields.integer("head_dim", 256)
        rope = fields.section("rope_parameters") if fields.data.get("rope_parameters") is not None else fields
        rope.only("rope_type", "default", default="default")
        factor = rope.number("partial_rotary_factor", fields.number("partial_rotary_factor", 0.25))
        rotary_dim = int(head_dim * factor)
        if not 0 < rotary_dim <= head_dim or rotary_dim % 2:
            raise rope.fail("partial_rotary_factor", f"a factor that gives an even part of head_dim={head_dim}")
        self = cls(
            hidden_size=fields.integer("hidden_size"),
            intermediate_size=fields.integer("intermediate_size"),
            layer_types=tuple(types),
            num_attention_heads=fields.integer("num_attention_heads"),
            num_key_value_heads=fields.integer("num_key_value_heads"),
            head_dim=head_dim,
            rotary_dim=rotary_dim,
            rope_theta=rope.number("rope_theta", 10000.0),
            vocab_size=fields.integer("vocab_size"),
            rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
            max_position_embeddings=fields.integer("max_position_embeddings", 32768),
            linear_conv_kernel_dim=fields.integer("linear_conv_kernel_dim", 4, minimum=2),
            linear_key_head_dim=fields.integer("linear_key_head_dim", 128),
            linear_value_head_dim=fields.integer("linear_value_head_dim", 128),
            linear_num_key_heads=fields.integer("linear_num_key_heads", 16),
            linear_num_value_heads=fields.integer("linear_num_value_heads", 32),
            tie_word_embeddings=tie_word_embeddings,
        )
        if self.num_attention_heads % self.num_key_value_heads:
            raise fields.fail("num_key_value_heads", f"a divisor of num_attention_heads={self.num_attention_heads}")
        if self.linear_num_value_heads % self.linear_num_key_heads:
            raise fields.fail(
                "linear_num_key_heads", f"a divisor of linear_num_value_heads={self.linear_num_value_heads}"
            )
        return self


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The vision tower and its in-tower merger (docs/model.md 1.3, 3.6, 3.7)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_channels: int
    patch_size: int
    position_side: int
    layer_norm_eps: float
    insert_layer_id: int | None  # None: a tower without the in-tower merger, which can run 4x alone

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_dim(self) -> int:
        """Values in one flattened patch."""
        return self.num_channels * self.patch_size * self.patch_size

    @classmethod
    def read(cls, fields: Fields, insert_layer_id: int | None) -> VisionConfig:
        """Read `vision_config`; raises ConfigError."""
        fields.only("model_type", "minicpmv4_6_vision", default="minicpmv4_6_vision")
        fields.only("hidden_act", "gelu_pytorch_tanh", default="gelu_pytorch_tanh")
        fields.only("window_kernel_size", (2, 2), default=(2, 2))
        fields.only("num_channels", 3, default=3)
        patch_size = fields.integer("patch_size", 16)
        self = cls(
            hidden_size=fields.integer("hidden_size", 768),
            intermediate_size=fields.integer("intermediate_size", 3072),
            num_hidden_layers=fields.integer("num_hidden_layers", 12),
            num_attention_heads=fields.integer("num_attention_heads", 12),
            num_channels=3,
            patch_size=patch_size,
            position_side=fields.integer("image_size", 224, minimum=patch_size) // patch_size,
            layer_norm_eps=fields.number("layer_norm_eps", 1e-6),
            insert_layer_id=insert_layer_id,
        )
        if self.hidden_size % self.num_attention_heads:
            raise fields.fail("num_attention_heads", f"a divisor of hidden_size={self.hidden_size}")
        if insert_layer_id is not None and insert_layer_id >= self.num_hidden_layers:
            raise ConfigError(
                f"{fields.where}: insert_layer_id={insert_layer_id} is not supported: the tower has only "
                f"{self.num_hidden_layers} layers"
            )
        return self


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """config.json of a MiniCPM-V 4.6 checkpoint. vision: None for a language model without its tower."""

    text: TextConfig
    vision: VisionConfig | None
    image_token_id: int
    video_token_id: int | None
    eos_token_ids: tuple[int, ...]
    downsample_mode: DownsampleMode
    merger_times: int

    @property
    def downsample_modes(self) -> tuple[DownsampleMode, ...]:
        """The modes that the vision tower can run; none without a tower."""
        if self.vision is None:
            return ()
        return ("4x",) if self.vision.insert_layer_id is None else ("16x", "4x")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """Read config.json; raises ConfigError for another architecture or an unsupported value."""
        fields = Fields(data, where)
        architectures = data.get("architectures")
        if data.get("model_type") != "minicpmv4_6" or (architectures and ARCHITECTURE not in architectures):
            raise ConfigError(
                f"{where}: model_type={data.get('model_type')!r}, architectures={architectures!r} is another model: "
                f"pocketvlm runs minicpmv4_6 ({ARCHITECTURE}) only"
            )
        fields.only("drop_vision_last_layer", False, default=False)
        fields.only("merge_kernel_size", (2, 2), default=(2, 2))
        fields.only("downsample_mode", "16x", "4x", default="16x")
        tied = fields.flag("tie_word_embeddings", False)
        insert = fields.integer("insert_layer_id", 6, minimum=0)
        return cls(
            text=TextConfig.read(fields.section("text_config"), tied),
            vision=VisionConfig.read(fields.section("vision_config"), insert),
            image_token_id=fields.integer("image_token_id", minimum=0),
            video_token_id=fields.optional_integer("video_token_id"),
            eos_token_ids=fields.ids("eos_token_id"),
            downsample_mode="4x" if data.get("downsample_mode") == "4x" else "16x",
            merger_times=fields.integer("merger_times", 1),
        )


def _triple(fields: Fields, key: str) -> tuple[float, float, float]:
    value = fields.data.get(key, [0.5, 0.5, 0.5])
    if not isinstance(value, Sequence) or len(value) != 3 or not all(isinstance(x, int | float) for x in value):
        raise fields.fail(key, "three numbers")
    return float(value[0]), float(value[1]), float(value[2])


@dataclass(frozen=True, slots=True)
class ProcessorConfig:
    """preprocessor_config.json (docs/model.md 4).

    downsample_modes: those that the model can run. vision_missing: why it can run none, for errors.
    """

    max_slice_nums: int = 9
    scale_resolution: int = 448
    patch_size: int = 14
    slice_mode: bool = True
    use_image_id: bool = True
    downsample_mode: DownsampleMode = "16x"
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rescale_factor: float = 1 / 255
    downsample_modes: tuple[DownsampleMode, ...] = ("16x", "4x")
    vision_missing: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "preprocessor_config.json") -> ProcessorConfig:
        """Read preprocessor_config.json; raises ConfigError."""
        fields = Fields(data, where)
        for key in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
            fields.only(key, True, default=True)
        fields.only("resample", 3, default=3)
        fields.only("downsample_mode", "16x", "4x", default="16x")
        std = _triple(fields, "image_std")
        if min(std) <= 0:
            raise fields.fail("image_std", "three positive numbers")
        return cls(
            max_slice_nums=fields.integer("max_slice_nums", 9),
            scale_resolution=fields.integer("scale_resolution", 448),
            patch_size=fields.integer("patch_size", 14),
            slice_mode=fields.flag("slice_mode", True),
            use_image_id=fields.flag("use_image_id", True),
            downsample_mode="4x" if data.get("downsample_mode") == "4x" else "16x",
            image_mean=_triple(fields, "image_mean"),
            image_std=std,
            rescale_factor=fields.number("rescale_factor", 1 / 255),
        )


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """generation_config.json: the checkpoint's own sampling defaults and end ids (docs/model.md 7)."""

    eos_token_ids: tuple[int, ...] = ()
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "generation_config.json") -> GenerationConfig:
        """Read generation_config.json; raises ConfigError."""
        fields = Fields(data, where)

        def number(key: str, default: float) -> float:
            return default if data.get(key) is None else fields.number(key)

        return cls(
            eos_token_ids=fields.ids("eos_token_id"),
            do_sample=fields.flag("do_sample", False),
            temperature=number("temperature", 1.0),
            top_p=number("top_p", 1.0),
            top_k=0 if data.get("top_k") is None else fields.integer("top_k", minimum=0),
            min_p=number("min_p", 0.0),
            repetition_penalty=number("repetition_penalty", 1.0),
        )
