"""Rows of CSV and Parquet files, with a question about the images of each row."""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pocketvlm.errors import InputError, OptionError
from pocketvlm.jobs import parquet
from pocketvlm.jobs.line import Line, Problem
from pocketvlm.jobs.sources.bodies import CHAT, Template, chat_body
from pocketvlm.jobs.sources.source import Skip, file_digest
from pocketvlm.suggest import nearest

_MAX_CELL = 128 << 20


@dataclass(frozen=True, slots=True)
class Question:
    """How rows become questions. image: the column of images, None for none; id: that of custom_ids, None: row-N."""

    prompt: str
    system: str | None = None
    image: str | None = None
    id: str | None = None


class Table(Protocol):
    """A file of rows."""

    columns: list[str]

    def rows(self, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """The values of some columns. Raises InputError."""
        ...


class Csv:
    """A CSV file in UTF-8 whose first row has the names of the columns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        csv.field_size_limit(_MAX_CELL)
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                self.columns = next(csv.reader(file), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: this is no CSV file in UTF-8: {error}") from None
        if not self.columns:
            raise InputError(f"{path}: the file is empty: its first row must have the names of the columns")

    def rows(self, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Texts. Raises InputError for a row with more or fewer cells than there are columns."""
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            try:
                for number, row in enumerate(reader, 1):
                    # DictReader puts further cells under None, and None into columns without a cell.
                    cells = len(self.columns) + len(row.get(None) or ()) - sum(each is None for each in row.values())
                    if cells != len(self.columns):
                        raise InputError(
                            f"{self._path}: row {number} has {cells} cells, and there are {len(self.columns)} columns: "
                            "put a cell with a comma into double quotes"
                        )
                    yield row
            except (UnicodeDecodeError, csv.Error) as error:
                raise InputError(f"{self._path}: after row {reader.line_num}: {error}") from None


class Rows:
    """The rows of a table as lines."""

    def __init__(self, path: Path, question: Question) -> None:
        """Raises InputError for a file that is no table, OptionError for a column that is not there."""
        self._path, self._question = path, question
        self._table: Table = parquet.Table(path) if path.suffix.lower() == ".parquet" else Csv(path)
        columns = self._table.columns
        for flag, name in (("--image-column", question.image), ("--id-column", question.id)):
            if name is not None and name not in columns:
                near = nearest(name, columns)
                hint = f"did you mean {near!r}?" if near else f"the columns are {', '.join(columns)}"
                raise OptionError(f"{flag}={name}: {path} has no such column: {hint}")
        self._prompt = Template(question.prompt, columns, "--prompt")
        self._system = None if question.system is None else Template(question.system, columns, "--system")

    def digest(self) -> str:
        """Of the file's content."""
        return file_digest(str(self._path))

    def custom_ids(self) -> Iterator[tuple[int, str | None]]:
        """The column of ids, or row-N with N from 1."""
        columns = [] if self._question.id is None else [self._question.id]
        for number, row in enumerate(self._table.rows(columns), 1):
            yield number, self._custom_id(number, row)

    def lines(self, skip: Skip) -> Iterator[Line]:
        """One question for each row."""
        question = self._question
        chosen = [name for name in (question.image, question.id) if name is not None]
        chosen += self._prompt.columns + ([] if self._system is None else self._system.columns)
        for number, row in enumerate(self._table.rows(list(dict.fromkeys(chosen))), 1):
            if skip(number):
                continue
            custom_id = self._custom_id(number, row)
            try:
                sources = [] if question.image is None else _sources(row.get(question.image))
                if custom_id is None:
                    raise InputError(f"the column {question.id} is empty")
            except InputError as error:
                problem = Problem("invalid_row", f"row {number}: {error}")
                yield Line(number, custom_id, problem=problem, size=1)
                continue
            system = None if self._system is None else self._system.fill(row)
            body = chat_body(sources, self._prompt.fill(row), system)
            yield Line(number, custom_id, CHAT, body, size=sum(map(len, sources)) + 1)

    def _custom_id(self, number: int, row: Mapping[str, Any]) -> str | None:
        if self._question.id is None:
            return f"row-{number}"
        value = row.get(self._question.id)
        return str(value) if value not in (None, "") else None


def _sources(value: Any) -> list[str]:
    """The images of a cell: a path or URL, bytes, a mapping {bytes, path} of a data set, or a list of these."""
    if isinstance(value, list | tuple):
        return [source for each in value for source in _sources(each)]
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return ["data:;base64," + base64.b64encode(value).decode("ascii")]
    if not isinstance(value, str) or not value.strip():
        raise InputError("there is no image in its cell")
    return [value.strip()]
