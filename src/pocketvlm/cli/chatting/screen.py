"""The plain screen writes answers to stdout and everything else to stderr."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator

from pocketvlm.chat.figures import status
from pocketvlm.chat.session import AnswerSummary, ChatEvent
from pocketvlm.cli.terminal import dim, is_terminal, printable
from pocketvlm.parsing import Content, Reasoning

_GAP = 2


class Screen:
    """Prints plain text: answers while they stream, thinking folded to one line. quiet: only answers and errors."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.failed = False

    def note(self, lines: Iterable[str]) -> None:
        """Print a note about the conversation."""
        if not self.quiet:
            self._err(dim(line, sys.stderr) for line in layout(lines, width_of_terminal()))

    def tell(self, lines: Iterable[str]) -> None:
        """Print the reply of a command; `quiet` does not hide it."""
        self._err(layout(lines, width_of_terminal()))

    def error(self, text: str) -> None:
        """Print an error."""
        self.failed = True
        line = printable(f"error: {' '.join(text.split())}")
        on_terminal = sys.stderr is not None and is_terminal(sys.stderr)
        self._err(layout([line], width_of_terminal()) if on_terminal else [line])

    def answer(self, events: Iterator[ChatEvent]) -> AnswerSummary | None:
        """Show an answer while it streams; returns its summary."""
        clean = printable if is_terminal(sys.stdout) else str
        summary, said = None, ""
        thought = Thought()
        try:
            for event in events:
                if isinstance(event, AnswerSummary):
                    summary = event
                elif isinstance(event, Reasoning):
                    if not thought.text:
                        self.note(["thinking ..."])
                    thought.add(event.text)
                elif isinstance(event, Content):
                    self.note(thought.fold())
                    said = event.text
                    sys.stdout.write(clean(said))
                    sys.stdout.flush()
        finally:
            if not said.endswith("\n") and (said or summary is not None):
                sys.stdout.write("\n")
                sys.stdout.flush()
            self.note(thought.fold())
        if summary is not None:
            self.note([status(summary)])
        return summary

    def gap(self) -> None:
        """Separate an answer from the next line; the plain screen prints nothing."""

    def _err(self, lines: Iterable[str]) -> None:
        if sys.stderr is not None:
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()


class Thought:
    """The thinking of one answer; `fold` makes one line of it."""

    def __init__(self) -> None:
        self.text = ""
        self._began = time.monotonic()
        self._open = False

    @property
    def seconds(self) -> float:
        """Seconds since the question."""
        return time.monotonic() - self._began

    def add(self, text: str) -> None:
        """Add a part of the thinking."""
        self.text += text
        self._open = True

    def fold(self) -> Iterator[str]:
        """One line that stands for the thinking; empty without thinking, and after the first call."""
        if self._open:
            self._open = False
            yield f"thought for {self.seconds:.1f} s (/show thinking)"


def width_of_terminal() -> int:
    """Columns of the terminal, 80 without a terminal."""
    return max(shutil.get_terminal_size().columns, 20)


def layout(lines: Iterable[str], width: int) -> list[str]:
    """Lines wrapped to a width; lines with a tab are rows of a table, printed in one column if two do not fit."""
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
