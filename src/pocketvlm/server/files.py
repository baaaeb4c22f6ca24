"""Uploaded files are stored for some hours under ids that cannot be guessed."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pocketvlm.interfaces.errors import ApiError
from pocketvlm.server.settings import Settings


@dataclass(frozen=True, slots=True)
class Stored:
    """One file. owner: which key it was uploaded with; files of other keys do not exist for a request."""

    id: str
    name: str
    purpose: str
    size: int
    created: float
    owner: int

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": int(self.created),
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


class FileStore:
    """Files of clients. Methods are quick except `add` and `read`, which belong in a thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._files: dict[str, Stored] = {}
        self._directory: Path | None = None
        self._lock = threading.Lock()  # one copy at a time, so that the limits hold

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self._files.values())

    def add(self, stream: BinaryIO, name: str, purpose: str, owner: int) -> Stored:
        """Keep a copy of a stream. Raises ApiError 413 where it is too large, 429 where the store is full."""
        with self._lock:
            return self._add(stream, name, purpose, owner)

    def _add(self, stream: BinaryIO, name: str, purpose: str, owner: int) -> Stored:
        self.expire()
        if len(self._files) >= self._settings.max_files:
            raise ApiError(429, f"{len(self._files)} files are stored, which is the limit: delete some", code="files")
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="pocketvlm-files-"))
        file_id = f"file-{secrets.token_hex(16)}"
        path, size = self._directory / file_id, 0
        limit = min(self._settings.max_media_bytes, self._settings.max_files_bytes - self.size)
        try:
            with path.open("xb") as copy:
                while chunk := stream.read(1 << 20):
                    size += len(chunk)
                    if size > limit:
                        raise ApiError(413, f"the file is larger than the {max(limit, 0)} bytes that are left for one")
                    copy.write(chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if size == 0:
            path.unlink(missing_ok=True)
            raise ApiError(400, "the file is empty", param="file")
        stored = Stored(file_id, name[:200], purpose, size, time.time(), owner)
        self._files[file_id] = stored
        return stored

    def all(self, owner: int) -> list[Stored]:
        """Files of one owner, oldest first."""
        self.expire()
        return [file for file in list(self._files.values()) if file.owner == owner]

    def get(self, file_id: str, owner: int) -> Stored:
        """One file. Raises ApiError 404."""
        self.expire()
        file = self._files.get(file_id)
        if file is None or file.owner != owner:
            raise ApiError(404, f"no file with the id {file_id[:80]!r}", param="file_id", code="file_not_found")
        return file

    def read(self, file_id: str, owner: int) -> bytes:
        """Content of a file. Raises ApiError 404."""
        return self.path(file_id, owner).read_bytes()

    def path(self, file_id: str, owner: int) -> Path:
        """Where the content of a file is. Raises ApiError 404."""
        return self._path(self.get(file_id, owner))

    def delete(self, file_id: str, owner: int) -> None:
        """Forget a file. Raises ApiError 404."""
        self._drop(self.get(file_id, owner))

    def expire(self) -> None:
        """Forget what is too old."""
        oldest = time.time() - self._settings.file_seconds
        for file in [file for file in list(self._files.values()) if file.created < oldest]:
            self._drop(file)

    def close(self) -> None:
        """Delete everything."""
        self._files.clear()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _drop(self, file: Stored) -> None:
        self._files.pop(file.id, None)
        self._path(file).unlink(missing_ok=True)

    def _path(self, file: Stored) -> Path:
        assert self._directory is not None
        return self._directory / file.id
