"""System messages are moved to where the chat template accepts them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

Message = dict[str, Any]

OPEN, CLOSE = "<system>", "</system>"


def place_system_messages(messages: Sequence[Message]) -> list[Message]:
    """The conversation with at most one system message, at its beginning; the order of the content does not change.

    Leading system messages are joined by an empty line. A later one becomes text of the next user message, or of the
    one before it where an answer follows, set between `<system>` and `</system>` as plain text; between answers it
    becomes a user message of its own.
    """
    remaining = list(messages)
    found: list[Message] = []
    while remaining and remaining[0]["role"] == "system":
        message = remaining.pop(0)
        if not found:
            found.append(message)
        elif message["content"]:
            found = [_with(found[0], found[0]["content"], message["content"])]
    later: list[Any] = []
    for message in remaining:
        if message["role"] == "system":
            later += [_marked(message["content"])] if message["content"] else []
        elif message["role"] == "user":
            found.append(_with(message, *later, message["content"]) if later else message)
            later = []
        else:
            _place(later, found)
            found.append(message)
            later = []
    _place(later, found)
    return found


def _place(later: Sequence[Any], found: list[Message]) -> None:
    """Append contents that no user message follows to the user message before them, or to a new one."""
    if later and found and found[-1]["role"] == "user":
        found[-1] = _with(found[-1], found[-1]["content"], *later)
    elif later:
        found.append(_with({"role": "user"}, *later))


def _with(message: Message, *contents: Any) -> Message:
    """A message with several contents as one."""
    return {**message, "content": reduce(_concatenated, contents)}


def _concatenated(before: Any, after: Any) -> Any:
    """Two contents, each a text or a list of parts, with an empty line between them."""
    if isinstance(before, str) and isinstance(after, str):
        return f"{before}\n\n{after}"
    parts = [[{"type": "text", "text": each}] if isinstance(each, str) else each for each in (before, after)]
    # The template writes a line break between parts, so an empty part makes an empty line.
    return [*parts[0], {"type": "text", "text": ""}, *parts[1]]


def _marked(content: Any) -> Any:
    if isinstance(content, str):
        return f"{OPEN}\n{content}\n{CLOSE}"
    return [{"type": "text", "text": OPEN}, *content, {"type": "text", "text": CLOSE}]
