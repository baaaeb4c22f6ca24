"""One quantized matrix in a file, read through a format, and files of two matrices with damage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tiny_checkpoint import encode
from word_kit import Arrays

from pocketvlm.checkpoint.formats.registry import READERS
from pocketvlm.checkpoint.formats.safetensors import read_header
from pocketvlm.tensors import QuantizedTensor, Tensor

NAME = "model.language_model.layers.0.mlp.down_proj"


def read(
    directory: Path,
    settings: Mapping[str, Any],
    arrays: Arrays,
    shape: tuple[int, ...],
    others: Arrays | None = None,
    expected: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Tensor]:
    """All tensors of a file that holds `NAME` quantized and some others, by the reader that takes the settings."""
    path = directory / "model.safetensors"
    path.write_bytes(encode({**{f"{NAME}.{part}": array for part, array in arrays.items()}, **(others or {})}))
    entries = read_header(path)
    formats = [found for reader in READERS.values() if (found := reader(settings, "config.json", entries))]
    assert len(formats) == 1
    return formats[0].tensors(entries, {f"{NAME}.weight": shape, **(expected or {})}, str(directory), False)


def read_matrix(
    directory: Path, settings: Mapping[str, Any], arrays: Arrays, shape: tuple[int, int]
) -> QuantizedTensor:
    """The quantized matrix of a file that holds nothing else."""
    tensor = read(directory, settings, arrays, shape)[f"{NAME}.weight"]
    assert isinstance(tensor, QuantizedTensor)
    assert tensor.shape == shape
    return tensor


def changed(arrays: Arrays, part: str, dtype: str, values: Any) -> Arrays:
    """The arrays with one of them exchanged."""
    return {**arrays, part: (dtype, np.asarray(values))}
