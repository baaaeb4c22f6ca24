"""`write_gguf` writes a GGUF file of version 3: key-value pairs, tensor infos, then the data, a tensor at a time."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.files import GGUF_MAGIC
from pocketvlm.checkpoint.gguf.header import TENSOR_TYPES
from pocketvlm.errors import CheckpointError, TensorError

ALIGNMENT = 32
_VERSION = 3
_TYPE_IDS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_STRING, _ARRAY = 8, 9
# Value type and struct format of a number, alone and in arrays; whole numbers in arrays are signed, as llama.cpp's.
_SCALARS: Mapping[type, tuple[int, str]] = {bool: (7, "?"), int: (4, "I"), float: (6, "f")}
_ELEMENTS: Mapping[type, tuple[int, str]] = {bool: (7, "?"), int: (5, "i"), float: (6, "f")}

Metadata = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One tensor of a file. kind: such as "Q4_K". shape: in NumPy's order. rows: its data, in chunks of any size."""

    name: str
    kind: str
    shape: tuple[int, ...]
    nbytes: int
    rows: Callable[[], Iterable[NDArray[Any]]]


def write_gguf(path: Path, metadata: Metadata, items: Sequence[Item], written: Callable[[int], None]) -> None:
    """Write a file. metadata: truth values, whole numbers, numbers, texts, and lists of one of these.

    written: called with the bytes of each chunk. Raises TensorError if the data of a tensor is not as large as
    announced, and CheckpointError if the file cannot be written.
    """
    try:
        with path.open("wb") as file:
            file.write(header(metadata, items))
            for item in items:
                for chunk in _chunks(path, item):
                    file.write(chunk)
                    written(len(chunk))
                file.write(bytes(padded(item.nbytes) - item.nbytes))
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(
            f"{path}: cannot be written: {reason}: make room, or choose a folder on another disk"
        ) from None


def has_content(path: Path, metadata: Metadata, items: Sequence[Item]) -> bool:
    """Whether a file holds exactly what `write_gguf` would write; its size is compared before any tensor is read."""
    start = header(metadata, items)
    if not path.is_file() or path.stat().st_size != len(start) + sum(padded(item.nbytes) for item in items):
        return False
    with path.open("rb") as file:
        if file.read(len(start)) != start:
            return False
        for item in items:
            if any(file.read(len(chunk)) != chunk for chunk in _chunks(path, item)):
                return False
            if any(file.read(padded(item.nbytes) - item.nbytes)):
                return False
    return True


def _chunks(path: Path, item: Item) -> Iterator[memoryview]:
    """The bytes of a tensor."""
    count = 0
    for rows in item.rows():
        chunk = np.ascontiguousarray(rows)
        count += chunk.nbytes
        yield chunk.data.cast("B") if chunk.size else memoryview(b"")
    if count != item.nbytes:
        raise TensorError(f"{path}: tensor {item.name!r} has {count} bytes where {item.nbytes} were announced")


def header(metadata: Metadata, items: Sequence[Item]) -> bytes:
    """Everything before the data, padded."""
    parts = [GGUF_MAGIC, struct.pack("<IQQ", _VERSION, len(items), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), _value(value)]
    offset = 0
    for item in items:
        sides = tuple(reversed(item.shape))
        parts += [_text(item.name), struct.pack(f"<I{len(sides)}Q", len(sides), *sides)]
        parts.append(struct.pack("<IQ", _TYPE_IDS[item.kind], offset))
        offset += padded(item.nbytes)
    found = b"".join(parts)
    return found + bytes(padded(len(found)) - len(found))


def padded(count: int) -> int:
    """Bytes up to where the next tensor may begin."""
    return -(-count // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if not isinstance(value, list):
        kind, form = _SCALARS[type(value)]
        return struct.pack(f"<I{form}", kind, value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))
    kind, form = _ELEMENTS[type(value[0]) if value else int]
    return struct.pack(f"<IIQ{len(value)}{form}", _ARRAY, kind, len(value), *value)
