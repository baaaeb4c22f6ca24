"""Writes checkpoints whose tensors are all dense, in bfloat16 or float16: quantized ones are dequantized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.safetensors import FileArray
from pocketvlm.checkpoint.writers.directory import Arrays, DirectoryWriter
from pocketvlm.config import ModelConfig
from pocketvlm.errors import TensorError
from pocketvlm.schemes import Role
from pocketvlm.tensors import (
    DenseTensor,
    QuantizedTensor,
    StoredDtype,
    Tensor,
    bfloat16_to_float32,
    float32_to_bfloat16,
)

_MAX_FLOAT16 = 65504.0


class DenseWriter(DirectoryWriter):
    """Values are rounded to the nearest number of the type, ties to even."""

    stored: ClassVar[StoredDtype]
    file_dtype: ClassVar[str]

    def problem(self, name: str, role: Role, tensor: Tensor, config: ModelConfig) -> str | None:
        return None

    def nbytes(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role]) -> int:
        return sum(2 * math.prod(tensor.shape) for tensor in tensors.values())

    def dtype(self, tensors: Mapping[str, Tensor]) -> StoredDtype:
        return self.stored

    def settings(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role], context: Any) -> dict[str, Any]:
        return {}

    def dense(self, name: str, tensor: DenseTensor) -> Arrays:
        if tensor.dtype == self.stored:
            return super().dense(name, tensor)
        return {name: FileArray(self.file_dtype, tensor.shape, lambda: self.rounded(name, tensor))}

    def matrix(self, name: str, tensor: QuantizedTensor, context: Any) -> Arrays:
        return {name: FileArray(self.file_dtype, tensor.shape, lambda: self.rounded(name, tensor))}

    def rounded(self, name: str, tensor: Tensor) -> NDArray[Any]:
        """The values as the file holds them. Raises TensorError for one that the type cannot hold."""
        raise NotImplementedError


class BFloat16Writer(DenseWriter):
    """bfloat16, the type of the released checkpoint."""

    name: ClassVar[str] = "bf16"
    stored: ClassVar[StoredDtype] = "bf16"
    file_dtype: ClassVar[str] = "BF16"

    def rounded(self, name: str, tensor: Tensor) -> NDArray[Any]:
        bits = float32_to_bfloat16(np.ascontiguousarray(tensor.dequantize()))
        if (bits & 0x7FFF).max(initial=0) >= 0x7F80:
            raise TensorError(f"{name}: a value overflows bfloat16: the checkpoint is damaged, copy it again")
        return bits


class Float16Writer(DenseWriter):
    """float16, for engines without bfloat16; values beyond 65504 are refused."""

    name: ClassVar[str] = "f16"
    stored: ClassVar[StoredDtype] = "f16"
    file_dtype: ClassVar[str] = "F16"

    def check(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role]) -> tuple[str, ...]:
        large = {name: size for name, tensor in tensors.items() if (size := _largest(tensor)) > _MAX_FLOAT16}
        return tuple(
            f"{name}: {size:.6g} overflows float16, whose largest number is {_MAX_FLOAT16:g}: write format bf16"
            for name, size in large.items()
        )

    def rounded(self, name: str, tensor: Tensor) -> NDArray[Any]:
        values = tensor.dequantize()
        with np.errstate(over="ignore"):
            found = values.astype(np.float16)
        if not np.isfinite(found).all():
            raise TensorError(f"{name}: a value overflows float16: write format bf16")
        return found


def _largest(tensor: Tensor) -> float:
    """The largest value in size, or, for a quantized matrix, a bound of it that fits float16."""
    if isinstance(tensor, DenseTensor):
        if tensor.dtype == "bf16":
            bits = np.uint16((tensor.finite_data() & 0x7FFF).max(initial=0))
            return float(bfloat16_to_float32(np.array([bits]))[0])
        return float(np.abs(tensor.finite_data()).max(initial=0))
    biases = tensor.block_biases()
    levels = 2.0**tensor.bits if tensor.codebook is None else float(np.nanmax(np.abs(tensor.codebook)))
    bound = 2 * levels * float(np.abs(tensor.block_scales()).max(initial=0))
    bound += 0.0 if biases is None else float(np.abs(biases).max(initial=0))
    return bound if bound <= _MAX_FLOAT16 else float(np.abs(tensor.dequantize()).max(initial=0))
