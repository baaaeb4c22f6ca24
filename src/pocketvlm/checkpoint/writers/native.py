"""Writes the native format, which holds every tensor with all of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pocketvlm.checkpoint.formats.native import METHOD, native_settings
from pocketvlm.checkpoint.formats.native_arrays import native_arrays
from pocketvlm.checkpoint.writers.directory import Arrays, DirectoryWriter
from pocketvlm.config import ModelConfig
from pocketvlm.schemes import Role
from pocketvlm.tensors import DenseTensor, QuantizedTensor, Tensor


class NativeWriter(DirectoryWriter):
    """Any mixture of schemes; matrices that engines join need not have one scheme."""

    name: ClassVar[str] = "native"
    stored_format: ClassVar[str] = METHOD
    names_dtype: ClassVar[bool] = False

    def problem(self, name: str, role: Role, tensor: Tensor, config: ModelConfig) -> str | None:
        if role in ("patch_embedding", "conv", "norm", "vector") and not isinstance(tensor, DenseTensor):
            return "convolutions, norms and vectors stay dense in every format: quantize matrices alone"
        return None

    def matrix(self, name: str, tensor: QuantizedTensor, context: Any) -> Arrays:
        return native_arrays(name, tensor)

    def settings(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role], context: Any) -> dict[str, Any]:
        return {"quantization_config": native_settings()}
