"""Vision features are cached on disk, one checked file a view, with a limit in bytes.

Layout: magic, rows and columns, a checksum over name and content, then float32 values, little-endian.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketvlm.atomic import TEMPORARY, replacing, write_all
from pocketvlm.errors import CacheWarning, OptionError
from pocketvlm.lru import LRU

SUFFIX = ".features"
STALE_SECONDS = 60
DEFAULT_LIMIT = 4 << 30
_HEADER = struct.Struct("<8sII16s")
_MAGIC = b"pvlmfea1"


class FeatureFiles:
    """A directory of features, perhaps of several processes. A bad file costs time, never an answer."""

    def __init__(self, directory: Path, owner: str, limit: int = DEFAULT_LIMIT) -> None:
        """owner: what features depend on besides the view: checkpoint, weights, arithmetic. limit: bytes of all files.

        Raises OptionError where the directory cannot be made or listed.
        """
        self.directory, self.limit = directory, limit
        self._owner = owner
        self._warned = False
        self._sizes: LRU[str, int] = LRU(limit, int)  # by file name
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._list()
        except OSError as error:
            raise OptionError(
                f"{directory} cannot hold features of images ({error.strerror or error}): give another directory"
            ) from None

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return self._sizes.total

    def read(self, name: str, rows: int, columns: int) -> NDArray[np.float32] | None:
        """Features float32 [rows, columns]; None where there are none. A damaged file is removed."""
        path = self._path(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            self._sizes.pop(path.name)
            return None
        except OSError as error:
            self._warn(error)
            return None
        body = data[_HEADER.size :]
        if data[: _HEADER.size] != self._header(path.name, rows, columns, body) or len(body) != rows * columns * 4:
            self._remove(path.name)
            return None
        self._put(path.name, len(data))
        with contextlib.suppress(OSError):  # the next process evicts the least recently used
            os.utime(path)
        return np.frombuffer(body, "<f4").astype(np.float32).reshape(rows, columns)

    def write(self, name: str, features: NDArray[np.float32]) -> None:
        """Save features float32 [rows, columns]. May evict older files."""
        path = self._path(name)
        body = features.astype("<f4").tobytes()
        data = self._header(path.name, len(features), features.shape[1], body) + body
        if len(data) > self.limit:
            return
        try:
            with replacing(path, durable=False) as file:
                write_all(file, data)
        except OSError as error:
            self._warn(error)
            return
        self._put(path.name, len(data))

    def _path(self, name: str) -> Path:
        key = hashlib.blake2b(f"{self._owner}\n{name}".encode(), digest_size=20)
        return self.directory / f"{key.hexdigest()}{SUFFIX}"

    def _header(self, file_name: str, rows: int, columns: int, body: bytes) -> bytes:
        digest = hashlib.blake2b(f"{file_name} {rows} {columns}\n".encode(), digest_size=16)
        digest.update(body)
        return _HEADER.pack(_MAGIC, rows, columns, digest.digest())

    def _list(self) -> None:
        found = []
        for entry in os.scandir(self.directory):
            with contextlib.suppress(FileNotFoundError):
                state = entry.stat()
                if entry.name.endswith(SUFFIX):
                    found.append((state.st_mtime_ns, entry.name, state.st_size))
                elif entry.name.endswith(TEMPORARY) and time.time() - state.st_mtime > STALE_SECONDS:
                    Path(entry.path).unlink()  # its writer was killed
        for _, name, size in sorted(found):
            self._put(name, size)

    def _put(self, file_name: str, size: int) -> None:
        for name, _ in self._sizes.put(file_name, size):
            self._remove(name)

    def _remove(self, file_name: str) -> None:
        self._sizes.pop(file_name)
        try:
            (self.directory / file_name).unlink(missing_ok=True)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            text = f"features of images are not saved in {self.directory} ({error.strerror or error})"
            warnings.warn(text, CacheWarning, stacklevel=3)
