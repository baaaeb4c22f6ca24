"""FP8 checkpoints (quantization method "fp8"): 8-bit floats with scales of blocks, of outputs or of whole matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pocketvlm.checkpoint.formats.format import Entries, ModuleFormat, Parts, Settings, Shape
from pocketvlm.checkpoint.formats.modules import FLOAT8, QuantizedModule
from pocketvlm.checkpoint.formats.safetensors import TensorEntry
from pocketvlm.checkpoint.formats.settings import method_of
from pocketvlm.errors import ConfigError
from pocketvlm.fields import shown
from pocketvlm.tensors import QuantizedTensor


@dataclass(frozen=True, slots=True)
class FP8(ModuleFormat):
    """value = float8 * scale; the array `weight_scale_inv` multiplies too, whatever its name says.

    block: rows and columns of a matrix that share a scale; None means that the shape of the scales says it.
    """

    block: tuple[int, int] | None

    suffixes = frozenset({"weight", "weight_scale_inv", "weight_scale"})
    marker = "weight"
    # Scales of activations and of the key-value cache, which are not quantized so here.
    unused = frozenset({"input_scale", "activation_scale", "k_scale", "v_scale", "kv_scale"})

    def describe(self) -> str:
        return "FP8"

    def is_quantized(self, parts: Mapping[str, TensorEntry]) -> bool:
        return "weight" in parts and parts["weight"].dtype in FLOAT8

    def matrix(self, name: str, shape: Shape, parts: Parts) -> QuantizedTensor:
        module = QuantizedModule.of(name, shape, parts)
        suffix = "weight_scale" if "weight_scale" in parts else "weight_scale_inv"
        return module.float8(module.block_values(suffix, self.block))


def read_fp8(settings: Settings, where: str, entries: Entries) -> FP8 | None:
    """FP8 for settings of method "fp8". Raises ConfigError for a block that is none."""
    if method_of(settings) != "fp8":
        return None
    return FP8(_block(settings.get("weight_block_size"), where))


def _block(value: Any, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value):
        return value[0], value[1]
    raise ConfigError(
        f"{where}: weight_block_size={shown(value)} is not supported: expected two sizes, such as [128, 128]"
    )
