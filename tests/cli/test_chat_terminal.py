"""A chat on a real pseudo-terminal: typing, Markdown, Ctrl+C, no colours, a dumb and a narrow terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pocketvlm

CONTROL = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>78]|\([A-Z])")
COLOUR = re.compile(r"\x1b\[([0-9]+;)*(3[0-8]|4[0-8]|9[0-7]|10[0-7])(;[0-9]+)*m")
GREEDY = ("--temperature", "0", "--max-tokens", "8")
ENDLESS = ("--temperature", "3", "--seed", "1", "--max-tokens", "1900")

# The engine as it is, with pauses; it never ends an answer by itself.
SLOW = """
import sys, time
from pocketvlm.cli import main
from pocketvlm.engine import Engine
from pocketvlm.engine.request import Request
step, pause = Engine.step, float(sys.argv[1])
def slow(self):
    time.sleep(pause)
    return step(self)
Engine.step = slow
Request.stop_ids = property(lambda self: frozenset())
sys.exit(main(sys.argv[2:]))
"""


class Terminal:
    """A process whose three streams are a terminal, and what it wrote there."""

    def __init__(self, *command: str, width: int = 80, **environment: str) -> None:
        self.seen = ""
        self._at = 0
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
            # Not execv: the readline library writes COLUMNS into the environment behind Python's back.
            given = {**os.environ, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", **environment}
            os.execve(sys.executable, [sys.executable, *command], given)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.end, text.encode())

    def wait(self, text: str, seconds: float = 30) -> str:
        """Read until a text comes that was not waited for before; gives what came up to it, without control codes."""
        deadline = time.monotonic() + seconds
        while text not in (plain := CONTROL.sub("", self.seen))[self._at :]:
            assert time.monotonic() < deadline, f"{text!r} did not come, but {plain[self._at :]!r}"
            assert self._read(), f"it ended before {text!r}: {plain[self._at :]!r}"
        start, self._at = self._at, plain.index(text, self._at) + len(text)
        return plain[start : self._at]

    def ready(self, prompt: str = ">") -> str:
        """Read until the prompt comes at the beginning of a line; gives what came before."""
        return self.wait(f"\n{prompt}")

    def close(self) -> int:
        """Read to the end; gives the exit code."""
        deadline = time.monotonic() + 60
        while self._read():
            assert time.monotonic() < deadline, "it does not end"
        _, state = os.waitpid(self.pid, 0)
        os.close(self.end)
        self.pid = 0
        return os.waitstatus_to_exitcode(state)

    def _read(self) -> bool:
        """Read what is there, waiting a little; False at the end."""
        if not select.select([self.end], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self.end, 65536)
        except OSError:  # Linux says EIO when the other end is closed
            return False
        self.seen += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(data)


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Start a command on a terminal: terminal("-m", "pocketvlm", "chat", width=80, NAME="value")."""
    monkeypatch.setenv("PYTHONPATH", str(Path(pocketvlm.__file__).parents[1]))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    started: list[Terminal] = []

    def start(*command: str, **options: object) -> Terminal:
        started.append(Terminal(*command, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        if each.pid:
            os.kill(each.pid, 9)
            os.waitpid(each.pid, 0)


def test_a_chat_at_a_terminal(terminal, picture, tmp_path):
    chat = terminal("-m", "pocketvlm", "chat", "nano", *GREEDY)
    chat.wait("/help shows what can be typed")
    chat.ready()
    chat.type(f"What is this? '{picture}'\r")
    chat.wait("image 1: 64x48, ")
    chat.wait("ttft ")
    chat.ready()
    chat.type("/he")
    chat.wait("/help")  # the menu
    chat.type("\t")
    chat.wait("/help")
    chat.type("\r\r")
    chat.wait("/image PATH...")
    chat.ready()
    chat.type("And\x1b\rnow?\r")
    chat.wait("ttft ")
    chat.ready()
    chat.type("/show all\r")
    assert "you: And\nnow?" in chat.ready().replace("\r", "")
    chat.type("\x04")
    assert chat.close() == 0
    history = (tmp_path / "state" / "pocketvlm" / "chat_history").read_text()
    assert f"What is this? '{picture}'" in history


def test_control_c_stops_the_answer_and_keeps_the_chat(terminal):
    chat = terminal("-c", SLOW, "0.02", "chat", "nano", *ENDLESS)
    chat.ready()
    chat.type("Tell me everything\r")
    time.sleep(1.5)
    chat.type("\x03")
    chat.wait("stopped")
    chat.ready()
    chat.type("/show\r")
    shown = chat.ready()
    assert "you: Tell me everything" in shown
    assert re.search(r"model: \S", shown)
    chat.type("half a line\x03")
    chat.ready()
    chat.type("\x03")
    chat.wait("/exit or Ctrl+D leaves")
    chat.type("/exit\r")
    assert chat.close() == 0


def test_control_c_before_the_first_token_takes_the_question_back(terminal, picture):
    chat = terminal("-c", SLOW, "0.7", "chat", "nano", *ENDLESS)
    chat.ready()
    chat.type(f"What is this? '{picture}'\r")
    chat.wait("reading ... ")
    chat.type("\x03")
    chat.wait("the question was taken back")
    chat.ready("[1 waiting] >")
    chat.type("\x04")
    assert chat.close() == 0


def test_what_is_typed_during_an_answer_is_sent_after_it(terminal):
    chat = terminal("-c", SLOW, "0.02", "chat", "nano", *ENDLESS[:-1], "60")
    chat.ready()
    chat.type("Tell me everything\r")
    time.sleep(0.7)
    chat.type("/show\r")
    answer = chat.wait("ttft ")
    assert "/show" not in answer
    chat.wait("you: Tell me everything")
    chat.ready()
    chat.type("\x04")
    assert chat.close() == 0


def test_insisting_leaves_at_once(terminal):
    chat = terminal("-c", SLOW, "300", "chat", "nano", *ENDLESS)
    chat.ready()
    chat.type("Hello\r")
    chat.wait("reading ... ")
    for _ in range(3):
        chat.type("\x03")
        time.sleep(0.2)
    assert chat.close() == 130


def test_without_colour(terminal, picture):
    chat = terminal("-m", "pocketvlm", "chat", *GREEDY, NO_COLOR="1")
    chat.ready()
    chat.type(f"What is this? '{picture}'\r")
    chat.wait("ttft ")
    chat.ready()
    chat.type("/he")
    chat.wait("/help")  # the menu
    chat.type("\x03\x04")
    assert chat.close() == 0
    assert not COLOUR.search(chat.seen)
    assert "\x1b[2m" not in chat.seen


def test_a_dumb_narrow_terminal_gets_plain_lines_that_fit(terminal, picture):
    chat = terminal("-m", "pocketvlm", "chat", *GREEDY, width=40, TERM="dumb")
    chat.ready()
    chat.type("/help\n")
    chat.wait("Ctrl+D leaves.")
    chat.ready()
    chat.type(f"/image {picture}\n")
    chat.ready("[1 waiting] >")
    chat.type("What is\\\nthis?\n")
    chat.wait("... ")
    chat.wait("ttft ")
    chat.type("/exit\n")
    assert chat.close() == 0
    assert "\x1b" not in chat.seen
    typed = ("/image", "> ", "[1 waiting]")
    assert not [line for line in chat.seen.splitlines() if len(line) > 40 and not line.startswith(typed)]


def test_run_without_a_question_begins_a_chat(terminal):
    chat = terminal("-m", "pocketvlm", "run", "nano", "--temperature", "0", "--system", "Be brief.")
    chat.ready()
    chat.type("/set\r")
    shown = chat.ready()
    assert re.search(r"temperature +0\.0", shown)
    assert re.search(r"system +Be brief\.", shown)
    chat.type("/exit\r")
    assert chat.close() == 0
