"""Writes small checkpoint files in any format and reads them as a checkpoint of it would be read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors_kit import Arrays, write_arrays

from pocketvlm.checkpoint.formats.registry import find_format
from pocketvlm.checkpoint.formats.safetensors import read_entries
from pocketvlm.checkpoint.names import canonical_entries
from pocketvlm.tensors import Tensor

MODULE = "model.language_model.layers.0.mlp.up_proj"
NAME = f"{MODULE}.weight"


def read(
    directory: Path, arrays: Arrays, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], shards: int = 1
) -> dict[str, Tensor]:
    """The tensors that a model with these shapes reads; config: config.json's."""
    write_arrays(directory, arrays, shards)
    entries = canonical_entries(read_entries(directory), str(directory))
    return find_format(directory, config, entries).tensors(entries, shapes, str(directory), False)


def quantized(settings: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with these quantization settings."""
    return {"quantization_config": settings}


def read_module(
    directory: Path,
    parts: Arrays,
    config: Mapping[str, Any],
    shape: tuple[int, ...],
    others: Arrays | None = None,
    expected: Mapping[str, tuple[int, ...]] | None = None,
    module: str = MODULE,
) -> dict[str, Tensor]:
    """The tensors of a file with a matrix of this shape, whose arrays are called `module` and a part, and others."""
    arrays = {f"{module}.{part}": value for part, value in parts.items()}
    return read(directory, {**arrays, **(others or {})}, config, {NAME: shape, **(expected or {})})


def read_matrix(
    directory: Path, parts: Arrays, config: Mapping[str, Any], shape: tuple[int, int], module: str = MODULE
) -> Any:
    """The matrix of a file that holds nothing else."""
    return read_module(directory, parts, config, shape, module=module)[NAME]


def changed(arrays: Arrays, part: str, dtype: str, values: Any) -> Arrays:
    """The arrays with one of them exchanged."""
    return {**arrays, part: (dtype, np.asarray(values))}


def bfloat16(values: Any) -> np.ndarray:
    """Bits of numbers that bfloat16 holds exactly."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
