"""The journal of a job holds the output lines in the order in which they were finished, through any interruption."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pocketvlm.errors import OptionError, PocketVLMError

# Seconds of work that a power failure may cost; a process that is killed loses nothing that was written.
SYNC_SECONDS = 1.0


class JournalError(PocketVLMError):
    """The journal cannot be written, because the disk is full for instance."""


class Journal:
    """An append-only file of output lines. The id of each line holds the job and the line's number.

    Opening it reads what is there: a torn last line, and whatever follows a damaged one, is dropped. 20 bytes of memory
    for each line. Raises OptionError if another process writes it, JournalError if it cannot be written.
    """

    def __init__(self, path: Path, job: str, last: int) -> None:
        """job: its id, 16 hex digits. last: the largest number of a line."""
        self.path, self._job = path, job
        self.failed = 0
        self._numbers, self._offsets = array("L"), array("Q")
        self._done = bytearray(last // 8 + 1)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise OptionError(f"{path}: another process is writing this job: wait for it, or give another -o") from None
        except OSError:  # some network file systems have no locks
            pass
        try:
            self._size = self._read()
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._synced = time.monotonic()
        self._dirty = False

    def __len__(self) -> int:
        """Finished lines."""
        return len(self._numbers)

    def __contains__(self, number: int) -> bool:
        """Whether a line is finished."""
        return bool(self._done[number // 8] >> number % 8 & 1)

    def result_id(self, number: int) -> str:
        """The id of a line's output."""
        return f"batch_req_{self._job}{number:08x}"

    def append(self, number: int, data: bytes, failed: bool) -> None:
        """Write the output line of a line, and sync it with others once a second. Raises JournalError."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
                os.lseek(self._descriptor, self._size, os.SEEK_SET)
            raise self._failure(error) from None
        self._add(number, self._size, failed)
        self._size += len(data)
        self._dirty = True
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Let what was appended reach the disk. Raises JournalError."""
        if self._dirty:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                raise self._failure(error) from None
            self._dirty = False
        self._synced = time.monotonic()

    def lines(self, in_order: bool) -> Iterator[bytes]:
        """The output lines, by number if `in_order`, else as they were finished."""
        order = range(len(self._numbers))
        if in_order and not self.ascending:
            import numpy as np

            order = np.argsort(np.frombuffer(self._numbers, f"u{self._numbers.itemsize}")).astype(np.uint32)  # type: ignore[assignment]
        with open(os.dup(self._descriptor), "rb") as file:  # noqa: PTH123
            for index in order:
                file.seek(self._offsets[index])
                yield file.readline()

    @property
    def ascending(self) -> bool:
        """Whether the lines are in the order of their numbers."""
        return all(a < b for a, b in zip(self._numbers, self._numbers[1:], strict=False))

    def close(self) -> None:
        """Sync and close. Raises JournalError."""
        try:
            self.sync()
        finally:
            os.close(self._descriptor)

    def _failure(self, error: OSError) -> JournalError:
        return JournalError(
            f"{self.path}: {error.strerror}: the {len(self)} finished lines are safe; make room, and the same command "
            "goes on there"
        )

    def _add(self, number: int, offset: int, failed: bool) -> None:
        self._numbers.append(number)
        self._offsets.append(offset)
        self._done[number // 8] |= 1 << number % 8
        self.failed += failed

    def _read(self) -> int:
        """Take the lines that are there; the number of bytes up to the first that is not whole."""
        size, head = 0, f"batch_req_{self._job}"
        with open(os.dup(self._descriptor), "rb") as file:  # noqa: PTH123
            for data in file:
                try:
                    value: dict[str, Any] = json.loads(data) if data.endswith(b"\n") else {}
                    result_id = value["id"]
                    if not result_id.startswith(head):
                        break
                    number = int(result_id.removeprefix(head), 16)
                    if number // 8 >= len(self._done) or number in self:
                        break
                    self._add(number, size, is_failure(value))
                except (ValueError, KeyError, TypeError):
                    break
                size += len(data)
        return size


def is_failure(value: Mapping[str, Any]) -> bool:
    """Whether an output line has an error instead of an answer."""
    response = value.get("response")
    return not isinstance(response, dict) or response.get("status_code") != 200
