"""The small GGUF model and its dense twin, questions about it, and changed copies of its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf_kit import TYPES, Pair, encode, tiny_config
from gguf_metadata import text_metadata, vision_metadata

from pocketvlm.api import Model
from pocketvlm.checkpoint.formats.gguf import unpack_matrix
from pocketvlm.checkpoint.gguf.header import read_header

PICTURE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


def dequantize(kind: str, rows: np.ndarray) -> np.ndarray:
    """Values by the reader itself, which tests/checkpoint/formats checks."""
    _, values, nbytes, _ = TYPES[kind]
    return unpack_matrix("m", kind, (len(rows), rows.shape[1] // nbytes * values), lambda: rows).dequantize()


def logits(model: Model, **options: Any) -> list[np.ndarray]:
    """Of a text and of a picture."""
    picture = {"type": "image", "image": PICTURE}
    question = {"type": "text", "text": "What is 12 + 3?"}
    prompts = [[question], [picture, question]]
    return [model.logits(model.processor([{"role": "user", "content": parts}], **options)) for parts in prompts]


def rewritten(
    pair: Pair, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], vision: bool = False
) -> Path:
    """A copy of both files with the metadata and the tensors of one changed; gives the text file."""
    config = tiny_config()
    path = pair.mmproj if vision else pair.text
    data = path.read_bytes()
    tensors = {
        name: (entry.dtype, entry.shape, data[entry.start : entry.start + entry.nbytes])
        for name, entry in read_header(path).tensors.items()
    }
    metadata = vision_metadata(config) if vision else text_metadata(config)
    change(metadata, tensors)
    directory = tmp_path / "changed"
    directory.mkdir(exist_ok=True)
    for other in (pair.text, pair.mmproj):
        (directory / other.name).write_bytes(encode(metadata, tensors) if other == path else other.read_bytes())
    return directory / pair.text.name
