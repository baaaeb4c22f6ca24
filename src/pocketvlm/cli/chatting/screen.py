"""Where a chat writes: answers to stdout, everything else to stderr, as plain text that works anywhere."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator

from pocketvlm.chat.figures import status
from pocketvlm.chat.session import Piece, Turn
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

    def answer(self, pieces: Iterator[Piece]) -> Turn | None:
        """Show an answer as it comes; returns how it went."""
        clean = printable if is_terminal(sys.stdout) else str
        turn, said, thinking = None, "", False
        try:
            for piece in pieces:
                if isinstance(piece, Turn):
                    turn = piece
                elif isinstance(piece, Reasoning) and not thinking:
                    thinking = True
                    self.note(["thinking ..."])
                elif isinstance(piece, Content):
                    said = piece.text
                    sys.stdout.write(clean(said))
                    sys.stdout.flush()
        finally:
            if not said.endswith("\n") and (said or turn is not None):
                sys.stdout.write("\n")
                sys.stdout.flush()
        self.after(turn)
        return turn

    def after(self, turn: Turn | None) -> None:
        """The lines below an answer."""
        if turn is not None:
            self.note([*([thought(turn)] if turn.thought_tokens else []), status(turn)])

    def _err(self, lines: Iterable[str]) -> None:
        if sys.stderr is not None:
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()


def thought(turn: Turn) -> str:
    """The line that thinking is folded to."""
    return f"thought for {turn.thought_seconds:.1f} s, {turn.thought_tokens} tokens (/show thinking)"


def width_of_terminal() -> int:
    """Columns of the terminal, 80 where there is none."""
    return max(shutil.get_terminal_size().columns, 20)


def layout(lines: Iterable[str], width: int) -> list[str]:
    """Lines wrapped to a width; those with a tab are rows of a table, in one column where two do not fit."""
    given = [printable(line) for line in lines]
    first = max((len(line.partition("\t")[0]) for line in given if "\t" in line), default=0)
    shown = []
    for line in given:
        left, tab, right = line.partition("\t")
        if not tab:
            indent = " " * (len(line) - len(line.lstrip()))
            shown += textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False) or [""]
        elif width >= first + _GAP + 30:
            indent = " " * (first + _GAP)
            shown += textwrap.wrap(
                right, width, initial_indent=f"{left:{first + _GAP}}", subsequent_indent=indent, break_on_hyphens=False
            ) or [left]
        else:
            shown += [left, *textwrap.wrap(right, width, initial_indent="  ", subsequent_indent="  ")]
    return shown
