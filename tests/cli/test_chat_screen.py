"""The output of a live screen: each line of an answer appears once, however often it was redrawn."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from pocketvlm.cli.chatting import live
from pocketvlm.parsing import Content

TOKEN = re.compile(r"\x1b\[(?P<count>\d*)(?P<code>[A-Za-z])|\x1b\[\?\d+[hl]|(?P<text>[^\x1b])")


class Paper(io.StringIO):
    """A terminal that knows what rich uses while it draws: up, erase the line, carriage return, new line."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[str] = [""]
        self.row = self.column = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for token in TOKEN.finditer(text):
            match token["code"], token["text"]:
                case "A", _:
                    self.row = max(0, self.row - int(token["count"] or 1))
                case "K", _:
                    self.rows[self.row] = ""
                case None, "\r":
                    self.column = 0
                case None, "\n":
                    self.row, self.column = self.row + 1, 0
                    self.rows += [""] * (self.row == len(self.rows))
                case None, str(letter):
                    row = self.rows[self.row]
                    self.rows[self.row] = row[: self.column].ljust(self.column) + letter + row[self.column + 1 :]
                    self.column += 1
        return len(text)


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_that_is_rendered_while_it_streams_is_there_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"w{number:03}" for number in range(150)]
    text = "".join(word + ("\n\n" if number % 50 == 49 else " ") for number, word in enumerate(words))
    monkeypatch.setattr(live, "silent_keys", contextlib.nullcontext)
    monkeypatch.setattr(live, "_PERIOD", 0.0002)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    paper = Paper()
    screen = live.LiveScreen(quiet=False)
    screen.console = Console(file=paper, force_terminal=True, width=40, height=50, markup=False, highlight=False)

    def chunks() -> Iterator[Content]:
        for at in range(0, len(text), 3 + seed):
            time.sleep(0.0005)
            yield Content(text[at : at + 3 + seed])

    try:
        screen.answer(chunks())
    finally:
        sys.setswitchinterval(before)
    assert " ".join(paper.rows).split() == words
