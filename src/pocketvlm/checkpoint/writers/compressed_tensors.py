"""Writes compressed-tensors checkpoints: integers of 4 or 8 bits packed in words, and 4- and 8-bit floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pocketvlm.checkpoint.formats.bitstream import byte_count, pack, pack_words, word_count
from pocketvlm.checkpoint.formats.safetensors import FileArray
from pocketvlm.checkpoint.writers.directory import Arrays, DirectoryWriter, quantized_of
from pocketvlm.checkpoint.writers.floats import is_float8, small_floats
from pocketvlm.checkpoint.writers.integers import (
    IntegerMatrix,
    engine_group,
    integer_problem,
    integers,
    narrow,
    narrow_dtype,
)
from pocketvlm.checkpoint.writers.modules import dense_linears, module
from pocketvlm.config import ModelConfig
from pocketvlm.errors import TensorError
from pocketvlm.schemes import Role
from pocketvlm.tensors import DenseTensor, QuantizedTensor, Tensor

_BITS = (4, 8)
_PREFERRED = ("BF16", "F16")  # as the library stores scales; float32 where neither is exact
_ROLES: tuple[Role, ...] = ("matrix", "gate", "vision_matrix")
_FLOAT_FORMATS = {
    "mxfp4": "mxfp4-pack-quantized",
    "mxfp8": "mxfp8-quantized",
    "nvfp4": "nvfp4-pack-quantized",
}


@dataclass(frozen=True, slots=True)
class Scheme:
    """A format and how its weights are quantized; matrices of one scheme share a group of config.json."""

    format: str
    bits: int
    is_float: bool
    symmetric: bool
    strategy: str
    group: int | None = None
    structure: tuple[int, int] | None = None

    def section(self, targets: list[str]) -> dict[str, Any]:
        """The group as the library writes it."""
        weights: dict[str, Any] = {
            "num_bits": self.bits,
            "type": "float" if self.is_float else "int",
            "symmetric": self.symmetric,
            "group_size": self.group,
            "strategy": self.strategy,
            "dynamic": False,
        }
        if self.structure is not None:
            weights["block_structure"] = list(self.structure)
        if self.strategy == "tensor_group":
            weights["scale_dtype"] = "torch.float8_e4m3fn"
        elif self.format.startswith("mx"):
            weights["scale_dtype"] = "torch.uint8"
        return {
            "targets": targets,
            "weights": weights,
            "input_activations": None,
            "output_activations": None,
            "format": self.format,
        }


class CompressedTensorsWriter(DirectoryWriter):
    """Linear layers in one scheme or several; activations stay 16-bit."""

    name: ClassVar[str] = "compressed-tensors"
    fuses: ClassVar[bool] = True

    def problem(self, name: str, role: Role, tensor: Tensor, config: ModelConfig) -> str | None:
        if isinstance(tensor, DenseTensor):
            return None
        if role not in _ROLES:
            return "engines load only linear layers in this format: leave the matrix 16-bit"
        if tensor.permutation is not None:
            return "compressed-tensors has no order of inputs (act order) any more: write format gptq"
        try:
            _scheme(tensor, symmetric=True)
        except TensorError as error:
            return f"{error}: write format native or gguf"
        return None

    def context(self, quantized: Mapping[str, QuantizedTensor]) -> dict[str, Scheme]:
        """The scheme of each matrix. Reads zero points."""
        return {name: _scheme(tensor, _is_symmetric(tensor)) for name, tensor in quantized.items()}

    def check_matrix(self, tensor: QuantizedTensor) -> None:
        if _scheme(tensor, symmetric=True).format in _FLOAT_FORMATS.values():
            small_floats(tensor).scales()
            return
        super().check_matrix(tensor)
        if tensor.codebook is None:
            integers(tensor).zero_points()

    def matrix(self, name: str, tensor: QuantizedTensor, context: Mapping[str, Scheme]) -> Arrays:
        scheme = context[name]
        if not scheme.is_float:
            matrix = integers(tensor)
            parts = _integer_parts(matrix.split(scheme.group or matrix.shape[1]), scheme)
        elif scheme.format == "float-quantized":
            parts = _float8_parts(tensor, scheme)
        else:
            parts = _small_float_parts(tensor, scheme)
        return {f"{module(name)}.{part}": array for part, array in parts.items()}

    def settings(
        self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role], context: Mapping[str, Scheme]
    ) -> dict[str, Any]:
        if not quantized_of(tensors):
            return {}
        schemes: dict[Scheme, list[str]] = {}
        for name, scheme in context.items():
            schemes.setdefault(scheme, []).append(module(name))
        targets = [["Linear"]] if len(schemes) == 1 else list(schemes.values())
        groups = [scheme.section(names) for scheme, names in zip(schemes, targets, strict=True)]
        formats = {scheme.format for scheme in schemes}
        return {
            "quantization_config": {
                "quant_method": "compressed-tensors",
                "format": formats.pop() if len(formats) == 1 else "mixed-precision",
                "quantization_status": "compressed",
                "config_groups": {f"group_{index}": group for index, group in enumerate(groups)},
                "ignore": dense_linears(tensors, roles),
                "kv_cache_scheme": None,
                "global_compression_ratio": None,
            }
        }


def _scheme(tensor: QuantizedTensor, symmetric: bool) -> Scheme:
    """The scheme of a matrix. Raises TensorError, which says why, if the format has none. Reads no values."""
    rows, columns = tensor.shape
    if tensor.codebook is None:
        if reason := integer_problem(tensor):
            raise TensorError(reason)
        if tensor.bits not in _BITS:
            raise TensorError(f"{tensor.bits} bits are not in this format, only {' and '.join(map(str, _BITS))}")
        group = engine_group(integers(tensor))
        if columns % (32 // tensor.bits):
            raise TensorError(f"{columns} inputs do not fill whole words")
        channel = group == columns
        strategy = "channel" if channel else "group"
        return Scheme("pack-quantized", tensor.bits, False, symmetric, strategy, None if channel else group)
    if is_float8(tensor):
        assert not isinstance(tensor.block, int)
        height, width = min(tensor.block[0], rows), min(tensor.block[1], columns)
        if tensor.scales.codebook is None or height > 1:
            if (height, width) == (rows, columns):
                return Scheme("float-quantized", 8, True, True, "tensor")
            if height == 1 and width == columns:
                return Scheme("float-quantized", 8, True, True, "channel")
            return Scheme("float-quantized", 8, True, True, "block", structure=tensor.block)
    floats = small_floats(tensor)
    group = 16 if floats.kind == "nvfp4" else 32
    if columns % group:
        raise TensorError(f"groups of {group} do not divide {columns} inputs")
    strategy = "tensor_group" if floats.kind == "nvfp4" else "group"
    return Scheme(_FLOAT_FORMATS[floats.kind], tensor.bits, True, True, strategy, group)


def _is_symmetric(tensor: QuantizedTensor) -> bool:
    """Whether all zero points are the middle code."""
    if tensor.codebook is not None:
        return True
    matrix = integers(tensor)
    return bool((matrix.zero_points() == matrix.middle).all())


def _integer_parts(matrix: IntegerMatrix, scheme: Scheme) -> Arrays:
    (rows, columns), bits, groups = matrix.shape, matrix.bits, matrix.groups
    dtype = narrow_dtype(matrix.scales(), preferred=_PREFERRED) or "F32"
    parts = {
        "weight_packed": FileArray("I32", (rows, word_count(columns, bits)), lambda: pack_words(matrix.codes(), bits)),
        "weight_scale": FileArray(dtype, (rows, groups), lambda: narrow(matrix.scales(), dtype)),
        "weight_shape": FileArray("I64", (2,), lambda: np.array(matrix.shape, np.int64)),
    }
    if not scheme.symmetric:
        shape = (word_count(rows, bits), groups)
        parts["weight_zero_point"] = FileArray(
            "I32", shape, lambda: pack_words(np.ascontiguousarray(matrix.zero_points().T), bits).T
        )
    return parts


def _float8_parts(tensor: QuantizedTensor, scheme: Scheme) -> Arrays:
    numbers = tensor.block_scales()
    shape = (1,) if scheme.strategy == "tensor" else numbers.shape
    dtype = narrow_dtype(numbers, preferred=_PREFERRED) or "F32"
    return {
        "weight": FileArray("F8_E4M3", tensor.shape, tensor.load_codes),
        "weight_scale": FileArray(dtype, shape, lambda: narrow(tensor.block_scales().reshape(shape), dtype)),
    }


def _small_float_parts(tensor: QuantizedTensor, scheme: Scheme) -> Arrays:
    floats = small_floats(tensor)
    rows, columns = tensor.shape
    assert scheme.group is not None
    grid = (rows, columns // scheme.group)
    scales = FileArray("F8_E4M3" if floats.kind == "nvfp4" else "U8", grid, floats.scales)
    if tensor.bits == 8:
        return {"weight": FileArray("F8_E4M3", tensor.shape, floats.codes), "weight_scale": scales}
    parts = {
        "weight_packed": FileArray("U8", (rows, byte_count(columns, 4)), lambda: pack(floats.codes(), 4)),
        "weight_scale": scales,
    }
    if floats.kind == "nvfp4":
        divisor = np.array([floats.divisor], np.float32)
        parts["weight_global_scale"] = FileArray("F32", (1,), lambda: divisor)
    return parts
