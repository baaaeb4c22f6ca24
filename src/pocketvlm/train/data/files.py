"""Data files become records with their places: JSON lines, a JSON array, both also compressed, and Parquet."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pocketvlm.errors import DataError

_GZIP, _PARQUET, _MARK = b"\x1f\x8b", b"PAR1", "\ufeff"
_KINDS = "a JSON array or JSON lines (also as .gz), or Parquet"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a data file that cannot be used. place: FILE:LINE; text: what, the value, and the way out.

    number: its order in the file.
    """

    place: str
    text: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"

    @property
    def order(self) -> tuple[str, int]:
        """Where the problem comes in a list: by file, then by line."""
        found = PLACE.fullmatch(self.place)
        return (self.place, 0) if found is None else (found["file"], int(found["line"]))


# As this module names the place of a record.
PLACE = re.compile(r"(?P<file>.*):(?P<line>\d+)(?: \(record (?P<number>\d+)\))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file: a JSON object, and where it begins. number: its order in the file."""

    place: str
    data: dict[str, Any]
    number: int


@dataclass(slots=True)
class Records:
    """The records of a file, and lines of it that hold none."""

    records: list[Record] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(self, place: str, data: Any, number: int) -> None:
        """Append a record, or a problem if it is not a JSON object."""
        if isinstance(data, dict):
            self.records.append(Record(place, data, number))
        else:
            text = f"a record must be a JSON object, not {kind_of(data)}: correct it or remove it"
            self.problems.append(Problem(place, text, number))


def kind_of(value: Any) -> str:
    """The type of a JSON value, as JSON calls it."""
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def read_records(path: Path) -> Records:
    """All records of a file, whatever its suffix. Raises DataError where nothing of it can be used."""
    data = read_bytes(path)
    if data[:4] == _PARQUET:
        return _parquet(path)
    found = parse(text_of(path, data), str(path))
    if not found.records and not found.problems:
        raise DataError(f"{path}: no records in it: give {_KINDS} with one object for each conversation")
    return found


def check_file(path: Path) -> None:
    """Raise DataError for a file that is missing or cannot be opened."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _missing(path: Path) -> DataError:
    return DataError(f"{path}: no such file: correct the path")


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read: {error.strerror or error}")


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed if it is gzip. Raises DataError."""
    try:
        data = path.read_bytes()
        if data[:2] == _GZIP:
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise _missing(path) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or incomplete gzip file ({error}): copy it again") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if not data.strip():
        raise DataError(f"{path}: the file is empty: give {_KINDS}")
    return data


def text_of(path: Path, data: bytes) -> str:
    """The text of a file without a byte order mark. Raises DataError if it is not UTF-8."""
    try:
        return data.decode("utf-8").removeprefix(_MARK)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        way = f"give {_KINDS}, saved as UTF-8"
        raise DataError(f"{path}:{line}: byte {error.start} ({data[error.start]:#x}) is not UTF-8: {way}") from None


def parse(text: str, name: str) -> Records:
    """The records of a JSON text: an array, one object, or one object a line. Raises DataError."""
    start = len(text) - len(text.lstrip())
    if text[start : start + 1] == "[":
        return _array(text, name, start)
    if text[start : start + 1] != "{":
        raise DataError(f"{name}:1: begins with {text[start : start + 12]!r}, which is not JSON: give {_KINDS}")
    lines, found = text.split("\n"), Records()
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.add(f"{name}:{number}", json.loads(line), number)
            except (ValueError, RecursionError) as error:
                found.problems.append(Problem(f"{name}:{number}", _invalid(error, line), number))
    return found if found.records else _one_object(text, name, found)


def _invalid(error: Exception, line: str) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return f"not usable JSON ({error}): correct the line or remove it"
    near = line[max(0, error.pos - 10) : error.pos + 20].strip()
    return f"not valid JSON ({error.msg} at column {error.colno}, near {near!r}): correct the line or remove it"


def _one_object(text: str, name: str, lines: Records) -> Records:
    """A text without one valid line is one object over several lines, or no JSON at all."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return lines
    found = Records()
    found.add(f"{name}:1", data, 1)
    return found


def _array(text: str, name: str, start: int) -> Records:
    """The records of an array. Raises DataError where it breaks off, because what follows cannot be told apart."""
    found = Records()
    for number, (line, data) in enumerate(_elements(text, name, start + 1), 1):
        found.add(f"{name}:{line} (record {number})", data, number)
    return found


def _elements(text: str, name: str, at: int) -> Iterator[tuple[int, Any]]:
    """Line and value of each element of an array."""
    decoder, line, counted, first = json.JSONDecoder(), 1, 0, True

    def skip(at: int) -> int:
        while text[at : at + 1] and text[at] in " \t\r\n":
            at += 1
        return at

    def broken(at: int, what: str) -> DataError:
        place = f"{name}:{text.count(chr(10), 0, at) + 1}"
        way = "correct it; records after this place cannot be read"
        return DataError(f"{place}: not valid JSON ({what}, near {text[max(0, at - 10) : at + 20]!r}): {way}")

    while True:
        at = skip(at)
        if text[at : at + 1] == "]":
            if text[skip(at + 1) :]:
                raise broken(skip(at + 1), "there is text after the array")
            return
        if not first:
            if text[at : at + 1] != ",":
                raise broken(at, "expected ',' or ']'" if at < len(text) else "the array has no end")
            at = skip(at + 1)
        first = False
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise broken(error.pos, error.msg) from None
        except (ValueError, RecursionError) as error:
            raise broken(at, str(error)) from None
        yield line, value


def _parquet(path: Path) -> Records:
    try:
        from pyarrow import parquet
    except ImportError:
        way = "pip install pyarrow, or save the data as JSON lines"
        raise DataError(f"{path}: Parquet files need the package pyarrow: {way}") from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except Exception as error:  # of several libraries below it
        raise DataError(f"{path}: damaged Parquet file ({' '.join(str(error).split())}): copy it again") from None
    if not rows:
        raise DataError(f"{path}: no records in it: give a table with one row for each conversation")
    found = Records()
    for number, row in enumerate(rows, 1):
        # A table has every column in every row; JSON leaves absent ones out.
        found.add(f"{path}:{number}", {key: value for key, value in row.items() if value is not None}, number)
    return found
