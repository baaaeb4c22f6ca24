"""The plain screen writes answers to stdout and everything else to stderr."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator

from pocketvlm.chat.figures import status
from pocketvlm.chat.session import ChatEvent, Turn
from pocketvlm.cli.terminal import dim, is_terminal, printable
from pocketvlm.parsing import Content, Reasoning

_GAP = 2


class Screen:
    """Plain text: answers as they come, thinking folded to one line. quiet: nothing but answers and errors."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.failed = False

    def note(self, lines: Iterable[str]) -> None:
        """Say something beside the conversation."""
        if not self.quiet:
            self._err(dim(line, sys.stderr) for line in layout(lines, width_of_terminal()))

    def tell(self, lines: Iterable[str]) -> None:
        """Say what somebody asked for; `quiet` does not hide it."""
        self._err(layout(lines, width_of_terminal()))

    def error(self, text: str) -> None:
        """Say what went wrong."""
        self.failed = True
        line = printable(f"error: {' '.join(text.split())}")
        on_terminal = sys.stderr is not None and is_terminal(sys.stderr)
        self._err(layout([line], width_of_terminal()) if on_terminal else [line])

    def answer(self, pieces: Iterator[ChatEvent]) -> Turn | None:
        """Show an answer as it comes; returns how it went."""
        clean = printable if is_terminal(sys.stdout) else str
        turn, said = None, ""
        thought = Thought()
        try:
            for piece in pieces:
                if isinstance(piece, Turn):
                    turn = piece
                elif isinstance(piece, Reasoning):
                    if not thought.text:
                        self.note(["thinking ..."])
                    thought.add(piece.text)
                elif isinstance(piece, Content):
                    self.note(thought.fold())
                    said = piece.text
                    sys.stdout.write(clean(said))
                    sys.stdout.flush()
        finally:
            if not said.endswith("\n") and (said or turn is not None):
                sys.stdout.write("\n")
                sys.stdout.flush()
            self.note(thought.fold())
        if turn is not None:
            self.note([status(turn)])
        return turn

    def gap(self) -> None:
        """What stands between an answer and the next line: here nothing."""

    def _err(self, lines: Iterable[str]) -> None:
        if sys.stderr is not None:
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()


class Thought:
    """The thinking of one answer, which becomes one line when it is over."""

    def __init__(self) -> None:
        self.text = ""
        self._began = time.monotonic()
        self._open = False

    @property
    def seconds(self) -> float:
        """Since the question."""
        return time.monotonic() - self._began

    def add(self, text: str) -> None:
        """More of it."""
        self.text += text
        self._open = True

    def fold(self) -> Iterator[str]:
        """The line that is left of it; none where there is none, or no more."""
        if self._open:
            self._open = False
            yield f"thought for {self.seconds:.1f} s (/show thinking)"


def width_of_terminal() -> int:
    """Columns of the terminal, 80 where there is none."""
    return max(shutil.get_terminal_size().columns, 20)


def layout(lines: Iterable[str], width: int) -> list[str]:
    """Lines wrapped to a width; those with a tab are rows of a table, in one column where two do not fit."""
    given = [printable(line) for line in lines]
    first = max((len(line.partition("\t")[0]) for line in given if "\t" in line), default=0)
    second = max((len(line.partition("\t")[2]) for line in given), default=0)
    shown = []
    for line in given:
        left, tab, right = line.partition("\t")
        if not tab:
            indent = " " * (len(line) - len(line.lstrip()))
            shown += textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False) or [""]
        elif width >= first + _GAP + min(second, 30):
            indent = " " * (first + _GAP)
            shown += textwrap.wrap(
                right, width, initial_indent=f"{left:{first + _GAP}}", subsequent_indent=indent, break_on_hyphens=False
            ) or [left]
        else:
            shown += [left, *textwrap.wrap(right, width, initial_indent="  ", subsequent_indent="  ")]
    return shown
