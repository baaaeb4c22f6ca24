"""Report files of `eval`: checked before the work, written after it, whole or not at all."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.atomic import replacing, write_all
from pocketvlm.errors import OptionError

if TYPE_CHECKING:
    from pocketvlm.api.evaluation import Evaluation

FAILURE = "pocketvlm.failure"
# How a file of each kind begins; no other file is replaced.
_PAGE_MARK = b'<meta name="generator" content="pocketvlm eval">'
_REPORT_MARK = b'"type": "pocketvlm.evaluation"'
_FAILURE_MARK = f'{{"type": "{FAILURE}"'.encode()
_HEAD = 2000  # bytes in which a mark stands


class Outputs:
    """The files that an evaluation writes."""

    def __init__(self, reports: Sequence[str], failures: str | None, inputs: Sequence[str | None]) -> None:
        """Name them. reports: HTML or JSON files, by suffix. inputs: files that must not be replaced."""
        self._reports = list(reports)
        self._failures = failures
        self._inputs = {Path(path).expanduser().resolve() for path in inputs if path is not None}

    def check(self) -> None:
        """Raise OptionError for a path that cannot be written, or that holds something else."""
        seen: set[Path] = set()
        for label, name, mark in self._files():
            path = Path(name).expanduser()
            if path.resolve() in seen:
                raise OptionError(f"{label}={name}: is given twice: give each output its own file")
            seen.add(path.resolve())
            self._check_one(label, name, path, mark)

    def _check_one(self, label: str, name: str, path: Path, mark: bytes) -> None:
        if path.resolve() in self._inputs:
            raise OptionError(f"{label}={name}: this command reads that file: give another path")
        if path.is_dir():
            raise OptionError(f"{label}={name}: is a directory: give a file in it")
        try:
            if path.exists():
                with path.open("r+b") as file:
                    head = file.read(_HEAD)
                if head and mark not in head:
                    raise OptionError(
                        f"{label}={name}: exists and is of no earlier evaluation: remove it, or give another path"
                    )
            else:
                with tempfile.TemporaryFile(dir=path.parent):
                    pass
        except OSError as error:
            raise OptionError(
                f"{label}={name}: cannot be written: {error.strerror or error}: give another path"
            ) from None

    def write(self, found: Evaluation) -> list[Path]:
        """Write all files and return their paths."""
        written = []
        for label, name, mark in self._files():
            path = Path(name).expanduser()
            with replacing(path) as file:
                if mark is _PAGE_MARK:
                    from pocketvlm.bench.evaluation.page import page

                    write_all(file, page(found).encode("utf-8", "replace"))
                elif label == "--failures":
                    for sample in found.failures:
                        line = {"type": FAILURE, **sample.to_dict(messages=True)}
                        line["messages"] = _moved(line["messages"], path.absolute().parent)
                        if sample.metric == found.metric:  # as data again, the file follows --metric as its source does
                            del line["metric"]
                        write_all(file, _line(line))
                else:
                    write_all(file, _line(found.to_dict()))
            written.append(path)
        return written

    def _files(self) -> Iterator[tuple[str, str, bytes]]:
        """Option, path and mark of each file. Raises OptionError for a suffix that says no kind."""
        for name in self._reports:
            kind = Path(name).suffix.lower()
            if kind not in (".html", ".htm", ".json"):
                raise OptionError(f"--output={name}: give a .html file for a page, or a .json file for all figures")
            yield "--output", name, _REPORT_MARK if kind == ".json" else _PAGE_MARK
        if self._failures is not None:
            yield "--failures", self._failures, _FAILURE_MARK


def write_line(text: str) -> None:
    """Print a line of JSON; half of a surrogate pair becomes its escape."""
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode() + "\n")


def _moved(value: Any, folder: Path) -> Any:
    """Messages whose local media are named relative to a folder, so that both can be moved together.

    Readers of data made these paths absolute. A path on another file system or drive stays as it is.
    """
    if isinstance(value, list | tuple):
        return [_moved(each, folder) for each in value]
    if isinstance(value, Mapping):
        return {key: each if key == "text" else _moved(each, folder) for key, each in value.items()}
    if not isinstance(value, str):
        return value
    try:
        if not Path(value).is_absolute() or not Path(value).exists():
            return value
    except (OSError, ValueError):  # base64 may begin with a slash
        return value
    shared = os.path.commonpath([value, folder])
    return value if Path(shared) == Path(shared).parent else os.path.relpath(value, folder)


def _line(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, default=str) + "\n").encode("utf-8", "backslashreplace")
