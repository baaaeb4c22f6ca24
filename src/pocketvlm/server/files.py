"""Uploaded files are stored for some time under ids that cannot be guessed."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pocketvlm.interfaces.errors import ApiError
from pocketvlm.server.database import Database
from pocketvlm.server.settings import Settings

BATCH, BATCH_OUTPUT = "batch", "batch_output"
_COLUMNS = "id, name, purpose, size, created, expires, owner"


@dataclass(frozen=True, slots=True)
class Stored:
    """One file. owner: digest of the key it was uploaded with; files of other keys do not exist for a request."""

    id: str
    name: str
    purpose: str
    size: int
    created: float
    expires: float
    owner: str

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": int(self.created),
            "expires_at": int(self.expires),
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


def owner_of(settings: Settings, number: int) -> str:
    """What files and batches of a key are marked with: its digest, so that the order of keys may change. "" without."""
    return hashlib.sha256(settings.api_keys[number - 1].encode()).hexdigest()[:32] if number else ""


class FileStore:
    """Files of clients. Methods are quick except `add`, `make` and `read`, which belong in a thread.

    owner: the number of a key, from 1, or what `owner_of` makes of it.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        self._directory = database.directory / "files"
        self._lock = threading.Lock()  # one copy at a time, so that the limits hold
        known = {file_id for (file_id,) in database.rows("SELECT id FROM files")}
        for path in self._directory.iterdir():  # what a killed server was writing
            if path.name not in known:
                path.unlink()

    @property
    def size(self) -> int:
        """Bytes of all files but those of batches."""
        return self._total("NOT IN")

    def add(self, stream: BinaryIO, name: str, purpose: str, owner: int | str) -> Stored:
        """Keep a copy of a stream. Raises ApiError 413 where it is too large, 429 where the store is full."""
        settings = self._settings
        if purpose == BATCH and not self._database.persists:
            raise ApiError(501, "batches need a directory: start the server with --data-dir DIR", param="purpose")
        if purpose == BATCH_OUTPUT:
            raise ApiError(400, "purpose 'batch_output' is for files that the server writes", param="purpose")
        with self._lock:
            self.expire()
            if purpose == BATCH:
                limit = min(settings.max_batch_bytes, settings.max_batches_bytes - self._total("IN"))
            else:
                count = self._database.rows(f"SELECT COUNT(*) FROM files WHERE purpose NOT IN {_BATCHES}")[0][0]
                if count >= settings.max_files:
                    raise ApiError(429, f"{count} files are stored, which is the limit: delete some", code="files")
                limit = min(settings.max_media_bytes, settings.max_files_bytes - self.size)

            def copy(file: BinaryIO) -> None:
                size = 0
                while chunk := stream.read(1 << 20):
                    size += len(chunk)
                    if size > limit:
                        raise ApiError(413, f"the file is larger than the {max(limit, 0)} bytes that are left for one")
                    file.write(chunk)
                if size == 0:
                    raise ApiError(400, "the file is empty", param="file")

            return self.make(copy, name, purpose, owner)

    def make(
        self,
        write: Callable[[BinaryIO], None],
        name: str,
        purpose: str,
        owner: int | str,
        seconds: float | None = None,
    ) -> Stored:
        """A file whose content `write` writes. seconds: its lifetime; None: that of its purpose. Raises OSError."""
        settings, now = self._settings, time.time()
        path = self._directory / f"file-{secrets.token_hex(16)}"
        try:
            with path.open("xb") as file:
                write(file)
                file.flush()
                if self._database.persists:
                    os.fsync(file.fileno())
            usual = settings.batch_file_seconds if purpose in (BATCH, BATCH_OUTPUT) else settings.file_seconds
            expires = now + (usual if seconds is None else seconds)
            stored = Stored(path.name, name[:200], purpose, path.stat().st_size, now, expires, self._owner(owner))
            self._database.execute(
                f"INSERT INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                *(getattr(stored, column) for column in _COLUMNS.split(", ")),
            )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return stored

    def all(self, owner: int | str) -> list[Stored]:
        """Files of one owner, oldest first."""
        self.expire()
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM files WHERE owner = ? ORDER BY rowid", self._owner(owner))
        return [Stored(*row) for row in rows]

    def get(self, file_id: str, owner: int | str) -> Stored:
        """One file. Raises ApiError 404."""
        self.expire()
        query = f"SELECT {_COLUMNS} FROM files WHERE id = ? AND owner = ?"
        rows = self._database.rows(query, file_id, self._owner(owner))
        if not rows:
            raise ApiError(404, f"no file with the id {file_id[:80]!r}", param="file_id", code="file_not_found")
        return Stored(*rows[0])

    def read(self, file_id: str, owner: int | str) -> bytes:
        """Content of a file. Raises ApiError 404."""
        return self.path(file_id, owner).read_bytes()

    def path(self, file_id: str, owner: int | str) -> Path:
        """Where the content of a file is. Raises ApiError 404."""
        return self._directory / self.get(file_id, owner).id

    def delete(self, file_id: str, owner: int | str) -> None:
        """Forget a file. Raises ApiError 404."""
        self._drop(self.get(file_id, owner).id)

    def expire(self) -> None:
        """Forget what is too old."""
        for (file_id,) in self._database.rows("SELECT id FROM files WHERE expires < ?", time.time()):
            self._drop(file_id)

    def _drop(self, file_id: str) -> None:
        self._database.execute("DELETE FROM files WHERE id = ?", file_id)
        (self._directory / file_id).unlink(missing_ok=True)

    def _owner(self, owner: int | str) -> str:
        return owner if isinstance(owner, str) else owner_of(self._settings, owner)

    def _total(self, which: str) -> int:
        return int(self._database.rows(f"SELECT SUM(size) FROM files WHERE purpose {which} {_BATCHES}")[0][0] or 0)


_BATCHES = f"('{BATCH}', '{BATCH_OUTPUT}')"
