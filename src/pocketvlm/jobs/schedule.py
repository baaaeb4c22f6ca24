"""Within a window, lines with a common beginning are neighbours, and long ones come first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pocketvlm.jobs.line import Line

WINDOW_LINES = 256
WINDOW_BYTES = 32 << 20
_IMAGE_CHARACTERS = 2000  # an image has about the cost of a text of this length


def ordered(lines: Iterable[Line]) -> Iterator[Line]:
    """The lines, window by window: groups of lines that begin alike, the longest lines first.

    A prefix of the prompt is then still cached when the next line of its group comes, and a window does not end with
    one long answer alone. A window has at most WINDOW_LINES lines and about WINDOW_BYTES bytes.
    """
    window: list[Line] = []
    size = 0
    for line in lines:
        window.append(line)
        size += line.size
        if len(window) >= WINDOW_LINES or size >= WINDOW_BYTES:
            yield from _grouped(window)
            window, size = [], 0
    yield from _grouped(window)


def _grouped(window: list[Line]) -> list[Line]:
    groups: dict[bytes, list[tuple[int, Line]]] = {}
    for line in window:
        body = line.body or {}
        groups.setdefault(_beginning(body), []).append((_length(body), line))
    for group in groups.values():
        group.sort(key=lambda item: -item[0])
    return [line for group in sorted(groups.values(), key=lambda group: -group[0][0]) for _, line in group]


def _beginning(body: Mapping[str, Any]) -> bytes:
    """A digest of what a prompt begins with: system prompt, and the first part of the first other message."""
    head: list[Any] = [body.get("system"), body.get("instructions")]
    messages = body.get("messages", body.get("input", body.get("prompt")))
    if isinstance(messages, list):
        for message in messages:
            content = message.get("content") if isinstance(message, Mapping) else message
            head.append(content[0] if isinstance(content, list) and content else content)
            if not isinstance(message, Mapping) or message.get("role") not in ("system", "developer"):
                break
    else:
        head.append(messages)
    return hashlib.blake2b(json.dumps(head).encode(), digest_size=16).digest()


def _length(body: Mapping[str, Any]) -> int:
    """About how much work a line is, in characters."""
    limit = body.get("max_tokens", body.get("max_completion_tokens", body.get("max_output_tokens")))
    texts = [body.get("messages"), body.get("input"), body.get("prompt")]
    return sum(map(_characters, texts)) + (4 * limit if isinstance(limit, int) else 0)


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_characters, value))
    if not isinstance(value, Mapping):
        return 0
    if isinstance(value.get("type"), str) and value["type"] not in ("text", "input_text", "output_text", "message"):
        return _IMAGE_CHARACTERS
    return _characters(value.get("content")) + _characters(value.get("text"))
