"""The plain reader takes lines from a pipe, a file, or a terminal without line editing."""

from __future__ import annotations

import sys
from codecs import BOM_UTF8

from pocketvlm.cli.terminal import is_terminal

PROMPT = "> "


class LineReader:
    """Reads one message a line; a backslash at the end continues the message on the next line."""

    def __init__(self) -> None:
        self.asks = sys.stdin is not None and is_terminal(sys.stdin)
        self._is_first = True

    def read(self, waiting: str) -> str:
        """The next message. waiting: the media that go with it. Raises EOFError at the end, KeyboardInterrupt."""
        lines: list[str] = []
        while True:
            if self.asks and sys.stderr is not None:
                sys.stderr.write("... " if lines else f"{waiting}{PROMPT}")
                sys.stderr.flush()
            raw = sys.stdin.buffer.readline() if sys.stdin is not None else b""
            if not raw and not lines:
                raise EOFError
            if self._is_first:
                raw, self._is_first = raw.removeprefix(BOM_UTF8), False
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            lines.append(line.removesuffix("\\"))
            if not raw or not line.endswith("\\"):
                return "\n".join(lines)
