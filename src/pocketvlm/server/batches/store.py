"""The batches in the index, and the files of each while it runs: its input, its journal, and Anthropic's results."""

from __future__ import annotations

import json
from pathlib import Path

from pocketvlm.interfaces.errors import ApiError
from pocketvlm.server.batches.batch import Batch, Kind
from pocketvlm.server.database import Database


class BatchStore:
    """Reads and writes batches. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._directory = database.directory / "batches"

    def input(self, batch: Batch) -> Path:
        """The lines of a batch, until it ends."""
        return self._directory / f"{batch.id}.input"

    def journal(self, batch: Batch) -> Path:
        """The finished lines of a batch, until it ends."""
        return self._directory / f"{batch.id}.journal"

    def results(self, batch: Batch) -> Path:
        """The results of one of Anthropic's batches, once it has ended."""
        return self._directory / f"{batch.id}.results"

    def add(self, batch: Batch) -> None:
        """A new batch."""
        self._database.execute(
            "INSERT INTO batches (id, kind, owner, active, value) VALUES (?, ?, ?, ?, ?)",
            *(batch.id, batch.kind, batch.owner, batch.active, batch.to_json()),
        )

    def update(self, batch: Batch) -> None:
        """What has changed."""
        self._database.execute(
            "UPDATE batches SET active = ?, value = ? WHERE id = ?", batch.active, batch.to_json(), batch.id
        )

    def remove(self, batch: Batch) -> None:
        """Forget a batch and its files."""
        self._database.execute("DELETE FROM batches WHERE id = ?", batch.id)
        for path in (self.input(batch), self.journal(batch), self.results(batch)):
            path.unlink(missing_ok=True)

    def get(self, batch_id: str, kind: Kind, owner: str) -> Batch:
        """One batch. Raises ApiError 404."""
        query = "SELECT value FROM batches WHERE id = ? AND kind = ? AND owner = ?"
        rows = self._database.rows(query, batch_id, kind, owner)
        if not rows:
            raise ApiError(404, f"no batch with the id {batch_id[:80]!r}", param="batch_id", code="batch_not_found")
        return _read(rows[0][0])

    def all(self, kind: Kind, owner: str) -> list[Batch]:
        """Batches of one owner, newest first."""
        query = "SELECT value FROM batches WHERE kind = ? AND owner = ? ORDER BY rowid DESC"
        return [_read(value) for (value,) in self._database.rows(query, kind, owner)]

    def active(self) -> list[Batch]:
        """Batches with something to do, oldest first."""
        rows = self._database.rows("SELECT value FROM batches WHERE active = 1 ORDER BY rowid")
        return [_read(value) for (value,) in rows]

    def clean(self) -> None:
        """Remove what a killed server left: files of batches that have ended or were never added."""
        active = {batch.id for batch in self.active()}
        known = {batch_id for (batch_id,) in self._database.rows("SELECT id FROM batches")}
        for path in self._directory.iterdir():
            wanted = known if path.suffix == ".results" else active
            if path.stem not in wanted:
                path.unlink()


def _read(value: str) -> Batch:
    return Batch(**json.loads(value))
