"""Writes GPTQ checkpoints as AutoGPTQ does, in version 1 of the format unless a zero point is 0."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.bitstream import pack_words, word_count
from pocketvlm.checkpoint.formats.gptq import BITS
from pocketvlm.checkpoint.formats.safetensors import FileArray
from pocketvlm.checkpoint.writers.awq import check_words, scales_by_group, words_problem
from pocketvlm.checkpoint.writers.directory import Arrays, DirectoryWriter, quantized_of
from pocketvlm.checkpoint.writers.integers import ENGINE_GROUPS, IntegerMatrix, engine_group, integers
from pocketvlm.checkpoint.writers.modules import LAYERS, module, with_fused_name
from pocketvlm.config import ModelConfig
from pocketvlm.schemes import Role
from pocketvlm.tensors import DenseTensor, QuantizedTensor, Tensor

_MULTIPLE = 32  # of inputs and outputs, which engines need
# The linear layers of a block in the order in which inputs become known, as settings list them.
_BLOCK = (
    ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj"),
    ("self_attn.o_proj",),
    ("linear_attn.in_proj_qkv", "linear_attn.in_proj_z"),
    ("linear_attn.in_proj_b", "linear_attn.in_proj_a"),
    ("linear_attn.out_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
# vLLM finds the listed names also in the vision tower, which this rule takes out: in its own names and in the hub's.
_VISION = r"-:.*(vision_tower|vpm|vit_merger|merger)\."


@dataclass(frozen=True, slots=True)
class Common:
    """What the settings say of all matrices. version: of the format: how zero points are stored."""

    bits: int
    group: int
    symmetric: bool
    version: int


class GPTQWriter(DirectoryWriter):
    """Linear layers of the language model with 2, 3, 4 or 8 bits, also with the order of inputs (act order)."""

    name: ClassVar[str] = "gptq"
    fuses: ClassVar[bool] = True

    def problem(self, name: str, role: Role, tensor: Tensor, config: ModelConfig) -> str | None:
        if isinstance(tensor, DenseTensor):
            return None
        if reason := words_problem(name, role, tensor, BITS):
            return reason
        if wrong := [side for side in tensor.shape if side % _MULTIPLE]:
            return f"GPTQ needs multiples of {_MULTIPLE} outputs and inputs, {wrong[0]} is none: leave it 16-bit"
        return None

    def context(self, quantized: Mapping[str, QuantizedTensor]) -> Common:
        kinds = Counter((tensor.bits, _group_size(_matrix(tensor))) for tensor in quantized.values())
        bits, group = max(kinds, key=kinds.__getitem__) if kinds else (4, 128)
        symmetric, zero = True, False
        for tensor in quantized.values():
            matrix = integers(tensor)
            zeros = matrix.zero_points()
            symmetric = symmetric and bool((zeros == matrix.middle).all())
            zero = zero or bool((zeros == 0).any())
        # Less one, 0 becomes the largest code, which some kernels raise to a number that codes do not have.
        return Common(bits, group, symmetric, 2 if zero else 1)

    def check_matrix(self, tensor: QuantizedTensor) -> None:
        check_words(integers(tensor))

    def matrix(self, name: str, tensor: QuantizedTensor, context: Common) -> Arrays:
        prefix, matrix = module(name), _matrix(tensor)
        (outputs, inputs), bits = matrix.shape, matrix.bits
        return {
            f"{prefix}.qweight": FileArray(
                "I32",
                (word_count(inputs, bits), outputs),
                lambda: np.ascontiguousarray(pack_words(matrix.input_codes(), bits).T),
            ),
            f"{prefix}.qzeros": FileArray(
                "I32", (matrix.groups, word_count(outputs, bits)), lambda: _zeros(matrix, context.version)
            ),
            f"{prefix}.scales": scales_by_group(matrix),
            f"{prefix}.g_idx": FileArray("I32", (inputs,), matrix.input_groups),
        }

    def settings(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role], context: Common) -> dict[str, Any]:
        quantized = quantized_of(tensors)
        parts = {name.removeprefix(LAYERS).partition(".")[2] for name in map(module, quantized)}
        return {
            "quantization_config": {
                "quant_method": "gptq",
                "bits": context.bits,
                "group_size": context.group,
                "desc_act": any(tensor.permutation is not None for tensor in quantized.values()),
                "sym": context.symmetric,
                "true_sequential": True,
                "lm_head": False,
                "checkpoint_format": "gptq_v2" if context.version == 2 else "gptq",
                "pack_dtype": "int32",
                "modules_in_block_to_quantize": [
                    names for group in _BLOCK if (names := [name for name in group if name in parts])
                ],
                "dynamic": {_VISION: {}, **_exceptions(tensors, parts, context)},
            }
        }

    def extra_files(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """AutoGPTQ's own file, which repeats the settings."""
        return {"quantize_config.json": config["quantization_config"]}


def _matrix(tensor: QuantizedTensor) -> IntegerMatrix:
    matrix = integers(tensor)
    return matrix.split(engine_group(matrix))


def _group_size(matrix: IntegerMatrix) -> int:
    """The size of the groups as settings name it: -1 for one scale an output."""
    return -1 if matrix.groups == 1 and matrix.group not in ENGINE_GROUPS else matrix.group


def _zeros(matrix: IntegerMatrix, version: int) -> NDArray[np.int32]:
    """The zero points in words [groups, n]; version 1 stores them less one, modulo the number of codes."""
    zeros = matrix.zero_points() - np.uint8(2 - version)
    return pack_words(np.ascontiguousarray(zeros.T), matrix.bits)


def _exceptions(tensors: Mapping[str, Tensor], parts: set[str], context: Common) -> dict[str, dict[str, Any]]:
    """Rules for listed modules that are dense in some layers, or have other bits or groups."""
    rules: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        layer, _, part = module(name).removeprefix(LAYERS).partition(".")
        if not name.startswith(LAYERS) or part not in parts:
            continue
        group, _, last = part.rpartition(".")
        pattern = rf".*\.layers\.{layer}\.{re.escape(group)}\.({'|'.join(with_fused_name(last))})$"
        if isinstance(tensor, DenseTensor):
            rules[f"-:{pattern}"] = {}
            continue
        own = {"bits": tensor.bits, "group_size": _group_size(_matrix(tensor))}
        common = {"bits": context.bits, "group_size": context.group}
        if own != common:
            rules[f"+:{pattern}"] = {key: value for key, value in own.items() if value != common[key]}
    return rules
