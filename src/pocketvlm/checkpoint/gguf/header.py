"""`read_header` reads the header of a GGUF file without touching the tensors: key-value pairs, and where tensors lie.

The `gguf` library builds an array for every string of the vocabulary, which takes seconds, and trusts the counts in the
file. Here arrays stay in the file until they are read, and every count is checked against what the file can hold.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.files import GGUF_MAGIC
from pocketvlm.checkpoint.formats.safetensors import TensorEntry
from pocketvlm.errors import CheckpointError

MAGIC = GGUF_MAGIC
VERSIONS = (2, 3)
ARCHITECTURE = "general.architecture"

# A real header has some 50 keys, some hundred tensors, and 10 MB of vocabulary.
MAX_HEADER = 1 << 28
MAX_PAIRS = MAX_TENSORS = 1 << 16
MAX_KEY = 1 << 16
MAX_STRING = 1 << 24
MAX_ELEMENTS = 1 << 24
_FIRST = len(MAGIC) + 4 + 8 + 8  # the first key-value pair
_MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 1 << 16
_DEFAULT_ALIGNMENT = 32

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
# Value types with one size: how they are unpacked, and as a NumPy dtype.
_SCALARS: dict[int, tuple[struct.Struct, str]] = {
    0: (struct.Struct("<B"), "u1"),
    1: (struct.Struct("<b"), "i1"),
    2: (struct.Struct("<H"), "<u2"),
    3: (struct.Struct("<h"), "<i2"),
    4: (_U32, "<u4"),
    5: (struct.Struct("<i"), "<i4"),
    6: (struct.Struct("<f"), "<f4"),
    7: (struct.Struct("<?"), "?"),
    10: (_U64, "<u8"),
    11: (struct.Struct("<q"), "<i8"),
    12: (struct.Struct("<d"), "<f8"),
}
_FLOAT32 = 6
# Type of tensors by id: name, values of a block, bytes of a block.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
BLOCKS: dict[str, tuple[int, int]] = {name: (values, nbytes) for name, values, nbytes in TENSOR_TYPES.values()}


@dataclass(frozen=True, slots=True, repr=False)
class ArrayValue:
    """An array among the key-value pairs: `count` elements of a value type in the bytes [start, stop) of the file."""

    kind: int
    count: int
    start: int
    stop: int

    def __repr__(self) -> str:
        return f"an array of {self.count} elements"


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What the header of one file says.

    metadata: numbers, texts and truth values by key, and an ArrayValue for each array. spans: the bytes [start, stop)
    of each pair. tensors: by the names in the file.
    """

    path: Path
    metadata: Mapping[str, Any]
    spans: Mapping[str, tuple[int, int]]
    tensors: Mapping[str, TensorEntry]

    @property
    def architecture(self) -> str:
        """The kind of model, such as "qwen35"; empty if the file does not say."""
        value = self.metadata.get(ARCHITECTURE)
        return value if isinstance(value, str) else ""

    def strings(self, key: str) -> list[str]:
        """An array of texts; empty if there is none of that name. Raises CheckpointError for anything else."""
        return [self.decode(text, key) for text in self.raw_strings(key)]

    def raw_strings(self, key: str) -> list[bytes]:
        """`strings` before they are decoded, which takes as long again for a whole vocabulary."""
        value = self._array(key, _STRING)
        if value is None:
            return []
        with _mapped(self.path) as data:
            content = data[value.start : value.stop]
        found, at, length = [], 0, _U64.unpack_from
        try:
            for _ in range(value.count):
                start = at + 8
                at = start + length(content, at)[0]
                found.append(content[start:at])
        except (struct.error, OverflowError):
            raise _damaged(self.path, f"{key} changed while it was read") from None
        return found

    def decode(self, text: bytes, key: str) -> str:
        """A text of an array. Raises CheckpointError if it is not UTF-8."""
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            raise _damaged(self.path, f"{key} has a text that is not UTF-8") from None

    def numbers(self, key: str) -> NDArray[Any] | None:
        """An array of numbers or truth values, or None. Raises CheckpointError for anything else."""
        value = self._array(key, *_SCALARS)
        if value is None:
            return None
        with _mapped(self.path) as data:
            return np.frombuffer(data[value.start : value.stop], _SCALARS[value.kind][1])

    def content(self, prefix: str) -> bytes:
        """The bytes of all pairs whose keys begin so, as the file has them."""
        with _mapped(self.path) as data:
            return b"".join(data[start:stop] for key, (start, stop) in self.spans.items() if key.startswith(prefix))

    def _array(self, key: str, *kinds: int) -> ArrayValue | None:
        value = self.metadata.get(key)
        if value is not None and not (isinstance(value, ArrayValue) and value.kind in kinds):
            raise _damaged(self.path, f"{key} is not an array of the expected type")
        return value


def read_header(path: Path) -> Header:
    """The header of a GGUF file of version 2 or 3.

    Raises CheckpointError, naming file and place, for a damaged file, a big-endian one, another version, a part of a
    split file, and tensors that lie outside the file or over each other.
    """
    with _mapped(path) as data:
        tensor_count, pairs = _counts(data, path)
        metadata: dict[str, Any] = {}
        spans: dict[str, tuple[int, int]] = {}
        at = _FIRST
        for key, value, start, stop in _pairs(data, pairs, path):
            if key in metadata:
                raise _damaged(path, f"the key {key!r} appears twice")
            metadata[key], spans[key], at = value, (start, stop), stop
        split = metadata.get("split.count", 0)
        if isinstance(split, int) and split > 1:
            raise CheckpointError(
                f"{path}: is one of {split} parts of a split GGUF file, which are not read: merge them with "
                f"`llama-gguf-split --merge`, or use a file in one part"
            )
        tensors = _tensors(data, at, tensor_count, metadata, path)
    return Header(path, metadata, spans, tensors)


def read_architecture(path: Path) -> str:
    """The architecture that a file names, read no further than that; empty if it names none. See `read_header`."""
    with _mapped(path) as data:
        _, pairs = _counts(data, path)
        for key, value, _, _ in _pairs(data, pairs, path):
            if key == ARCHITECTURE and isinstance(value, str):
                return value
    return ""


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise CheckpointError(f"{path}: cannot be read: {error}: download or copy it again") from None


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}: the file is damaged or was cut off: download or copy it again")


def _counts(data: mmap.mmap, path: Path) -> tuple[int, int]:
    """Numbers of tensors and of key-value pairs, of a file whose magic and version are right."""
    if data[: len(MAGIC)] != MAGIC:
        if data[:8] == b"version ":
            raise CheckpointError(
                f"{path}: is a Git LFS pointer, not the weights: run `git lfs pull` there, or `pocketvlm pull`"
            )
        raise CheckpointError(f"{path}: is not a GGUF file: it begins with {data[:4]!r} instead of {MAGIC!r}")
    if len(data) < _FIRST:
        raise _damaged(path, f"{len(data)} bytes are too few for a header")
    version = _U32.unpack_from(data, len(MAGIC))[0]
    if version & 0xFFFF == 0:
        raise CheckpointError(f"{path}: is a big-endian GGUF file, which is not read: use a little-endian one")
    if version not in VERSIONS:
        raise CheckpointError(
            f"{path}: is a GGUF file of version {version}: only versions {' and '.join(map(str, VERSIONS))} are read"
        )
    tensors, pairs = (_U64.unpack_from(data, len(MAGIC) + 4 + 8 * index)[0] for index in range(2))
    if tensors > MAX_TENSORS or pairs > MAX_PAIRS:
        raise _damaged(path, f"{tensors} tensors and {pairs} keys are more than a header can have")
    return tensors, pairs


def _pairs(data: mmap.mmap, count: int, path: Path) -> Iterator[tuple[str, Any, int, int]]:
    """Key, value, start and stop of each key-value pair."""
    at, limit = _FIRST, min(len(data), MAX_HEADER)
    for _ in range(count):
        start = at
        key, at = _string(data, at, limit, path, "a key", MAX_KEY)
        kind, at = _number(data, at, _U32, limit, path, key)
        value, at = _value(data, at, kind, limit, path, key)
        yield key, value, start, at


def _value(data: mmap.mmap, at: int, kind: int, limit: int, path: Path, key: str) -> tuple[Any, int]:
    if kind == _STRING:
        return _string(data, at, limit, path, key)
    if kind == _ARRAY:
        return _array(data, at, limit, path, key)
    if kind not in _SCALARS:
        raise _damaged(path, f"{key} has the unknown type {kind}")
    value, at = _number(data, at, _SCALARS[kind][0], limit, path, key)
    if kind == _FLOAT32:
        value = float(str(np.float32(value)))  # the shortest number that rounds to it, as JSON files have it
    return value, at


def _array(data: mmap.mmap, at: int, limit: int, path: Path, key: str) -> tuple[ArrayValue, int]:
    kind, at = _number(data, at, _U32, limit, path, key)
    count, at = _number(data, at, _U64, limit, path, key)
    if kind != _STRING and kind not in _SCALARS:
        raise _damaged(path, f"{key} is an array of the type {kind}, which is not known")
    # The shortest text takes the eight bytes of its length.
    width = _U64.size if kind == _STRING else _SCALARS[kind][0].size
    if count > MAX_ELEMENTS or count * width > limit - at:
        raise _damaged(path, f"{key} is an array of {count} elements, which do not fit the header")
    start, length = at, _U64.unpack_from
    if kind != _STRING:
        return ArrayValue(kind, count, start, start + count * width), start + count * width
    try:
        for _ in range(count):
            at += 8 + length(data, at)[0]
    except (struct.error, OverflowError):
        at = limit + 1
    if at > limit:
        raise _damaged(path, f"{key}: a text goes on after the end of the header")
    return ArrayValue(kind, count, start, at), at


def _number(data: mmap.mmap, at: int, form: struct.Struct, limit: int, path: Path, what: str) -> tuple[Any, int]:
    stop = at + form.size
    if stop > limit:
        raise _damaged(path, f"the header ends in the middle of {what}")
    return form.unpack_from(data, at)[0], stop


def _string(
    data: mmap.mmap, at: int, limit: int, path: Path, what: str, max_length: int = MAX_STRING
) -> tuple[str, int]:
    length, at = _number(data, at, _U64, limit, path, what)
    if length > min(max_length, limit - at):
        raise _damaged(path, f"{what} is a text of {length} bytes, which does not fit the header")
    try:
        return data[at : at + length].decode("utf-8"), at + length
    except UnicodeDecodeError as error:
        raise _damaged(path, f"{what} is not UTF-8 at byte {at + error.start}") from None


def _tensors(data: mmap.mmap, at: int, count: int, metadata: Mapping[str, Any], path: Path) -> dict[str, TensorEntry]:
    """The tensors by name, in the order of their data."""
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise _damaged(path, f"general.alignment={alignment!r} is not a power of two")
    limit, found = min(len(data), MAX_HEADER), dict[str, TensorEntry]()
    for _ in range(count):
        name, at = _string(data, at, limit, path, "the name of a tensor", MAX_KEY)
        if name in found:
            raise _damaged(path, f"tensor {name!r} appears twice")
        where = f"tensor {name!r}"
        dimensions, at = _number(data, at, _U32, limit, path, where)
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise _damaged(path, f"{where} has {dimensions} dimensions")
        sides = []
        for _ in range(dimensions):
            side, at = _number(data, at, _U64, limit, path, where)
            sides.append(side)
        kind, at = _number(data, at, _U32, limit, path, where)
        offset, at = _number(data, at, _U64, limit, path, where)
        found[name] = _entry(path, name, tuple(reversed(sides)), kind, offset, alignment)
    base = -(-at // alignment) * alignment
    placed = [
        TensorEntry(entry.name, path, entry.dtype, entry.shape, base + entry.start, entry.nbytes)
        for entry in sorted(found.values(), key=lambda entry: (entry.start, entry.nbytes))
    ]
    end = base
    for entry in placed:
        if entry.start < end:
            raise _damaged(path, f"tensor {entry.name!r} overlaps the tensor before it")
        end = entry.start + entry.nbytes
        if end > len(data):
            raise _damaged(path, f"tensor {entry.name!r} ends at byte {end} of a file of {len(data)} bytes")
    return {entry.name: entry for entry in placed}


def _entry(path: Path, name: str, shape: tuple[int, ...], kind: int, offset: int, alignment: int) -> TensorEntry:
    """One tensor; `start` still counts from the first byte of the data."""
    if kind not in TENSOR_TYPES:
        raise CheckpointError(
            f"{path}: tensor {name!r} has the type {kind}, which is not known here: use a file of another type, e.g. "
            f"Q4_K_M"
        )
    dtype, values, nbytes = TENSOR_TYPES[kind]
    if shape[-1] % values:
        raise _damaged(path, f"tensor {name!r} has rows of {shape[-1]} values, no multiple of {dtype}'s {values}")
    if offset % alignment:
        raise _damaged(path, f"tensor {name!r} lies at {offset}, no multiple of the alignment {alignment}")
    return TensorEntry(name, path, dtype, shape, offset, math.prod(shape) // values * nbytes)
