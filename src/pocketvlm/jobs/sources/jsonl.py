"""Lines of OpenAI's batch files, read one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pocketvlm.jobs.line import Line, Problem, read_line
from pocketvlm.jobs.sources.source import Skip, file_digest

# A longer line is an error of its own, and is not read into memory.
MAX_LINE = 128 << 20
_CHUNK = 1 << 20


class JsonLines:
    """A file of JSON lines. Blank lines are left out; numbers count them."""

    def __init__(self, path: Path, max_line: int | None = None) -> None:
        """max_line: maximum bytes of a line, MAX_LINE if it is None."""
        self._path, self._max_line = path, max_line or MAX_LINE

    def digest(self) -> str:
        """Of the file's content."""
        return file_digest(str(self._path))

    def custom_ids(self) -> Iterator[tuple[int, str | None]]:
        """Reads the whole file."""
        return ((line.number, line.custom_id) for line in self.lines(lambda _: False))

    def lines(self, skip: Skip) -> Iterator[Line]:
        """A line that cannot be read is a line with a problem."""
        with self._path.open("rb") as file:
            number, maximum = 0, self._max_line
            while data := file.readline(maximum + 1):
                number += 1
                long = len(data) > maximum and not data.endswith(b"\n")
                while long and (rest := file.readline(_CHUNK)):
                    if rest.endswith(b"\n"):
                        break
                if number == 1:
                    data = data.removeprefix(b"\xef\xbb\xbf")
                if skip(number) or not data.strip():
                    continue
                if long:
                    message = f"line {number}: a line has at most {maximum} bytes: name large files by path or URL"
                    yield Line(number, None, problem=Problem("line_too_long", message), size=maximum)
                    continue
                yield read_line(number, data)
