"""The safetensors format: reads headers without touching the data, maps tensors as NumPy views, and writes files.

The `safetensors` library cannot hand out bfloat16 without PyTorch, and copies; the format is eight bytes of length, a
JSON header and the data, so it is read here. The library's validation rules apply: contiguous data, exact sizes.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from pocketvlm.atomic import replacing, write_all
from pocketvlm.checkpoint.files import INDEX_FILE, SINGLE_FILE, find_files, weight_map
from pocketvlm.checkpoint.jsonfile import parse_object
from pocketvlm.errors import CheckpointError, TensorError
from pocketvlm.tensors import DenseTensor, StoredDtype

MAX_HEADER = 100_000_000
_MAX_DIMENSION = 2**48
_LENGTH_BYTES = 8
_ALIGNMENT = 8  # of the data in files that are written

_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
}
_STORED: dict[str, StoredDtype] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_WRITTEN = {stored: dtype for dtype, stored in _STORED.items()}
_NUMPY: dict[StoredDtype, str] = {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}
# How `map_arrays` shows each dtype; floats that NumPy lacks are shown as their bits.
_RAW = {
    **dict.fromkeys(("BOOL", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), "u1"),
    **{"I8": "i1", "F16": "<f2", "BF16": "<u2", "I16": "<i2", "U16": "<u2"},
    **{"F32": "<f4", "I32": "<i4", "U32": "<u4", "F64": "<f8", "I64": "<i8", "U64": "<u8"},
}
SUPPORTED = frozenset(_STORED)
# The files that are mapped now. A map lives as long as a view of it, also one that a lazy array holds.
_MAPPED: WeakKeyDictionary[mmap.mmap, Path] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """The location of one tensor: name and dtype as in the file, shape, and bytes [start, start + nbytes)."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int

    @property
    def parameters(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class FileArray:
    """An array that will be written: the dtype as files name it, the shape, and what makes its values.

    `read` gives bfloat16 as its bits in uint16, 8-bit floats as theirs in uint8.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * _BITS[self.dtype] // 8


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one file by name, in file order; reads only the header.

    Raises CheckpointError, naming file and tensor, for anything but a well-formed safetensors file whose tensors cover
    its data without gap or overlap.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_LENGTH_BYTES)
            length = int.from_bytes(head, "little")
            if head == b"version ":
                raise CheckpointError(
                    f"{path}: is a Git LFS pointer, not the weights: run `git lfs pull` there, or `pocketvlm pull`"
                )
            if len(head) < _LENGTH_BYTES or length < 2:
                raise CheckpointError(f"{path}: {size} bytes are not a safetensors file: download or copy it again")
            if length > min(MAX_HEADER, size - _LENGTH_BYTES):
                raise CheckpointError(
                    f"{path}: a header of {length} bytes does not fit a file of {size} bytes: the file was cut off or "
                    f"is not a safetensors file: download or copy it again"
                )
            header = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path}: header byte {error.start} is not UTF-8: the file is damaged: download or copy it again"
        ) from None
    if not text.startswith("{"):
        raise CheckpointError(f"{path}: the header is not a JSON object: download or copy the file again")
    data = parse_object(text, f"{path}: header")
    metadata = data.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: header: __metadata__ is not an object of strings")
    base = _LENGTH_BYTES + length
    entries = [_entry(path, name, item, base) for name, item in data.items()]
    entries.sort(key=lambda entry: (entry.start, entry.nbytes))
    _check_cover(path, entries, base, size)
    return {entry.name: entry for entry in entries}


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _entry(path: Path, name: str, item: Any, base: int) -> TensorEntry:
    """One header item, checked by itself."""

    def fail(what: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {name!r}: {what}: the file is damaged: download or copy it again")

    if not isinstance(item, dict) or not {"dtype", "shape", "data_offsets"} <= set(item):
        raise fail("its header item lacks dtype, shape or data_offsets")
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise fail(f"unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not all(_is_size(side) and side < _MAX_DIMENSION for side in shape):
        raise fail(f"shape {shape!r} is not a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise fail(f"data_offsets {offsets!r} are not two offsets")
    start, stop = offsets
    bits = math.prod(shape) * _BITS[dtype]
    if stop < start or bits != 8 * (stop - start):
        raise fail(f"{dtype} of shape {shape} needs {bits / 8:.10g} bytes, data_offsets {offsets} give {stop - start}")
    return TensorEntry(name, path, dtype, tuple(shape), base + start, stop - start)


def _check_cover(path: Path, entries: list[TensorEntry], base: int, size: int) -> None:
    """Refuse gaps and overlaps, and a file longer or shorter than its tensors."""
    place = base
    for entry in entries:
        if entry.start != place:
            what = "overlaps the tensor before it" if entry.start < place else "leaves a gap before it"
            raise CheckpointError(
                f"{path}: tensor {entry.name!r} {what} (byte {entry.start - base} of the data, expected "
                f"{place - base}): the file is damaged: download or copy it again"
            )
        place += entry.nbytes
        if place > size:
            raise CheckpointError(
                f"{path}: tensor {entry.name!r} ends at byte {place} of a file of {size} bytes: the file was cut off: "
                f"download or copy it again"
            )
    if place != size:
        raise CheckpointError(
            f"{path}: {size - place} bytes follow the last tensor: the file is damaged: download or copy it again"
        )


def read_entries(directory: Path) -> dict[str, TensorEntry]:
    """All tensors of a checkpoint directory by their name in the files.

    Raises CheckpointError if a file is damaged, if two shards hold the same tensor, or if a shard lacks a tensor that
    the index promises.
    """
    files = find_files(directory)
    entries: dict[str, TensorEntry] = {}
    for file in files:
        for name, entry in read_header(file).items():
            if name in entries:
                raise CheckpointError(
                    f"{directory}: tensor {name!r} is in {entries[name].file.name} and in {file.name}: keep one of them"
                )
            entries[name] = entry
    if files[0].name != SINGLE_FILE:
        index = directory / INDEX_FILE
        for name, shard in weight_map(index).items():
            if name not in entries or entries[name].file.name != shard:
                place = f"it is in {entries[name].file.name}" if name in entries else "no shard has it"
                raise CheckpointError(
                    f"{index}: tensor {name!r} is not in {shard} as listed ({place}): the files do not belong "
                    f"together, download them again"
                )
    return entries


def map_tensors(entries: Iterable[TensorEntry], sparse: bool = False) -> list[DenseTensor]:
    """Read-only views of the tensors, in the order given; float32, float16, or bfloat16 as uint16 bits.

    The files are memory-mapped and stay mapped while a view lives. Views may be misaligned, since MLX does not pad its
    headers: NumPy computes with them, other code needs `np.require` with "A". The entries' dtypes must be in SUPPORTED.
    sparse: only scattered rows will be read, so avoid large pages, in which each row would make 2 MB resident.
    """
    arrays = map_arrays(entries := list(entries), sparse)
    return [
        DenseTensor(entry.name, _STORED[entry.dtype], array, str(entry.file))
        for entry, array in zip(entries, arrays, strict=True)
    ]


def map_arrays(entries: Iterable[TensorEntry], sparse: bool = False) -> list[NDArray[Any]]:
    """Read-only views of the arrays as stored, in the order given, whatever they mean; see `map_tensors`.

    bfloat16 comes as its bits in uint16, 8-bit floats as theirs in uint8. Raises CheckpointError for a dtype that no
    format uses.
    """
    maps: dict[Path, mmap.mmap] = {}
    return [_view(entry, _map(entry.file, maps, sparse)) for entry in entries]


def write_tensors(path: Path, tensors: Mapping[str, DenseTensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors under their keys to one file, whole or not at all; a lazy one is read when it is written.

    metadata: texts for the header. Raises CheckpointError where the file cannot be written.
    """
    write_arrays(path, {name: dense_array(tensor) for name, tensor in tensors.items()}, metadata)


def dense_array(tensor: DenseTensor) -> FileArray:
    """A dense tensor as an array of a file."""
    return FileArray(_WRITTEN[tensor.dtype], tensor.shape, lambda: tensor.data)


def write_arrays(
    path: Path,
    arrays: Mapping[str, FileArray],
    metadata: Mapping[str, str] | None = None,
    written: Callable[[int], None] | None = None,
) -> None:
    """Write arrays under their keys to one file, whole or not at all; each is read when it is written.

    metadata: texts for the header. written: called with the bytes of each array after it was written. Raises
    CheckpointError where the file cannot be written, and TensorError for an array that is not as announced.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    try:
        with replacing(path) as file:
            write_all(file, len(text).to_bytes(_LENGTH_BYTES, "little") + text)
            for name, array in arrays.items():
                values = array.read()
                if values.shape != array.shape or values.dtype.itemsize != np.dtype(_RAW[array.dtype]).itemsize:
                    found = f"{values.dtype} {list(values.shape)}"
                    raise TensorError(
                        f"{name}: an array of {found} was read where {array.dtype} {list(array.shape)} was announced: "
                        f"the file changed while it was read, load it again"
                    )
                stored = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
                write_all(file, stored.reshape(-1).view(np.uint8).data)
                if written is not None:
                    written(array.nbytes)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from None


def leave(files: Iterable[Path]) -> None:
    """Drop the resident pages of mapped files; a later read loads them again."""
    left = set(files)
    for mapped, path in list(_MAPPED.items()):
        if path in left:
            with contextlib.suppress(AttributeError, OSError):
                mapped.madvise(mmap.MADV_DONTNEED)


def _map(path: Path, maps: dict[Path, mmap.mmap], sparse: bool) -> mmap.mmap:
    if path not in maps:
        try:
            with path.open("rb") as file:
                maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be mapped into memory: {error}") from None
        _MAPPED[maps[path]] = path
        if sparse:
            with contextlib.suppress(AttributeError, OSError):
                maps[path].madvise(mmap.MADV_NOHUGEPAGE)
    return maps[path]


def _view(entry: TensorEntry, data: mmap.mmap) -> NDArray[Any]:
    if entry.dtype not in _RAW:
        raise CheckpointError(f"{entry.file}: tensor {entry.name!r} has dtype {entry.dtype}, which no format here uses")
    dtype = np.dtype(_RAW[entry.dtype])
    if entry.start + entry.nbytes > len(data):
        raise CheckpointError(f"{entry.file}: the file became shorter while it was read: load it again")
    count = entry.nbytes // dtype.itemsize
    array: NDArray[Any] = np.frombuffer(data, dtype, count, entry.start) if count else np.empty(0, dtype)
    array = array.reshape(entry.shape)
    array.setflags(write=False)
    return array
