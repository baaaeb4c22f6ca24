"""Coded weights in one file: written whole or not at all, checked when it is opened, mapped and shared by processes.

Layout: a prefix of 64 bytes (magic, version, length and checksum of the header, length of the file), a header in JSON,
and from the next page on the arrays; each tensor begins on a page, each array at a multiple of 64 bytes. Offsets count
from the first of these pages. Every array and the header have a checksum; only the zeros between arrays have none.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import mmap
import os
import secrets
import shutil
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.native.coding import Coded, coded

if TYPE_CHECKING:
    from pocketvlm._native import Runtime

SUFFIX, TEMPORARY = ".packed", ".tmp"
MAGIC = b"pvlmpack"
VERSION = 1
STALE_SECONDS = 60

_PREFIX = struct.Struct("<8sQQQQ24x")
_PAGE, _LINE = 4096, 64
_MOST_HEADER = 1 << 26
_DTYPES = {
    "codes": "uint8",
    "group_scale": "uint16",
    "group_minimum": "uint16",
    "row_scale": "float32",
    "table": "uint8",
}


class PackedError(Exception):
    """A file that is not what this version wrote; the text says in which way."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself: the checkpoint and plan that it was made from, and where its arrays lie."""

    model: str
    path: str
    weights: str
    tensors: Mapping[str, Mapping[str, Any]]


def read_header(path: Path) -> Header:
    """The header of a file, for a list: no array is looked at. Raises PackedError, or OSError."""
    with path.open("rb") as file:
        prefix = file.read(_PREFIX.size)
        length, _ = _lengths(prefix, os.fstat(file.fileno()).st_size)
        return _parse(file.read(length))


def open_packed(path: Path, runtime: Runtime) -> dict[str, Coded]:
    """All matrices of a file by name, as views of the mapped file. Raises PackedError, or OSError.

    Every array is read once, for its checksum; that also brings the file into memory, in order.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length, checksum = _lengths(file.read(_PREFIX.size), size)
        data = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | _POPULATE, prot=mmap.PROT_READ)
    with contextlib.suppress(AttributeError, OSError):
        data.madvise(mmap.MADV_WILLNEED)
    everything = np.frombuffer(data, np.uint8)
    text = everything[_PREFIX.size : _PREFIX.size + length]
    if runtime.checksum(text) != checksum:
        raise PackedError("the header's checksum differs")
    body = everything[_up(_PREFIX.size + length, _PAGE) :]
    try:
        tensors = _parse(text.tobytes()).tensors
        return {name: _tensor(runtime, name, item, body) for name, item in tensors.items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PackedError(f"the header is not what this version writes ({error})") from None


def write_packed(
    path: Path, runtime: Runtime, tensors: Mapping[str, Coded], model: str, origin: str, weights: str
) -> None:
    """Write a file under a temporary name beside `path`, then put it there in one step.

    Several processes may do this at once: the last one wins. Raises OSError; nothing is left behind then.
    """
    items, place = {}, 0
    for name, tensor in tensors.items():
        place = _up(place, _PAGE)
        arrays = {}
        for part, array in _arrays(tensor).items():
            place = _up(place, _LINE)
            sum_ = f"{runtime.checksum(array.reshape(-1).view(np.uint8)):016x}"
            arrays[part] = {"dtype": _DTYPES[part], "shape": list(array.shape), "offset": place, "checksum": sum_}
            place += array.nbytes
        items[name] = {field: getattr(tensor, field) for field in ("bits", "group", "inputs", "outputs")}
        items[name]["arrays"] = arrays
    text = json.dumps({"model": model, "path": origin, "weights": weights, "tensors": items}).encode()
    begin = _up(_PREFIX.size + len(text), _PAGE)
    prefix = _PREFIX.pack(MAGIC, VERSION, len(text), runtime.checksum(np.frombuffer(text, np.uint8)), begin + place)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    if shutil.disk_usage(path.parent).free < begin + place:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent))
    with _replacing(path) as file:
        _put(file, 0, prefix + text)
        for name, tensor in tensors.items():
            for part, array in _arrays(tensor).items():
                _put(file, begin + items[name]["arrays"][part]["offset"], array.reshape(-1).view(np.uint8).data)


def sweep(directory: Path) -> None:
    """Remove temporary files whose writers are gone: old ones that nobody holds a lock on."""
    for path in directory.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime > STALE_SECONDS:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


# Maps all pages at once where the system can, which is cheaper than one by one on first touch.
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)


def _up(place: int, unit: int) -> int:
    return -(-place // unit) * unit


def _lengths(prefix: bytes, size: int) -> tuple[int, int]:
    """Length and checksum of the header, out of a prefix that fits a file of `size` bytes."""
    if len(prefix) < _PREFIX.size:
        raise PackedError(f"it has only {size} bytes")
    magic, version, length, checksum, whole = _PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise PackedError("it is no file of packed weights")
    if version != VERSION:
        raise PackedError(f"it has version {version}, this is {VERSION}")
    if whole != size:
        raise PackedError(f"it has {size} bytes instead of {whole}")
    if length > min(_MOST_HEADER, size - _PREFIX.size):
        raise PackedError(f"a header of {length} bytes does not fit")
    return length, checksum


def _parse(text: bytes) -> Header:
    try:
        data = json.loads(text)
        header = Header(*(data[name] for name in ("model", "path", "weights", "tensors")))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise PackedError("its header cannot be read") from None
    if not all(isinstance(value, str) for value in (header.model, header.path, header.weights)):
        raise PackedError("its header cannot be read")
    return header


def _arrays(tensor: Coded) -> dict[str, NDArray[Any]]:
    """The arrays of a matrix by name, without those that it does not have."""
    arrays = {part: getattr(tensor, part) for part in _DTYPES}
    return {part: np.ascontiguousarray(array) for part, array in arrays.items() if array is not None}


def _tensor(runtime: Runtime, name: str, item: Mapping[str, Any], body: NDArray[np.uint8]) -> Coded:
    """One matrix over the mapped bytes; whether its arrays fit each other is checked where the handle is made."""
    arrays: dict[str, NDArray[Any] | None] = dict.fromkeys(_DTYPES)
    for part, where in item["arrays"].items():
        if where["dtype"] != _DTYPES[part]:
            raise PackedError(f"{part} of {name} has dtype {where['dtype']}")
        dtype, shape, start = np.dtype(_DTYPES[part]), where["shape"], where["offset"]
        stop = start + math.prod(shape) * dtype.itemsize
        if start < 0 or start % _LINE or stop > len(body):
            raise PackedError(f"{part} of {name} lies outside of the file")
        data = body[start:stop]
        if runtime.checksum(data) != int(where["checksum"], 16):
            raise PackedError(f"the checksum of {name} differs")
        arrays[part] = data.view(dtype).reshape(shape)
    return coded(runtime, item["bits"], item["group"], item["inputs"], item["outputs"], **arrays)  # type: ignore[arg-type]


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well, and is gone otherwise."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _put(file: BinaryIO, place: int, data: bytes | memoryview) -> None:
    """Write all of data at an offset."""
    file.seek(place)
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
