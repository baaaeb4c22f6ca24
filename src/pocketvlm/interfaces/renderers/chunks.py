"""What OpenAI's chat completions and completions share: heads, finish reasons and the chunks of a stream."""

from __future__ import annotations

from typing import Any

from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.renderers.common import event
from pocketvlm.interfaces.schemas.common import UsageChunks
from pocketvlm.interfaces.usage import RequestOutput
from pocketvlm.types import FinishReason


def head(output: RequestOutput, prefix: str) -> dict[str, Any]:
    """The first fields of an answer, and of each chunk of a stream."""
    return {
        "id": f"{prefix}-{output.id}",
        "created": output.created,
        "model": output.model,
        "system_fingerprint": output.fingerprint,
    }


def finish_reason(reason: FinishReason | None, called: bool = False) -> str | None:
    """OpenAI's word for an end. Clients know none for repetition, so `stop_reason` names it."""
    if reason == "repetition":
        return "length"
    return "tool_calls" if reason == "stop" and called else reason


def stop_reason(reason: FinishReason | None, stop: str | None) -> str | None:
    """What ended an answer, where `finish_reason` does not say it: a stop string, or repetition."""
    return "repetition" if reason == "repetition" else stop


class ChunkStream:
    """What streams of OpenAI's chunks have in common: how they stay open, and how they end."""

    media_type = "text/event-stream; charset=utf-8"
    ping = b": still at work\n\n"

    def __init__(self, output: RequestOutput, head: dict[str, Any], usage: UsageChunks) -> None:
        self._output, self._head, self._usage = output, head, usage

    def with_usage(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """The chunk, with the usage so far or with none, as the client asked."""
        if self._usage != "none":
            chunk["usage"] = self._output.usage().counts() if self._usage == "each" else None
        return chunk

    def tail(self) -> bytes:
        """The usage, where it was asked for, and the end."""
        last = b""
        if self._usage != "none":
            usage = self._output.usage()
            last = event({**self._head, "choices": [], "usage": usage.counts(), "timings": usage.timings()})
        return last + b"data: [DONE]\n\n"

    def failure(self, error: ApiError) -> bytes:
        """An error object, and the end."""
        return event(error.body("openai")) + b"data: [DONE]\n\n"
