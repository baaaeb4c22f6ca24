"""Packed files hold arrays for the next start: written atomically, checked when opened, mapped and shared.

Layout: a prefix of 64 bytes (magic, version, length and checksum of the header, length of the file, checksum of what
comes behind the header), a header in JSON, and from the next page on the arrays; each item begins on a page, each array
at a multiple of 64 bytes. Offsets count from the first of these pages.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import mmap
import os
import shutil
import struct
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pocketvlm.atomic import TEMPORARY, replacing, write_all
from pocketvlm.errors import CacheWarning

SUFFIX = ".packed"
MAGIC = b"pvlmpack"
VERSION = 2
STALE_SECONDS = 60

Checksum = Callable[[memoryview], int]
T = TypeVar("T")

_PREFIX = struct.Struct("<8sQQQQQ16x")
_PAGE, _LINE = 4096, 64
_MAX_HEADER = 1 << 26
# Written at once, so that the system keeps the file in large pages: mapping those takes no time, small ones as long as
# the checksum.
_BLOCK = 1 << 22
_FORMATS = {"int8": "b", "uint8": "B", "uint16": "H", "int32": "i", "uint32": "I", "uint64": "Q", "float32": "f"}


class PackedError(Exception):
    """A file that is not what this version wrote; the text says in which way."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself: the checkpoint that it was made from, what it holds, and where its arrays lie.

    kind: the type of the weights in it, or "tokenizer".
    """

    model: str
    path: str
    kind: str
    index: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Item:
    """Some arrays that belong together, as flat or shaped views, and what else is to be known of them, in JSON."""

    fields: Mapping[str, Any]
    arrays: Mapping[str, memoryview]


def read_header(path: Path) -> Header:
    """The header of a file, for a list: no array is looked at. Raises PackedError, or OSError."""
    with path.open("rb") as file:
        prefix = _Prefix.of(file.read(_PREFIX.size), os.fstat(file.fileno()).st_size)
        return _parse(file.read(prefix.header))


def open_items(path: Path, checksum: Checksum) -> dict[str, Item]:
    """All items of a file by name, their arrays as read-only views of the mapped file. Raises PackedError, or OSError.

    Everything is read once, for the checksum; that also brings the file into memory, in order.
    """
    with path.open("rb") as file:
        prefix = _Prefix.of(file.read(_PREFIX.size), os.fstat(file.fileno()).st_size)
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    with contextlib.suppress(AttributeError, OSError):
        mapped.madvise(mmap.MADV_HUGEPAGE)  # what is not in memory yet is read in large pages too
    data = memoryview(mapped)
    text, body = data[_PREFIX.size :][: prefix.header], data[prefix.begin :]
    if checksum(text) != prefix.header_sum:
        raise PackedError("the header's checksum differs")
    if checksum(body) != prefix.body_sum:
        raise PackedError("its checksum differs")
    try:
        return {name: _item(name, item, body) for name, item in _parse(text.tobytes()).index.items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PackedError(f"the header is not what this version writes ({error})") from None


def write_items(path: Path, checksum: Checksum, items: Mapping[str, Item], model: str, origin: str, kind: str) -> None:
    """Write a file under a temporary name beside `path`, then put it there in one step.

    Several processes may do this at once: the last one wins. Raises OSError; nothing is left behind then.
    """
    header: dict[str, dict[str, Any]] = {}
    chunks, place = [], 0
    for name, item in items.items():
        place = round_up(place, _PAGE)
        header[name] = {**item.fields, "arrays": {}}
        for part, array in item.arrays.items():
            place = round_up(place, _LINE)
            form = array.format.replace("L", "Q")
            dtype = next(dtype for dtype, known in _FORMATS.items() if known == form)
            header[name]["arrays"][part] = {"dtype": dtype, "shape": list(array.shape or ()), "offset": place}
            chunks.append((place, array.cast("B")))
            place += array.nbytes
    text = json.dumps({"model": model, "path": origin, "kind": kind, "items": header}).encode()
    begin = round_up(_PREFIX.size + len(text), _PAGE)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    if shutil.disk_usage(path.parent).free < begin + place:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent))
    with replacing(path) as file:
        placed = [(_PREFIX.size, memoryview(text)), *((begin + start, data) for start, data in chunks)]
        for block in _blocks(placed, begin + place):
            write_all(file, block)
        # Of the file as it was written, so that the zeros between arrays are in it.
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as whole, memoryview(whole)[begin:] as body:
            sums = checksum(memoryview(text)), checksum(body)
        file.seek(0)
        write_all(file, _PREFIX.pack(MAGIC, VERSION, len(text), sums[0], begin + place, sums[1]))


def opened(path: Path, read: Callable[[], T]) -> T | None:
    """What `read` makes of a file, or None where there is none to use; a CacheWarning says what is wrong with it."""
    try:
        found = read()
    except FileNotFoundError:
        return None
    except (PackedError, OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        warnings.warn(f"{path} is not used and made again: {reason}", CacheWarning, stacklevel=3)
        return None
    with contextlib.suppress(OSError):  # `pocketvlm cache list` says when a file was last used
        os.utime(path)
    return found


def written(path: Path, what: str, write: Callable[[], None]) -> str:
    """Let `write` write a file; says what became of it. That it cannot be written is a CacheWarning."""
    try:
        write()
    except OSError as error:
        reason = f"{error.strerror or error}: {path.parent}"
        warnings.warn(
            f"the packed {what} cannot be cached and will be made again ({reason}): "
            f"set POCKETVLM_CACHE to another directory, or load without cache",
            CacheWarning,
            stacklevel=3,
        )
        return f"not cached ({reason})"
    return f"cached in {path}"


def sweep(directory: Path) -> None:
    """Remove temporary files whose writers are gone: old ones that nobody holds a lock on."""
    for path in directory.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime > STALE_SECONDS:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def round_up(count: int, unit: int) -> int:
    """The least multiple of `unit` that is not below `count`."""
    return -(-count // unit) * unit


@dataclass(frozen=True, slots=True)
class _Prefix:
    """The first bytes of a file, of a size that it has: lengths of header and file, and checksums."""

    header: int
    header_sum: int
    body_sum: int

    @classmethod
    def of(cls, data: bytes, size: int) -> _Prefix:
        """Raises PackedError for those of another file."""
        if len(data) < _PREFIX.size:
            raise PackedError(f"it has only {size} bytes")
        magic, version, header, header_sum, whole, body_sum = _PREFIX.unpack(data)
        if magic != MAGIC:
            raise PackedError("it is no packed file")
        if version != VERSION:
            raise PackedError(f"it has version {version}, this is {VERSION}")
        if whole != size:
            raise PackedError(f"it has {size} bytes instead of {whole}")
        if header > min(_MAX_HEADER, size - _PREFIX.size):
            raise PackedError(f"a header of {header} bytes does not fit")
        return cls(header, header_sum, body_sum)

    @property
    def begin(self) -> int:
        """Where the arrays begin."""
        return round_up(_PREFIX.size + self.header, _PAGE)


def _parse(text: bytes) -> Header:
    try:
        data = json.loads(text)
        header = Header(*(data[name] for name in ("model", "path", "kind", "items")))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise PackedError("its header cannot be read") from None
    if not all(isinstance(value, str) for value in (header.model, header.path, header.kind)):
        raise PackedError("its header cannot be read")
    return header


def _item(name: str, item: Mapping[str, Any], body: memoryview) -> Item:
    """One item over the mapped bytes; the reader of the item checks whether its arrays fit each other."""
    arrays: dict[str, memoryview] = {}
    for part, where in item["arrays"].items():
        dtype, shape, start = where["dtype"], where["shape"], where["offset"]
        if dtype not in _FORMATS:
            raise PackedError(f"{part} of {name} has dtype {dtype}")
        stop = start + math.prod(shape) * struct.calcsize(_FORMATS[dtype])
        if start < 0 or start % _LINE or stop > len(body):
            raise PackedError(f"{part} of {name} lies outside of the file")
        cast: Any = body[start:stop].cast
        arrays[part] = cast(_FORMATS[dtype]) if len(shape) == 1 else cast(_FORMATS[dtype], shape)
    return Item({field: value for field, value in item.items() if field != "arrays"}, arrays)


def _blocks(placed: Iterable[tuple[int, memoryview]], size: int) -> Iterator[bytearray]:
    """The content of a file in blocks of _BLOCK bytes, out of pieces in the order of their places."""
    block, end = bytearray(), 0
    for place, data in (*placed, (size, memoryview(b""))):
        block += bytes(place - end)
        end = place + len(data)
        for start in range(0, len(data), _BLOCK):
            block += data[start : start + _BLOCK]
            if len(block) >= _BLOCK:
                yield block[:_BLOCK]
                del block[:_BLOCK]
    yield block
