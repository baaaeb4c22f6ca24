"""The stored bytes of an answer are parsed into token times, counts and text, or the reason of a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pocketvlm.bench.load.http import Received

_ERROR_LENGTH = 300
# Keys with the text of a chunk, in `delta` for chats and in the choice itself for completions.
_TEXTS = ("content", "reasoning_content", "reasoning", "text")


@dataclass(slots=True)
class Outcome:
    """The outcome of one request. Times are in seconds: `start` by the clock, all others from `start`.

    gaps: between chunks with text. prompt_tokens, output_tokens: the server's own numbers if it states them
    (`counted`), otherwise 0 and the number of chunks. queued: how long the client held the request back.
    """

    start: float
    ok: bool = False
    error: str = ""
    ttft: float = 0.0
    latency: float = 0.0
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    counted: bool = False
    text: str = ""
    queued: float = 0.0
    usage: dict[str, Any] = field(default_factory=dict)


def read(received: Received) -> Outcome:
    """Parse a streamed answer."""
    outcome = Outcome(received.sent)
    if received.status != 200 and received.status:
        outcome.error = f"status {received.status}: {error_text(received.body)}"
        return outcome
    texts: list[str] = []
    times: list[float] = []
    ended = False
    last = received.sent
    for moment, data in events(received):
        if data == b"[DONE]":
            ended = True
            continue
        try:
            chunk = json.loads(data)
        except ValueError:
            outcome.error = f"an event of the stream is not JSON: {_short(data)}"
            return outcome
        if not isinstance(chunk, dict):
            continue
        if chunk.get("error"):
            outcome.error = f"in the stream: {error_text(data)}"
            return outcome
        last = moment
        text, finished, more = _choices(chunk)
        ended = ended or finished
        if text or more:
            times.append(moment)
            texts.append(text)
        elif finished and not times:
            times.append(moment)  # an answer without text has only its end as an event
        if isinstance(chunk.get("usage"), dict):
            outcome.usage = chunk["usage"]
    if received.error or not ended:
        outcome.error = received.error or "the stream ended before the answer did"
        return outcome
    outcome.ok = True
    outcome.ttft = (times[0] if times else last) - received.sent
    outcome.latency = last - received.sent
    outcome.gaps = [after - before for before, after in pairwise(times)]
    outcome.text = "".join(texts)
    prompt, completion = outcome.usage.get("prompt_tokens"), outcome.usage.get("completion_tokens")
    outcome.counted = isinstance(prompt, int) and isinstance(completion, int)
    if isinstance(prompt, int) and isinstance(completion, int):
        outcome.prompt_tokens, outcome.output_tokens = prompt, completion
    else:
        outcome.output_tokens = len(times)
    return outcome


def events(received: Received) -> Iterator[tuple[float, bytes]]:
    """The data of server-sent events, each with the time when it was complete."""
    pending = b""
    data: list[bytes] = []
    for moment, part in received.parts:
        *lines, pending = (pending + part).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")  # noqa: PLW2901
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield moment, b"\n".join(data)
                data = []


def _choices(chunk: dict[str, Any]) -> tuple[str, bool, bool]:
    """The text of a chunk, whether a choice ends with it, and whether it is output without text.

    Output without text is a part of a call, or a token of /completions that completes no character yet.
    """
    text, finished, more = "", False, False
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or choice
        for name in _TEXTS:
            if isinstance(value := delta.get(name), str):
                text += value
        ends = choice.get("finish_reason") is not None
        more = more or bool(delta.get("tool_calls")) or ("text" in choice and not ends)
        finished = finished or ends
    return text, finished, more


def error_text(body: bytes) -> str:
    """The message in the body of an error, in one short line."""
    try:
        found = json.loads(body)
        error = found.get("error", found.get("detail", found.get("message", found)))
        text = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        return _short(body) or "no text"
    return _short(text if isinstance(text, str) else json.dumps(text))


def _short(text: str | bytes) -> str:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return " ".join(text.split())[:_ERROR_LENGTH]
