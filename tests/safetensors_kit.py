"""Writes safetensors files with NumPy alone, in one file or in shards with an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, tuple[str, np.ndarray]]


def encode(tensors: Arrays, pad: int = 8) -> bytes:
    """A file of (dtype, values) by name; the header is padded to a multiple of `pad`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (dtype, values) in tensors.items():
        offsets = [start, start + values.nbytes]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": offsets}
        start = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % pad)
    return len(text).to_bytes(8, "little") + text + b"".join(values.tobytes() for _, values in tensors.values())


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")


def write_arrays(directory: Path, arrays: Arrays, shards: int = 1) -> None:
    """The arrays in one file, or in several with an index."""
    if shards == 1:
        (directory / "model.safetensors").write_bytes(encode(arrays))
        return
    names, listed = list(arrays), {}
    for index in range(shards):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        own = {name: arrays[name] for name in names[index::shards]}
        (directory / file).write_bytes(encode(own))
        listed |= dict.fromkeys(own, file)
    write_json(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": listed})
