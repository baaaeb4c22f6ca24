"""The chat loop reads a line, runs it, and shows the result."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from pocketvlm import api
from pocketvlm.chat.commands import Reply, command, load_conversation
from pocketvlm.chat.media import open_media
from pocketvlm.chat.session import ChatEvent, Session
from pocketvlm.chat.settings import Settings
from pocketvlm.cli.chatting.reader import LineReader
from pocketvlm.cli.chatting.screen import Screen
from pocketvlm.cli.failure import FAILED
from pocketvlm.cli.terminal import Activity, is_terminal
from pocketvlm.errors import PocketVLMError

# Pressing Ctrl+C so many times during one answer leaves the chat, in case a step takes too long.
_INSISTS = 3
# The processor's prefix for a message part; chat users do not number their messages.
_MESSAGE_PART = re.compile(r"^messages\[\d+\](\.content\[\d+\])?: ")


class Reader(Protocol):
    """The source of typed lines."""

    def read(self, waiting: str) -> str:
        """The next message; raises EOFError and KeyboardInterrupt."""


def chat_with(
    model: str,
    engine: dict[str, Any],
    given: dict[str, Any],
    images: list[str],
    start: Path | None,
    *,
    quiet: bool,
    history: bool,
) -> int:
    """Load a model and chat until the end of input; returns the exit code.

    engine: arguments of `load`. given: arguments of `Model.stream`, and "system". images: paths or addresses for the
    first question. start: a saved conversation to continue.
    """
    with contextlib.ExitStack() as stack:
        with Activity(quiet) as activity:
            activity.say(f"loading {model}")
            loaded = stack.enter_context(api.load(model, progress=activity.loading(model), **engine))
        defaults = {name: info.options for name, info in loaded.adapters.snapshot().items()}
        session = Session(loaded, Settings(loaded.sampling_defaults, loaded.processor.config, given, defaults))
        reader, screen = _terminal(quiet, history)
        if not isinstance(reader, LineReader) or reader.asks:
            how = {name: text.partition(" (")[0] for name, text in loaded.ops.describe().items()}
            screen.note([f"{loaded.name} · {how['backend']} {how.get('weights', '')} · /help shows what can be typed"])
        if start is not None:
            screen.note(load_conversation(session, start).lines)
        for image in images:
            screen.note(session.attach(open_media(image).media))
        return _loop(session, reader, screen)


def _terminal(quiet: bool, history: bool) -> tuple[Reader, Screen]:
    """The reader and screen with line editing and Markdown, or None unless stdin and stdout are a capable terminal."""
    capable = os.environ.get("TERM") not in ("dumb", "") and "TERM" in os.environ
    capable = capable and sys.stdin is not None and is_terminal(sys.stdin) and is_terminal(sys.stdout)
    if not capable:
        return LineReader(), Screen(quiet)
    from pocketvlm.cli.chatting.editor import Editor, history_file
    from pocketvlm.cli.chatting.live import LiveScreen

    return Editor(history_file() if history else None), LiveScreen(quiet)


def _loop(session: Session, reader: Reader, screen: Screen) -> int:
    idle = False
    while True:
        count = len(session.pending)
        try:
            line = reader.read(f"[{count} waiting] " if count else "")
        except EOFError:
            break
        except KeyboardInterrupt:
            if isinstance(reader, LineReader) and not reader.asks:
                raise
            screen.note(["/exit or Ctrl+D leaves" if idle else ""])
            idle = True
            continue
        idle = False
        if not _do(session, screen, line):
            break
    alone = isinstance(reader, LineReader) and not reader.asks
    return FAILED if alone and screen.failed else 0


def _do(session: Session, screen: Screen, line: str) -> bool:
    """Execute a typed line; returns False if it ends the chat."""
    try:
        with Activity(screen.quiet) as activity:
            activity.say("opening")
            reply = _heard(session, line)
        if reply.leave:
            return False
        if reply.answer is not None:
            screen.note(reply.lines)
            _answer(session, screen, reply.answer)
        else:
            screen.tell(reply.lines)
    except PocketVLMError as error:
        screen.error(_MESSAGE_PART.sub("", str(error)))
        if session.pending:
            screen.note(["what waits is still there; /undo takes it back"])
    except KeyboardInterrupt:
        screen.error("interrupted: nothing was sent")
    except MemoryError:
        screen.error("not enough memory: /slices 1 or /mode 16x make images smaller, /clear begins anew")
    return True


def _heard(session: Session, line: str) -> Reply:
    """The reply of a command, or the answer to a text."""
    if not line.strip():
        return Reply()
    called = command(line)
    if called is not None:
        return called[0].run(session, called[1])
    heard = session.hear(line)
    return Reply(heard.notes, session.ask(heard.text) if heard.text else None)


class _Leave(BaseException):
    """Raised when the user presses Ctrl+C repeatedly."""


def _answer(session: Session, screen: Screen, events: Iterator[ChatEvent]) -> None:
    """Show an answer; Ctrl+C stops it between two steps of the engine."""
    pressed = 0

    def stop(*_: object) -> None:
        nonlocal pressed
        pressed += 1
        session.stop()
        if pressed >= _INSISTS:
            raise _Leave

    with _on_interrupt(stop), contextlib.closing(events):  # type: ignore[type-var]
        try:
            summary = screen.answer(events)
        except _Leave:
            raise SystemExit(130) from None
    last = session.conversation.messages[-1] if session.conversation.messages else None
    said = last is not None and last.role == "assistant"
    if summary is not None and summary.reason == "abort" and not summary.usage.completion_tokens and not said:
        screen.note(["nothing came yet: the question was taken back"])
    elif summary is not None and summary.reason != "abort" and last is not None and not last.text.strip():
        screen.note(["the answer is empty: /regen asks again, /undo takes the question back"])
    screen.gap()


@contextlib.contextmanager
def _on_interrupt(call: Any) -> Iterator[None]:
    """Calls `handler` on Ctrl+C inside the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGINT, call)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
