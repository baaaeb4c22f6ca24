"""The line editor of a chat offers history, several lines and completion, with prompt_toolkit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth

from pocketvlm.chat.commands import COMMANDS
from pocketvlm.chat.settings import SETTINGS
from pocketvlm.chat.typed import SUFFIXES
from pocketvlm.cli.chatting.reader import PROMPT

# Longer lines, such as pasted data: addresses, are not saved in the history.
_MAX_LINE = 10_000
# The word before the cursor; a blank after a backslash belongs to the word.
_WORD = re.compile(r"(?:\\.|[^\s\\])*$", re.DOTALL)
_TO_ESCAPE = re.compile(r"([\s\\'\"()&;])")
_OPTIONS = {command.name: command.completes for command in COMMANDS}


class Editor:
    """Reads messages from a terminal. Enter sends, Alt+Enter begins a new line, Tab completes."""

    def __init__(self, history: Path | None) -> None:
        """history: the file that stores lines (None: lines are remembered only during the chat)."""
        plain = "NO_COLOR" in os.environ
        self._session: PromptSession[str] = PromptSession(
            history=_history(history),
            multiline=True,
            key_bindings=_bindings(),
            completer=ChatCompleter(),
            complete_while_typing=Condition(self._types_command),
            enable_history_search=False,
            color_depth=ColorDepth.DEPTH_1_BIT if plain else None,
            prompt_continuation="... ",
            reserve_space_for_menu=6,
        )

    def read(self, waiting: str) -> str:
        """The next message. waiting: the media that go with it. Raises EOFError for Ctrl+D, KeyboardInterrupt."""
        return str(self._session.prompt(f"{waiting}{PROMPT}"))

    def _types_command(self) -> bool:
        text = self._session.default_buffer.text
        return text.startswith("/") and " " not in text and "/" not in text[1:]


class ChatCompleter(Completer):
    """Completes commands, their arguments, and paths anywhere in a line."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """The completions of the word before the cursor."""
        text = document.text_before_cursor
        match = _WORD.search(text)
        word = match[0] if match else ""
        before = text[: len(text) - len(word)]
        if text.startswith("/") and not before and "/" not in text[1:]:
            found = [command for command in COMMANDS if command.name.startswith(text[1:].lower())]
            yield from (Completion(f"/{each.name}", -len(text), display_meta=each.help) for each in found)
            if found:
                return
        if not complete_event.completion_requested:
            return
        takes = _OPTIONS.get(before.split()[0][1:].lower(), "paths") if before.startswith("/") else "paths"
        if takes == "paths":
            yield from _paths(word)
            return
        words = {"settings": [*SETTINGS], "commands": [command.name for command in COMMANDS]}.get(takes, takes.split())
        if len(before.split()) == 1:
            yield from (Completion(one, -len(word)) for one in words if one.startswith(word))


def _paths(word: str) -> Iterator[Completion]:
    """Directories and media files that begin like a word."""
    typed = re.sub(r"\\(.)", r"\1", word.lstrip("\"'"))
    head, slash, start = typed.rpartition("/")
    try:
        directory = Path(head + slash).expanduser() if slash else Path()
        entries = sorted(directory.iterdir(), key=lambda entry: entry.name.lower())
        shown = [(entry, entry.is_dir()) for entry in entries if entry.name.startswith(start)]
    except (OSError, RuntimeError, ValueError):
        return
    for entry, is_dir in shown:
        if entry.name.startswith(".") and not start:
            continue
        if is_dir or entry.suffix.lower() in SUFFIXES or entry.suffix.lower() == ".json":
            name = f"{head}{slash}{entry.name}{'/' if is_dir else ''}"
            yield Completion(_TO_ESCAPE.sub(r"\\\1", name), -len(word), display=entry.name + ("/" if is_dir else ""))


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    # A line feed counts as Enter, because lines typed during an answer arrive with line feeds.
    @bindings.add("enter")
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None
        elif buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return bindings


class _PrivateHistory(FileHistory):
    """The lines of all chats in one private file; if it cannot be written, they are remembered only during the chat."""

    def store_string(self, string: str) -> None:
        if len(string) > _MAX_LINE:
            return
        try:
            Path(os.fsdecode(self.filename)).touch(mode=0o600)
            super().store_string(string)
        except OSError:
            return


def _history(path: Path | None) -> History:
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return InMemoryHistory()
    return _PrivateHistory(str(path))


def history_file() -> Path:
    """The history file: $XDG_STATE_HOME/pocketvlm/chat_history, by default below ~/.local/state."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "pocketvlm" / "chat_history"
