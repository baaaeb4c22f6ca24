"""Writes AWQ checkpoints in AutoAWQ's version GEMM, whose arrays docs/formats.md and the reader describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.awq import BITS, INTERLEAVED, POSITIONS
from pocketvlm.checkpoint.formats.bitstream import pack_words, word_count
from pocketvlm.checkpoint.formats.safetensors import FileArray
from pocketvlm.checkpoint.writers.directory import Arrays, DirectoryWriter
from pocketvlm.checkpoint.writers.integers import (
    ENGINE_GROUPS,
    IntegerMatrix,
    engine_group,
    inexact,
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

# In a word, the outputs of an interleaved eight in the order of their nibbles.
_ORDER = np.argsort(POSITIONS)
QUANTIZED_ROLES: tuple[Role, ...] = ("matrix", "gate")


class AWQWriter(DirectoryWriter):
    """Linear layers of the language model with 4 bits and one group size for all; other tensors stay as stored."""

    name: ClassVar[str] = "awq"
    fuses: ClassVar[bool] = True

    def problem(self, name: str, role: Role, tensor: Tensor, config: ModelConfig) -> str | None:
        if isinstance(tensor, DenseTensor):
            return None
        if reason := words_problem(name, role, tensor, BITS):
            return reason
        if tensor.permutation is not None:
            return "AWQ has no order of inputs (act order): write format gptq or compressed-tensors"
        if tensor.shape[0] % INTERLEAVED:
            return f"AWQ packs outputs in runs of {INTERLEAVED}, which do not divide {tensor.shape[0]} outputs"
        return None

    def context(self, quantized: Mapping[str, QuantizedTensor]) -> int:
        """The group size of all matrices: larger groups are split, which repeats their scales."""
        return common_group(quantized)

    def check_matrix(self, tensor: QuantizedTensor) -> None:
        check_words(integers(tensor))

    def matrix(self, name: str, tensor: QuantizedTensor, context: int) -> Arrays:
        prefix, matrix = module(name), integers(tensor).split(context)
        outputs, inputs = matrix.shape
        words = word_count(outputs, matrix.bits)
        return {
            f"{prefix}.qweight": FileArray("I32", (inputs, words), lambda: _words(matrix.codes(), matrix.bits)),
            f"{prefix}.qzeros": FileArray(
                "I32", (matrix.groups, words), lambda: _words(matrix.zero_points(), matrix.bits)
            ),
            f"{prefix}.scales": scales_by_group(matrix),
        }

    def settings(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role], context: int) -> dict[str, Any]:
        return {
            "quantization_config": {
                "quant_method": "awq",
                "bits": 4,
                "group_size": context,
                "zero_point": True,
                "version": "gemm",
                "modules_to_not_convert": dense_linears(tensors, roles),
            }
        }


def words_problem(name: str, role: Role, tensor: QuantizedTensor, bits: tuple[int, ...]) -> str | None:
    """Why neither AWQ nor GPTQ holds a matrix; None if its role, bits and groups fit. Reads no values."""
    if role not in QUANTIZED_ROLES:
        return "engines load only linear layers of the language model in this format: leave the matrix 16-bit"
    if reason := integer_problem(tensor):
        return f"{reason}: write format native or gguf"
    if tensor.bits not in bits:
        known = ", ".join(map(str, bits))
        return f"{tensor.bits} bits are not in this format, only {known}: write format native or mlx"
    try:
        engine_group(integers(tensor))
    except TensorError as error:
        return f"{error}: write format native"
    return None


def check_words(matrix: IntegerMatrix) -> None:
    """Raise TensorError, which says why, unless there are integer zero points and 16-bit scales."""
    matrix.zero_points()
    scales = matrix.scales()
    if narrow_dtype(scales) is None:
        raise TensorError(f"the format stores scales in 16 bits, and there is {inexact(scales)}: write format native")


def common_group(quantized: Mapping[str, QuantizedTensor]) -> int:
    """The largest group size that engines load and that all matrices have, or can be split into."""
    sizes = {engine_group(integers(tensor)) for tensor in quantized.values()}
    fitting = [size for size in ENGINE_GROUPS if all(own % size == 0 for own in sizes)]
    if not fitting:
        listed = ", ".join(map(str, sorted(sizes)))
        raise TensorError(f"AWQ has one group size for all matrices, and groups of {listed} have none in common")
    return max(fitting)


def scales_by_group(matrix: IntegerMatrix) -> FileArray:
    """The scales [groups, outputs] in the 16-bit type that holds them exactly. Reads them."""
    dtype = narrow_dtype(matrix.scales()) or "F16"
    return FileArray(dtype, (matrix.groups, matrix.shape[0]), lambda: narrow(matrix.scales().T, dtype))


def _words(values: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Values [outputs, rows] in words [rows, n], outputs interleaved."""
    outputs = len(values)
    order = (np.arange(0, outputs, INTERLEAVED)[:, None] + _ORDER).ravel()
    return pack_words(np.ascontiguousarray(values[order].T), bits)
