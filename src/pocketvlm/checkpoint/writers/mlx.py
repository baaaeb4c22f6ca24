"""Writes MLX checkpoints in the names, layouts and values that mlx-vlm gives MiniCPM-V 4.6."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.bitstream import pack_words, word_count
from pocketvlm.checkpoint.formats.mlx import CONV, MODES, PATCH, Quantization, is_zero_centred
from pocketvlm.checkpoint.formats.safetensors import FileArray, dense_array
from pocketvlm.checkpoint.writers.directory import Arrays, DirectoryWriter, quantized_of
from pocketvlm.checkpoint.writers.floats import SmallFloats, small_floats, without_divisor
from pocketvlm.checkpoint.writers.integers import (
    IntegerMatrix,
    inexact,
    integer_problem,
    integers,
    narrow,
    narrow_dtype,
)
from pocketvlm.checkpoint.writers.modules import module
from pocketvlm.config import ModelConfig
from pocketvlm.errors import TensorError
from pocketvlm.schemes import Role
from pocketvlm.tensors import DenseTensor, QuantizedTensor, Tensor, bfloat16_to_float32, float32_to_bfloat16

_GROUPS, _BITS = MODES["affine"]
_PREFERRED = ("BF16", "F16")  # the model's own type first: MLX computes in float32 where types differ
_ROLES: tuple[Role, ...] = ("matrix", "gate", "vision_matrix", "head", "embedding", "tied_embedding")


class MLXWriter(DirectoryWriter):
    """Free mixtures of affine groups and small floats; convolutions with channels last, norms as 1 + weight."""

    name: ClassVar[str] = "mlx"
    stored_format: ClassVar[str] = "mlx"
    names_dtype: ClassVar[bool] = False

    def problem(self, name: str, role: Role, tensor: Tensor, config: ModelConfig) -> str | None:
        if isinstance(tensor, DenseTensor):
            return None
        if role not in _ROLES:
            return "mlx-vlm reads this tensor only in 16 bits: leave it so"
        if tensor.permutation is not None:
            return "MLX has no order of inputs (act order): write format gptq or native"
        try:
            _kind(tensor)
        except TensorError as error:
            return f"{error}: write format native or gguf"
        return None

    def check_matrix(self, tensor: QuantizedTensor) -> None:
        if tensor.codebook is not None:
            _floats(tensor).scales()
        else:
            _affine_dtype(_affine(tensor))

    def dense(self, name: str, tensor: DenseTensor) -> Arrays:
        dtype = dense_array(tensor).dtype
        if name.endswith((CONV, PATCH)) and len(tensor.shape) >= 3:
            shape = (tensor.shape[0], *tensor.shape[2:], tensor.shape[1])
            return {mlx_name(name): FileArray(dtype, shape, lambda: np.moveaxis(tensor.finite_data(), 1, -1))}
        if is_zero_centred(name):
            return {mlx_name(name): FileArray(dtype, tensor.shape, lambda: _plus_one(tensor))}
        return {mlx_name(name): FileArray(dtype, tensor.shape, tensor.finite_data)}

    def matrix(self, name: str, tensor: QuantizedTensor, context: None) -> Arrays:
        prefix, how = module(mlx_name(name)), _kind(tensor)
        rows, columns = tensor.shape
        words, blocks = (rows, word_count(columns, how.bits)), (rows, columns // how.group)
        if how.mode != "affine":
            floats = _floats(tensor)
            return {
                f"{prefix}.weight": FileArray("U32", words, lambda: _words(floats.codes(), how.bits)),
                f"{prefix}.scales": FileArray("U8", blocks, floats.scales),
            }
        matrix = _affine(tensor)
        dtype = _affine_dtype(matrix)
        return {
            f"{prefix}.weight": FileArray("U32", words, lambda: _words(matrix.codes(), how.bits)),
            f"{prefix}.scales": FileArray(dtype, blocks, lambda: narrow(matrix.scales(), dtype)),
            f"{prefix}.biases": FileArray(dtype, blocks, lambda: narrow(matrix.unsigned_biases(), dtype)),
        }

    def settings(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role], context: None) -> dict[str, Any]:
        kinds = {module(mlx_name(name)): _kind(tensor) for name, tensor in quantized_of(tensors).items()}
        if not kinds:
            return {}
        counts = Counter(kinds.values())
        default = max(counts, key=counts.__getitem__)
        own = {name: _section(kind) for name, kind in kinds.items() if kind != default}
        section = {**_section(default), **own}
        return {"quantization": section, "quantization_config": section}


def mlx_name(name: str) -> str:
    """The name that mlx-vlm gives a tensor."""
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    local = name.removeprefix("model.")
    if local.startswith("language_model."):
        return local.replace("language_model.", "language_model.model.", 1)
    return local.removeprefix("vision_tower.") if local.startswith("vision_tower.vit_merger.") else local


def _section(kind: Quantization) -> dict[str, Any]:
    return {"group_size": kind.group, "bits": kind.bits, "mode": kind.mode}


def _kind(tensor: QuantizedTensor) -> Quantization:
    """How MLX calls the scheme of a matrix. Raises TensorError, which says why, if it has none. Reads no values."""
    if tensor.codebook is not None:
        floats = _floats(tensor)
        group, bits = MODES[floats.kind][0][0], MODES[floats.kind][1][0]
        if tensor.shape[1] % group:
            raise TensorError(f"groups of {group} do not divide {tensor.shape[1]} inputs")
        return Quantization(group, bits, floats.kind)
    if reason := integer_problem(tensor):
        raise TensorError(reason)
    if tensor.bits not in _BITS:
        raise TensorError(f"MLX has no codes of {tensor.bits} bits, only {', '.join(map(str, sorted(_BITS)))}")
    return Quantization(_affine(tensor).group, tensor.bits, "affine")


def _floats(tensor: QuantizedTensor) -> SmallFloats:
    return without_divisor(small_floats(tensor))


def _affine(tensor: QuantizedTensor) -> IntegerMatrix:
    """The matrix in the largest groups that MLX has; larger ones are split, which repeats their scales."""
    matrix = integers(tensor)
    fitting = [size for size in _GROUPS if matrix.group % size == 0 and matrix.shape[1] % size == 0]
    if not fitting:
        sizes = ", ".join(map(str, sorted(_GROUPS)))
        if matrix.shape[1] % matrix.group:
            raise TensorError(f"groups of {matrix.group} do not divide {matrix.shape[1]} inputs")
        raise TensorError(f"MLX has groups of {sizes}, and those of {matrix.group} cannot be split into such")
    return matrix.split(max(fitting))


def _affine_dtype(matrix: IntegerMatrix) -> str:
    """The 16-bit type that holds scales and biases exactly. Raises TensorError, with an example, if none does."""
    scales = matrix.scales()
    if narrow_dtype(scales) is None:
        raise TensorError(f"MLX stores scales in 16 bits, and there is {inexact(scales)}: write format native")
    biases = matrix.unsigned_biases()
    dtype = narrow_dtype(scales, biases, preferred=_PREFERRED)
    if dtype is not None:
        return dtype
    how = inexact(biases, "bias")
    if matrix.tensor.biases is None:
        zeros = matrix.zero_points()
        wrong = [narrow_dtype(part) is None for part in biases]
        row = wrong.index(True) if any(wrong) else 0
        column = next((at for at, bias in enumerate(biases[row]) if narrow_dtype(np.array([bias])) is None), 0)
        how = f"zero point {zeros[row, column]} times scale {scales[row, column]:.6g} is not exact in 16 bits"
    raise TensorError(
        f"MLX stores biases separately, in 16 bits: {how}: write format native, or quantize for format mlx"
    )


def _words(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    return pack_words(codes, bits).view("<u4")


def _plus_one(tensor: DenseTensor) -> NDArray[Any]:
    """1 + weight in the dtype of the weight, as MLX computes it: a sum in bfloat16 is rounded."""
    data = tensor.finite_data()
    if tensor.dtype == "bf16":
        return float32_to_bfloat16(bfloat16_to_float32(data) + np.float32(1))
    found: NDArray[Any] = (data.astype(np.float32) + np.float32(1)).astype(data.dtype)
    return found
