"""`open_source` chooses the reader of a job's input by its name: JSON lines, a table, or images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pocketvlm.errors import InputError, OptionError
from pocketvlm.jobs.sources.jsonl import JsonLines
from pocketvlm.jobs.sources.pictures import Pictures
from pocketvlm.jobs.sources.source import Source
from pocketvlm.jobs.sources.tables import Question, Rows

_LINES = (".jsonl", ".ndjson", ".json")
_TABLES = (".csv", ".parquet")


def open_source(
    names: Sequence[str], prompt: str | None, system: str | None, image_column: str | None, id_column: str | None
) -> tuple[Source, Path]:
    """The source of a job, and the directory in which its relative paths begin.

    Raises OptionError for options that another kind of input has, InputError for files that cannot be read.
    """
    suffixes = {Path(name).suffix.lower() for name in names}
    special = suffixes & {*_LINES, *_TABLES}
    if special and len(names) > 1:
        raise OptionError(f"IN: {len(names)} inputs, and one is a {special.pop()} file: give it alone")
    path = Path(names[0]).expanduser()
    if special and not path.is_file():
        raise InputError(f"{names[0]}: there is no such file")
    if suffixes <= {*_LINES} and special:
        for flag, value in (("prompt", prompt), ("system", system), *_column_flags(image_column, id_column)):
            if value is not None:
                raise OptionError(f"--{flag}: the lines of a batch file have their own messages: leave it out")
        return JsonLines(path), path.absolute().parent
    if prompt is None:
        raise OptionError("--prompt is missing: say what to ask about each image or row")
    if special:
        return Rows(path, Question(prompt, system, image_column, id_column)), path.absolute().parent
    for flag, value in _column_flags(image_column, id_column):
        if value is not None:
            raise OptionError(f"--{flag}: only CSV and Parquet files have columns: leave it out")
    return Pictures(names, prompt, system), Path.cwd()


def _column_flags(image_column: str | None, id_column: str | None) -> tuple[tuple[str, str | None], ...]:
    return ("image-column", image_column), ("id-column", id_column)
