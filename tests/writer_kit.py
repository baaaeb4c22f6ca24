"""A small dense checkpoint, quantized tensors of it in any scheme, and what a writer made of them, read again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf_kit import CONFIG, random_values, tiny_config
from safetensors_kit import write_json
from tensor_fields import assert_same_fields

from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.formats.safetensors import write_tensors
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.checkpoint.writers.output import write_checkpoint
from pocketvlm.checkpoint.writers.registry import WRITERS
from pocketvlm.model import expected_tensors, tensor_roles
from pocketvlm.quantize.methods import nearest
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.schemes import Role
from pocketvlm.tensors import DenseTensor, QuantizedTensor, Tensor, float32_to_bfloat16

# What published AWQ and GPTQ checkpoints quantize.
PUBLISHED = re.compile(
    r"model\.language_model\.layers\.\d+\."
    r"(self_attn\.[qkvo]_proj|linear_attn\.(in_proj_qkv|in_proj_z|out_proj)|mlp\.(gate|up|down)_proj)\.weight"
)
NAME = "model.language_model.layers.3.mlp.up_proj.weight"
SHAPES = expected_tensors(tiny_config())
ROLES = tensor_roles(tiny_config())
Tensors = dict[str, Tensor]


def write_source(directory: Path) -> Path:
    """All files of a checkpoint, and some that a writer must copy or leave out."""
    directory.mkdir(parents=True)
    nano = embedded_directory()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"):
        shutil.copy(nano / name, directory)
    write_json(directory / "config.json", {**CONFIG, "torch_dtype": "float32", "transformers_version": "5.7.0"})
    write_json(directory / "generation_config.json", {"eos_token_id": [1230, 1232], "temperature": 0.7})
    write_json(directory / "processor_config.json", {"processor_class": "MiniCPMV4_6Processor"})
    (directory / "LICENSE").write_text("Apache", encoding="utf-8")
    (directory / "README.md").write_text("the model's card", encoding="utf-8")
    generator = np.random.default_rng(0)
    dense = {name: DenseTensor(name, "bf16", _bits(name, shape, generator)) for name, shape in SHAPES.items()}
    write_tensors(directory / "model.safetensors", dense)
    return directory


def _bits(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    return float32_to_bfloat16(random_values(name, shape, generator))


def dense_tensors(source: Path) -> Tensors:
    return read_checkpoint(source).tensors(SHAPES)


def quantized(
    source: Path, scheme: str | Callable[[str], str | None], names: re.Pattern[str] | None = PUBLISHED
) -> Tensors:
    """The tensors of the source with the matrices of these names (None: all) rounded to the nearest values of a scheme.

    scheme: the name of one for all, or for each.
    """

    def tensor(name: str, its: Tensor) -> Tensor:
        given = scheme if isinstance(scheme, str) else scheme(name)
        chosen = names is None or names.fullmatch(name) is not None
        return its if given is None or not chosen or len(its.shape) != 2 else _rounded(source, name, given)

    return {name: tensor(name, its) for name, its in dense_tensors(source).items()}


@cache
def _rounded(source: Path, name: str, scheme: str) -> Tensor:
    tensor, how = dense_tensors(source)[name], tensor_scheme(scheme)
    if how.problem((tensor.shape[0], tensor.shape[1])):
        return tensor
    found = nearest(name, tensor.dequantize(), how)
    if not how.permutes:
        return found
    return replace(found, permutation=np.random.default_rng(len(name)).permutation(tensor.shape[1]))


def with_matrix(source: Path, matrix: QuantizedTensor, pattern: str = re.escape(NAME)) -> Tensors:
    """The tensors of the source with the matrices of these names replaced by this one's fields."""
    named = {name: replace(matrix, name=name) for name in SHAPES if re.fullmatch(pattern, name)}
    return {**dense_tensors(source), **named}


def write(
    format: str, source: Path | Checkpoint, tensors: Mapping[str, Tensor], out: Path, roles: Mapping[str, Role] = ROLES
) -> tuple[Path, ...]:
    checkpoint = read_checkpoint(source) if isinstance(source, Path) else source
    return write_checkpoint(WRITERS[format], checkpoint, tensors, roles, out, "int4-g64")


def read_back(directory: Path) -> dict[str, Any]:
    """The tensors of a directory, through the reader of its format."""
    return read_checkpoint(directory).tensors(SHAPES)


def assert_dense_are_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, tensor in expected.items():
        if isinstance(tensor, DenseTensor):
            assert_same_fields(found[name], tensor)


def natural_codes(tensor: QuantizedTensor) -> np.ndarray:
    """Codes without a sign, columns in the order of the inputs."""
    codes = tensor.load_codes().astype(np.int64)
    codes = codes + (2 ** (tensor.bits - 1) if tensor.codes.dtype == np.int8 else 0)
    if tensor.permutation is None:
        return codes
    ordered = np.empty_like(codes)
    ordered[:, tensor.permutation] = codes
    return ordered


def assert_same_codes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> int:
    """Codes, and the values that they stand for, are those of the source bit for bit; the number of matrices."""
    count = 0
    for name, tensor in expected.items():
        if not isinstance(tensor, QuantizedTensor):
            continue
        its = found[name]
        assert isinstance(its, QuantizedTensor)
        assert its.bits == tensor.bits
        assert np.array_equal(natural_codes(its), natural_codes(tensor)), name
        assert np.array_equal(its.dequantize(), tensor.dequantize()), name
        count += 1
    return count
