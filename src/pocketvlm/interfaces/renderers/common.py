"""What the answers of all interfaces share: JSON, server-sent events, ids of calls and log-probabilities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from pocketvlm.answers.answer import Answer
from pocketvlm.answers.choice import Delta
from pocketvlm.interfaces.errors import ApiError
from pocketvlm.processor.tokenizer import Tokenizer
from pocketvlm.types import TokenLogprob

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class StreamRenderer(Protocol):
    """Writes the answer to one request as a stream."""

    media_type: str
    ping: bytes  # what keeps the connection open while nothing comes; empty for nothing

    def head(self) -> bytes:
        """The beginning."""
        ...

    def delta(self, delta: Delta) -> bytes:
        """Some tokens of one choice."""
        ...

    def tail(self) -> bytes:
        """The end, after the last delta of every choice."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """The end, when the request failed half-way."""
        ...


class Renderer(Protocol):
    """Writes the answer to one request in the form of its interface."""

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The body, when every choice has ended."""
        ...

    def stream(self) -> StreamRenderer:
        """What writes it as it comes."""
        ...


def dump(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return _encode(value).encode("utf-8", "replace")


def event(value: Any, name: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + dump(value) + b"\n\n"


def call_id(request_id: str, choice: int, index: int) -> str:
    """The id of a call: the same for the same request, so that parts of a stream agree."""
    return f"call_{request_id[-24:]}{choice:x}x{index:x}"


def logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """OpenAI's list of tokens with their log-probabilities."""
    return [
        {
            **_logprob(tokenizer, token.token_id, token.logprob),
            "top_logprobs": [_logprob(tokenizer, other, value) for other, value in token.top],
        }
        for token in tokens
    ]


def _logprob(tokenizer: Tokenizer, token: int, value: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": max(value, -9999.0), "bytes": list(data)}
