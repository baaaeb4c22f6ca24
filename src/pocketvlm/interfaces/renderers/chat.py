"""Answers of OpenAI's /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pocketvlm.answers.answer import Answer
from pocketvlm.answers.choice import Delta
from pocketvlm.interfaces.renderers.chunks import ChunkStream, finish_reason, head, stop_reason
from pocketvlm.interfaces.renderers.common import call_id, dump, logprobs
from pocketvlm.interfaces.schemas.chat import ChatRequest
from pocketvlm.interfaces.schemas.common import UsageChunks
from pocketvlm.interfaces.usage import RequestOutput
from pocketvlm.parsing import CallArguments, CallBegin, Content, Reasoning
from pocketvlm.processor.tokenizer import Tokenizer
from pocketvlm.types import TokenLogprob

# What clients of different servers call the text of reasoning.
REASONING = ("reasoning_content", "reasoning")
# Stands for a chunk's text while what surrounds it is written; ids and names of models cannot hold it.
_HOLE = "\x00"


class ChatRenderer:
    """An answer as a chat completion."""

    def __init__(self, output: RequestOutput, body: ChatRequest) -> None:
        self._output = output
        self._logprobs = bool(body.logprobs)
        self._usage = body.stream_options.usage if body.stream_options else "none"
        self._head = head(output, "chatcmpl")

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The completion with all choices."""
        usage = self._output.usage()
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choice(index, answer) for index, answer in enumerate(answers)],
            "usage": usage.counts(),
            "timings": usage.timings(),
        }

    def stream(self) -> ChatStream:
        """The chunks."""
        return ChatStream(self._output, self._head, self._usage, self._logprobs)

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        text = "".join(answer.text)
        content = text if text or not answer.calls else None
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
        if answer.reasoning:
            message |= dict.fromkeys(REASONING, "".join(answer.reasoning))
        if answer.calls:
            message["tool_calls"] = [
                {
                    "id": call_id(self._output.id, index, number),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments_json},
                }
                for number, call in enumerate(answer.calls)
            ]
        choice: dict[str, Any] = {
            "index": index,
            "message": message,
            "logprobs": _logprobs(self._output.tokenizer, answer.logprobs) if self._logprobs else None,
            "finish_reason": finish_reason(answer.finish_reason, bool(answer.calls)),
        }
        stop = stop_reason(answer.finish_reason, answer.stop)
        if stop is not None:
            choice["stop_reason"] = stop
        return choice


def _logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The log-probabilities of a choice."""
    return {"content": logprobs(tokenizer, tokens), "refusal": None}


class ChatStream(ChunkStream):
    """Chunks of /v1/chat/completions."""

    def __init__(self, output: RequestOutput, head: dict[str, Any], usage: UsageChunks, with_logprobs: bool) -> None:
        super().__init__(output, {**head, "object": "chat.completion.chunk"}, usage)
        self._tokenizer = output.tokenizer
        self._logprobs = with_logprobs
        self._pending: list[list[TokenLogprob]] = [[] for _ in output.choices]
        self._around: dict[tuple[int, tuple[str, ...]], list[bytes]] = {}

    def head(self) -> bytes:
        """One chunk a choice with the role."""
        return b"".join(
            self._chunk(choice.index, {"role": "assistant", "content": ""}, None) for choice in self._output.choices
        )

    def delta(self, delta: Delta) -> bytes:
        """Chunks of text, reasoning and calls, and the one with the finish reason."""
        out = []
        self._pending[delta.index] += delta.logprobs
        for part in delta.parts:
            match part:
                case Content(text):
                    out.append(self._text(delta.index, ("content",), text))
                case Reasoning(text):
                    out.append(self._text(delta.index, REASONING, text))
                case CallBegin(index, name):
                    function = {"name": name, "arguments": ""}
                    call = {"index": index, "id": call_id(self._output.id, delta.index, index), "type": "function"}
                    out.append(self._chunk(delta.index, {"tool_calls": [{**call, "function": function}]}, None))
                case CallArguments(index, text):
                    call = {"index": index, "function": {"arguments": text}}
                    out.append(self._chunk(delta.index, {"tool_calls": [call]}, None))
        if delta.finish_reason is not None:
            called = self._output.choices[delta.index].called
            more = {"timings": self._output.usage().timings()} if self._output.done else {}
            stop = stop_reason(delta.finish_reason, delta.stop)
            if stop is not None:
                more["stop_reason"] = stop  # type: ignore[assignment]
            out.append(self._chunk(delta.index, {}, finish_reason(delta.finish_reason, called), more))
        return b"".join(out)

    def _text(self, index: int, names: tuple[str, ...], text: str) -> bytes:
        """A chunk with text; without log-probabilities and usage all but the text is the same each time."""
        if self._logprobs or self._usage == "each":
            return self._chunk(index, dict.fromkeys(names, text), None)
        around = self._around.get((index, names))
        if around is None:
            chunk = self._chunk(index, dict.fromkeys(names, _HOLE), None)
            around = self._around[index, names] = chunk.split(dump(_HOLE))
        return dump(text).join(around)

    def _chunk(
        self, index: int, delta: dict[str, Any], finish: str | None, more: dict[str, Any] | None = None
    ) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish}
        if self._logprobs:
            pending = self._pending[index]
            choice["logprobs"] = _logprobs(self._tokenizer, pending) if pending else None
            self._pending[index] = []
        chunk = self.with_usage({**self._head, "choices": [choice]})
        if more:
            timings = more.pop("timings", None)
            choice.update(more)
            if timings is not None:
                chunk["timings"] = timings
        return b"data: " + dump(chunk) + b"\n\n"
