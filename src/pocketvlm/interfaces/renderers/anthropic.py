"""Answers of Anthropic's /v1/messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pocketvlm.answers.answer import Answer
from pocketvlm.answers.choice import Delta
from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.renderers.common import call_id, event
from pocketvlm.interfaces.schemas.anthropic import MessagesRequest
from pocketvlm.interfaces.usage import RequestOutput, RequestUsage
from pocketvlm.parsing import CallArguments, CallBegin, Content, Reasoning
from pocketvlm.types import FinishReason

# Clients know no word for an answer that was cut because it repeated itself.
_REASONS: dict[FinishReason | None, str] = {"stop": "end_turn", "length": "max_tokens", "repetition": "max_tokens"}
# Clients take a block without one for text that somebody else wrote.
_SIGNATURE = "pocketvlm"
_NO_STOP = {"stop_reason": None, "stop_sequence": None, "stop_details": None, "container": None}


class MessageRenderer:
    """An answer as a message object. hides_thinking: thinking blocks have no text."""

    def __init__(self, output: RequestOutput, body: MessagesRequest) -> None:
        self.output = output
        self.hides_thinking = body.hides_thinking

    def stream(self) -> MessageStream:
        """The events."""
        return MessageStream(self)

    def message(self, content: list[dict[str, Any]], ended: bool) -> dict[str, Any]:
        """The message with this content; without the reason for its end where it has not ended."""
        return {
            "id": f"msg_{self.output.id}",
            "type": "message",
            "role": "assistant",
            "model": self.output.model,
            "content": content,
            **(self.stop() if ended else _NO_STOP),
            "usage": {
                **self.usage(self.output.usage()),
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
                "service_tier": "standard",
                "inference_geo": None,
            },
        }

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The message with all its blocks."""
        answer = answers[0]
        blocks: list[dict[str, Any]] = []
        if answer.reasoning:
            blocks.append(_thinking("" if self.hides_thinking else "".join(answer.reasoning)))
        if answer.text:
            blocks.append(_text("".join(answer.text)))
        for number, call in enumerate(answer.calls):
            blocks.append(self.call(number, call.name, call.parsed_arguments()))
        return self.message(blocks, ended=True)

    def call(self, number: int, name: str, arguments: Any) -> dict[str, Any]:
        """A function call as a block."""
        block_id = call_id(self.output.id, 0, number)
        return {"type": "tool_use", "id": block_id, "name": name, "input": arguments, "caller": {"type": "direct"}}

    def usage(self, usage: RequestUsage) -> dict[str, Any]:
        """Counts of tokens; those that were in the prefix cache are not part of the input."""
        return {
            "input_tokens": usage.prompt - usage.cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached,
            "output_tokens": usage.completion,
            "output_tokens_details": {"thinking_tokens": usage.reasoning},
            "server_tool_use": None,
        }

    def stop(self) -> dict[str, Any]:
        """Why the answer ended."""
        choice = self.output.choices[0]
        reason = _REASONS[choice.finish_reason]
        if choice.matched is not None:
            reason = "stop_sequence"
        elif choice.called and reason == "end_turn":
            reason = "tool_use"
        return {"stop_reason": reason, "stop_sequence": choice.matched, "stop_details": None, "container": None}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "citations": []}


def _thinking(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": _SIGNATURE}


class MessageStream:
    """Events of /v1/messages: one block after the other."""

    media_type = "text/event-stream; charset=utf-8"
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, renderer: MessageRenderer) -> None:
        self._renderer = renderer
        self._index = -1
        self._open: str | None = None

    def head(self) -> bytes:
        """The message without content."""
        return self._event("message_start", message=self._renderer.message([], ended=False)) + self.ping

    def delta(self, delta: Delta) -> bytes:
        """Blocks, and what is added to them."""
        out = []
        for part in delta.parts:
            match part:
                case Content(text):
                    out.append(self._block("text", _text("")))
                    out.append(self._delta({"type": "text_delta", "text": text}))
                case Reasoning(text):
                    out.append(self._block("thinking", _thinking("")))
                    if not self._renderer.hides_thinking:
                        out.append(self._delta({"type": "thinking_delta", "thinking": text}))
                case CallBegin(index, name):
                    out.append(self._close())
                    out.append(self._block("call", self._renderer.call(index, name, {})))
                case CallArguments(_, text):
                    out.append(self._delta({"type": "input_json_delta", "partial_json": text}))
        return b"".join(out)

    def tail(self) -> bytes:
        """Why it ended, and what it took."""
        total = self._renderer.output.usage()
        usage, timings = self._renderer.usage(total), total.timings()
        stop = self._event("message_delta", delta=self._renderer.stop(), usage=usage, timings=timings)
        return self._close() + stop + self._event("message_stop")

    def failure(self, error: ApiError) -> bytes:
        """An error event."""
        return event(error.body("anthropic", self._renderer.output.id), "error")

    def _block(self, kind: str, block: dict[str, Any]) -> bytes:
        """Begin a block, unless one of this kind is open."""
        if self._open == kind:
            return b""
        closed = self._close()
        self._open = kind
        self._index += 1
        return closed + self._event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._event("content_block_delta", index=self._index, delta=delta)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        last = b""
        if self._open == "thinking":
            last = self._delta({"type": "signature_delta", "signature": _SIGNATURE})
        self._open = None
        return last + self._event("content_block_stop", index=self._index)

    @staticmethod
    def _event(name: str, /, **fields: Any) -> bytes:
        return event({"type": name, **fields}, name)
