"""The output of a job: a journal while it runs, then one file; a file next to it says which job it belongs to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pocketvlm.atomic import replacing
from pocketvlm.errors import OptionError
from pocketvlm.jobs import parquet
from pocketvlm.jobs.journal import Journal, JournalError
from pocketvlm.jobs.rows import columns_for, row_of

Order = Literal["input", "finished"]
Form = Literal["jsonl", "parquet"]
_SHOWN = 60
_DIGESTS = {"input": "what IN holds has changed", "checkpoint": "the weights have changed (--model, --weights)"}


@dataclass(frozen=True, slots=True)
class Output:
    """Where the answers go. settings: all that they depend on, by the names of the options."""

    path: Path
    settings: Mapping[str, Any]
    order: Order = "input"
    form: Form = "jsonl"
    schema: Mapping[str, Any] | None = None

    @property
    def job(self) -> str:
        """The id of the job, 16 hex digits of the digest of its settings."""
        text = json.dumps(self._settings, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def partial(self) -> Path:
        """The journal."""
        return self.path.with_name(f"{self.path.name}.partial")

    @property
    def side(self) -> Path:
        """The file with the job's settings."""
        return self.path.with_name(f"{self.path.name}.job")

    def open(self, last: int) -> Journal | None:
        """The journal of the job, new or with what is finished; None if the output is complete.

        last: the largest number of a line. Raises OptionError if the files belong to another job, JournalError if they
        cannot be written.
        """
        check_path(self.path)
        found = self._found()
        try:
            if found is None:
                for path in (self.path, self.partial):
                    if path.exists():
                        raise OptionError(f"-o {path}: the file exists, and no job wrote it: give another name")
                with replacing(self.side) as file:
                    file.write(json.dumps({"version": 1, "job": self.job, "settings": self._settings}).encode())
            elif found.get("job") != self.job:
                raise OptionError(self._other(found))
            elif self.path.exists():
                with contextlib.suppress(FileNotFoundError):
                    self.partial.unlink()
                return None
            return Journal(self.partial, self.job, last)
        except OSError as error:
            raise JournalError(f"-o {self.path}: {error.strerror}") from None

    def finish(self, journal: Journal) -> None:
        """Make the output out of a journal that has all lines, and remove the journal. Raises JournalError."""
        try:
            if self.form == "jsonl" and (self.order == "finished" or journal.ascending):
                journal.close()
                self.partial.replace(self.path)
                _sync_directory(self.path.parent)
                return
            with replacing(self.path) as file:
                lines = journal.lines(self.order == "input")
                if self.form == "parquet":
                    parquet.write(file, columns_for(self.schema), _rows(lines, self.schema))
                else:
                    _write(file.write, lines)
            journal.close()
            self.partial.unlink()
        except OSError as error:
            raise JournalError(
                f"{self.path}: {error.strerror}: all answers are safe in {self.partial}; make room, and the same "
                "command writes the output"
            ) from None

    @property
    def _settings(self) -> dict[str, Any]:
        return {**self.settings, "order": self.order, "to": self.form}

    def _found(self) -> dict[str, Any] | None:
        """What the file next to the output says; None if there is none."""
        try:
            value = json.loads(self.side.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            value = None
        return value if isinstance(value, dict) else {}

    def _other(self, found: Mapping[str, Any]) -> str:
        """How another job differs from this one."""
        settings = found.get("settings")
        theirs = settings if isinstance(settings, dict) else {}
        mine = json.loads(json.dumps(self._settings))
        if not theirs:
            differs = f"{self.side} is damaged"
        else:
            differs = "; ".join(_differences(theirs, mine)) or "another version of pocketvlm wrote it"
        files = f"{self.path}, {self.partial} and {self.side}"
        return (
            f"-o {self.path}: it belongs to another job: {differs}. Give the same input and options to go on with that "
            f"one, or another -o for a new one, or remove {files}"
        )


def check_path(path: Path) -> None:
    """Raise OptionError where an output cannot be: instead of a directory, or in none."""
    if path.is_dir():
        raise OptionError(f"-o {path}: this is a directory: give the name of a file in it")
    if not path.parent.is_dir():
        raise OptionError(f"-o {path}: there is no directory {path.parent}: make it first")


def _differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> Iterator[str]:
    """What differs between the settings of two jobs, by the options' names."""
    for name in dict.fromkeys((*mine, *theirs)):
        old, new = theirs.get(name), mine.get(name)
        if old == new:
            continue
        if name in _DIGESTS:
            yield _DIGESTS[name]
        elif isinstance(old, dict) and isinstance(new, dict) and name in ("sampling", "media", "template"):
            yield from _differences(old, new)
        else:
            yield f"--{name.replace('_', '-')} was {_shown(old)}, is {_shown(new)}"


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _rows(lines: Iterator[bytes], schema: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    return (row_of(json.loads(line), schema) for line in lines)


def _write(write: Callable[[bytes], int], lines: Iterator[bytes]) -> None:
    """Write lines, about a megabyte at a time."""
    buffer = bytearray()
    for line in lines:
        buffer += line
        if len(buffer) >= 1 << 20:
            _all(write, bytes(buffer))
            buffer.clear()
    _all(write, bytes(buffer))


def _all(write: Callable[[bytes], int], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[write(bytes(view)) :]


def _sync_directory(path: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
