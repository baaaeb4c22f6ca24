"""ModelOpt checkpoints: NVFP4 matrices with two levels of scales, and FP8 matrices, as NVIDIA's tool exports them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pocketvlm.checkpoint.formats.bitstream import packed_codes
from pocketvlm.checkpoint.formats.codebooks import e2m1
from pocketvlm.checkpoint.formats.format import Entries, ModuleFormat, Parts, Settings, Shape
from pocketvlm.checkpoint.formats.modules import FLOATS, QuantizedModule
from pocketvlm.checkpoint.formats.safetensors import TensorEntry
from pocketvlm.checkpoint.formats.settings import INSTEAD, method_of
from pocketvlm.errors import ConfigError
from pocketvlm.fields import shown
from pocketvlm.tensors import QuantizedTensor

_GROUP = 16
# Names of algorithms by the arrays that they store. Others scale activations by channel, or pack integers.
_NVFP4, _FP8 = ("NVFP4", "W4A16_NVFP4"), ("FP8", "FP8_PER_CHANNEL_PER_TOKEN")
_MIXED = "MIXED_PRECISION"


@dataclass(frozen=True, slots=True)
class ModelOpt(ModuleFormat):
    """NVFP4: value = float4 * scale of its group * weight_scale_2. FP8: value = float8 * scale. algorithms: by name."""

    algorithms: tuple[str, ...]

    suffixes = frozenset({"weight", "weight_scale", "weight_scale_2"})
    marker = "weight_scale"
    # Scales of activations and of the key-value cache, which are not quantized so here.
    unused = frozenset({"input_scale", "k_scale", "v_scale", "output_scale"})

    def describe(self) -> str:
        return f"ModelOpt {' + '.join(self.algorithms)}"

    def is_quantized(self, parts: Mapping[str, TensorEntry]) -> bool:
        return not parts.keys() <= {"weight"}

    def matrix(self, name: str, shape: Shape, parts: Parts) -> QuantizedTensor:
        module = QuantizedModule.of(name, shape, parts)
        if "weight_scale_2" not in parts:
            return module.float8(module.block_values("weight_scale", None, dtypes=FLOATS))
        rows, columns = module.shape
        packed = module.array("weight", ("U8",), (rows, -(-columns // 2))).data
        return QuantizedTensor(
            name,
            4,
            module.shape,
            packed_codes(packed, 4, module.shape),
            module.block_values("weight_scale", (1, _GROUP), dtypes=("F8_E4M3",)),
            codebook=e2m1(),
            global_scale=module.scalar("weight_scale_2"),
        )


def read_modelopt(settings: Settings, where: str, entries: Entries) -> ModelOpt | None:
    """ModelOpt for its settings, in config.json or hf_quant_config.json.

    Raises ConfigError for an algorithm that is not supported, by its name.
    """
    section = settings.get("quantization")
    if isinstance(section, Mapping) and "quant_algo" in section:
        settings, where = section, f"{where}: quantization"
    elif method_of(settings) != "modelopt":
        return None
    algorithm = settings.get("quant_algo")
    if algorithm != _MIXED:
        return ModelOpt((_supported(algorithm, settings, where),))
    layers = settings.get("quantized_layers")
    if not isinstance(layers, Mapping) or not layers:
        raise ConfigError(
            f"{where}: quantized_layers={shown(layers)} is not supported: expected an object of algorithms"
        )
    found: dict[str, None] = {}
    for name, layer in layers.items():
        own = layer if isinstance(layer, Mapping) else {}
        found[_supported(own.get("quant_algo"), own, f"{where}: quantized_layers: {name}")] = None
    return ModelOpt(tuple(found))


def _supported(algorithm: Any, settings: Mapping[str, Any], where: str) -> str:
    if algorithm not in (*_NVFP4, *_FP8):
        raise ConfigError(
            f"{where}: quant_algo={shown(algorithm)} is not supported: {', '.join((*_NVFP4, *_FP8))} are; {INSTEAD}"
        )
    group = settings.get("group_size")
    if algorithm in _NVFP4 and group not in (None, _GROUP):
        raise ConfigError(f"{where}: group_size={shown(group)} is not supported with {algorithm}: {_GROUP} is")
    return str(algorithm)
