"""Frozen configurations are read from a checkpoint's JSON files; an unsupported value is refused by name.

Defaults are those of transformers' configuration classes (docs/model.md 1); sizes, ids and flags come from the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any, Literal

from pocketvlm.errors import ConfigError
from pocketvlm.families import FAMILIES, MINICPMV4_6, Family, Markers
from pocketvlm.fields import Fields, is_finite
from pocketvlm.types import DownsampleMode

LayerType = Literal["linear_attention", "full_attention"]

_MAX_LAYERS = 1024  # a damaged number would make lists of all layers that do not fit memory


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The hybrid language model (docs/model.md 1.2, 3.2-3.5).

    mrope_section: rotary pairs for time, height and width (docs/model.md 10.1); None: positions have one dimension.
    """

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
    mrope_section: tuple[int, int, int] | None = None

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
    def read(cls, fields: Fields, tie_word_embeddings: bool, family: Family = MINICPMV4_6) -> TextConfig:
        """Read `text_config`; raises ConfigError."""
        if fields.data.get("model_type") == "qwen3_5_moe_text":
            raise ConfigError(
                f"{fields.where}: model_type='qwen3_5_moe_text' is a mixture of experts, which pocketvlm does not run: "
                "use a checkpoint with a dense language model (qwen3_5_text)"
            )
        fields.only("model_type", "qwen3_5_text", default="qwen3_5_text")
        fields.only("hidden_act", "silu", default="silu")
        fields.only("attention_bias", False, default=False)
        fields.only("attn_output_gate", True, default=True)
        fields.only("mlp_only_layers", (), default=())
        fields.only("mamba_ssm_dtype", "float32", default="float32")
        layers = fields.integer("num_hidden_layers", maximum=_MAX_LAYERS)
        types = fields.data.get("layer_types")
        if types is None:
            interval = fields.integer("full_attention_interval", 4)
            types = ["full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(layers)]
        known = ["full_attention", "linear_attention"]
        if not isinstance(types, list) or len(types) != layers or not all(kind in known for kind in types):
            raise fields.fail("layer_types", f"a list of {layers} entries out of {known}")
        head_dim = fields.integer("head_dim", 256)
        rope = fields.section("rope_parameters") if fields.data.get("rope_parameters") is not None else fields
        rope.only("rope_type", "default", default="default")
        factor = rope.number("partial_rotary_factor", fields.number("partial_rotary_factor", 0.25))
        rotary_dim = int(head_dim * factor) if 0 < factor <= 1 else 0
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
            mrope_section=_mrope_section(rope, rotary_dim, family),
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
    def read(cls, fields: Fields, insert_layer_id: int | None, family: Family = MINICPMV4_6) -> VisionConfig:
        """Read `vision_config`; raises ConfigError."""
        fields.only("model_type", family.vision_type, default=family.vision_type)
        fields.only("hidden_act", "gelu_pytorch_tanh", default="gelu_pytorch_tanh")
        fields.only("window_kernel_size", (2, 2), default=(2, 2))
        fields.only("num_channels", 3, default=3)
        patch_size = fields.integer("patch_size", 16)
        self = cls(
            hidden_size=fields.integer("hidden_size", 768),
            intermediate_size=fields.integer("intermediate_size", 3072),
            num_hidden_layers=fields.integer("num_hidden_layers", 12, maximum=_MAX_LAYERS),
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
    """config.json of a checkpoint of any family.

    vision: None for a language model without its tower. marker_ids: the ids of `Markers` that it gives, by field
    name; the tokenizer knows all of them.
    """

    text: TextConfig
    vision: VisionConfig | None
    image_token_id: int
    video_token_id: int | None
    eos_token_ids: tuple[int, ...]
    downsample_mode: DownsampleMode
    merger_times: int
    family: Family = MINICPMV4_6
    marker_ids: tuple[tuple[str, int], ...] = ()

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
        family = _family(data, where)
        fields.only("drop_vision_last_layer", False, default=False)
        fields.only("merge_kernel_size", (2, 2), default=(2, 2))
        fields.only("downsample_mode", "16x", "4x", default="16x")
        tied = fields.flag("tie_word_embeddings", False)
        insert = fields.integer("insert_layer_id", 6, minimum=0)
        return cls(
            text=TextConfig.read(fields.section("text_config"), tied, family),
            vision=VisionConfig.read(fields.section("vision_config"), insert, family),
            image_token_id=fields.integer("image_token_id", minimum=0),
            video_token_id=fields.optional_integer("video_token_id"),
            eos_token_ids=fields.ids("eos_token_id"),
            downsample_mode="4x" if data.get("downsample_mode") == "4x" else "16x",
            merger_times=fields.integer("merger_times", 1, maximum=_MAX_LAYERS),
            family=family,
            marker_ids=_marker_ids(fields) if family.positions is not None else (),
        )


def _family(data: Mapping[str, Any], where: str) -> Family:
    model_type, architectures = data.get("model_type"), data.get("architectures")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    named = architectures if isinstance(architectures, list) else [architectures]
    if family is None or (architectures and family.architecture not in named):
        known = " and ".join(f"{name} ({family.architecture})" for name, family in FAMILIES.items())
        raise ConfigError(
            f"{where}: model_type={model_type!r}, architectures={architectures!r} is another model: pocketvlm runs "
            f"{known}"
        )
    return family


def _marker_ids(fields: Fields) -> tuple[tuple[str, int], ...]:
    found = [(field.name, fields.optional_integer(f"{field.name}_id")) for field in fields_of(Markers)]
    return tuple((name, value) for name, value in found if value is not None)


def _mrope_section(rope: Fields, rotary_dim: int, family: Family) -> tuple[int, int, int] | None:
    """The rotary sections of a family whose positions have three dimensions."""
    if family.mrope_section is None:
        return None
    rope.only("mrope_interleaved", True, default=True)
    section = rope.data.get("mrope_section", list(family.mrope_section))
    if (
        not isinstance(section, list | tuple)
        or len(section) != 3
        or not all(isinstance(size, int) and size >= 0 for size in section)
        or sum(section) != rotary_dim // 2
    ):
        raise ConfigError(
            f"{rope.where}: mrope_section={section!r} is not supported: expected three whole numbers with the sum "
            f"{rotary_dim // 2}, half of the {rotary_dim} rotated dimensions"
        )
    return section[0], section[1], section[2]


def _triple(fields: Fields, key: str) -> tuple[float, float, float]:
    value = fields.data.get(key, [0.5, 0.5, 0.5])
    if not isinstance(value, Sequence) or len(value) != 3 or not all(map(is_finite, value)):
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
