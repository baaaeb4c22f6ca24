"""Writes small checkpoint files in any format and reads them as a checkpoint of it would be read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tiny_checkpoint import encode, write_json

from pocketvlm.checkpoint.formats.registry import find_format
from pocketvlm.checkpoint.formats.safetensors import read_entries
from pocketvlm.checkpoint.names import canonical_entries
from pocketvlm.tensors import Tensor

Arrays = Mapping[str, tuple[str, np.ndarray]]
MODULE = "model.language_model.layers.0.mlp.up_proj"
NAME = f"{MODULE}.weight"


def write(directory: Path, arrays: Arrays, shards: int = 1) -> None:
    """The arrays (dtype, values) by name in one file, or in several with an index."""
    if shards == 1:
        (directory / "model.safetensors").write_bytes(encode(arrays))
        return
    names, listed = list(arrays), {}
    for index in range(shards):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        own = {name: arrays[name] for name in names[index::shards]}
        (directory / file).write_bytes(encode(own))
        listed |= dict.fromkeys(own, file)
    write_json(directory / "model.safetensors.index.json", {"weight_map": listed})


def read(
    directory: Path, arrays: Arrays, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], shards: int = 1
) -> dict[str, Tensor]:
    """The tensors that a model with these shapes reads; config: config.json's."""
    write(directory, arrays, shards)
    entries = canonical_entries(read_entries(directory), str(directory))
    return find_format(directory, config, entries).tensors(entries, shapes, str(directory), False)


def read_matrix(
    directory: Path, parts: Arrays, config: Mapping[str, Any], shape: tuple[int, int], module: str = MODULE
) -> Any:
    """The one matrix of this shape whose arrays are called `module` and a part."""
    arrays = {f"{module}.{part}": value for part, value in parts.items()}
    return next(iter(read(directory, arrays, config, {NAME: shape}).values()))


def bfloat16(values: Any) -> np.ndarray:
    """Bits of numbers that bfloat16 holds exactly."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def packed(codes: np.ndarray, bits: int, word: int = 32) -> np.ndarray:
    """Codes [rows, columns] end to end in words [rows, ...] of this many bits, the first in the lowest bits."""
    rows = []
    for row in codes.tolist():
        number = sum(code << (bits * index) for index, code in enumerate(row))
        size = -(-len(row) * bits // word) * word // 8
        rows.append(np.frombuffer(number.to_bytes(size, "little"), f"<u{word // 8}"))
    return np.array(rows)
