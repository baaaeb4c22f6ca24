"""The index of files and batches: SQLite in the data directory, which one server at a time may use."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pocketvlm.errors import OptionError

_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, purpose TEXT NOT NULL, size INTEGER NOT NULL, created REAL NOT NULL,
    expires REAL NOT NULL, owner TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, owner TEXT NOT NULL, active INTEGER NOT NULL, value TEXT NOT NULL);
"""


class Database:
    """Rows of files and batches. Safe to use from several threads; each transaction is on the disk when it ends."""

    def __init__(self, directory: str) -> None:
        """directory: of the data; "" makes a temporary one, which `close` removes. Raises OptionError."""
        self.persists = bool(directory)
        self._temporary = None if directory else tempfile.TemporaryDirectory(prefix="pocketvlm-files-")
        self.directory = Path(self._temporary.name if self._temporary else directory).expanduser().absolute()
        self._lock = threading.RLock()
        try:
            for name in ("files", "batches"):
                (self.directory / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._held = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._connection = sqlite3.connect(
                self.directory / "index.sqlite", check_same_thread=False, isolation_level=None
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_TABLES)
        except BlockingIOError:
            raise OptionError(f"--data-dir={directory}: another server uses it: give each its own") from None
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise OptionError(f"--data-dir={directory}: cannot be used: {reason}") from None

    def close(self) -> None:
        """Close the index; without a data directory everything is removed."""
        with self._lock:
            self._connection.close()
            os.close(self._held)
        if self._temporary is not None:
            self._temporary.cleanup()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A block whose changes are made together or not at all."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def rows(self, query: str, *values: Any) -> Sequence[tuple[Any, ...]]:
        """The rows of a query."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def execute(self, statement: str, *values: Any) -> None:
        """One change."""
        with self._lock:
            self._connection.execute(statement, values)
