"""Copies of nano whose matrices are rounded, or whose files differ in one thing, for comparisons with nano."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors_kit import write_arrays, write_json

from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.model import expected_tensors, tensor_roles
from pocketvlm.quantize import round_to_nearest
from pocketvlm.schemes import INT4_GROUP_64, INT8_ROWS, Role
from pocketvlm.tensors import DenseTensor, float32_to_bfloat16

SCHEMES = {"matrix": INT4_GROUP_64, "vision_matrix": INT8_ROWS}


def copy_nano(directory: Path, weights: bool = True, **files: Any) -> Path:
    """Copy nano; files: changes of the JSON objects config and tokenizer_config, by name of the file."""
    directory.mkdir(parents=True)
    for file in embedded_directory().iterdir():
        if file.is_file() and (weights or file.suffix != ".safetensors"):
            shutil.copyfile(file, directory / file.name)
    for name, changes in files.items():
        path = directory / f"{name}.json"
        write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})
    return directory


def nano_tensors() -> tuple[dict[str, DenseTensor], Mapping[str, Role]]:
    """The tensors of nano and their roles."""
    checkpoint = read_checkpoint(embedded_directory())
    tensors = checkpoint.tensors(expected_tensors(checkpoint.model))
    dense = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, DenseTensor)}
    return dense, tensor_roles(checkpoint.model)


def rounded_nano(directory: Path, *roles: Role) -> Path:
    """A dense copy of nano whose matrices of these roles have the values of 4-bit, or of 8-bit vision, weights."""
    copy_nano(directory, weights=False)
    tensors, found = nano_tensors()
    arrays: dict[str, tuple[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        values = tensor.data
        if found[name] in roles:
            values = float32_to_bfloat16(round_to_nearest(tensor, SCHEMES[found[name]]).dequantize())
        arrays[name] = ("BF16", values)
    write_arrays(directory, arrays)
    return directory
