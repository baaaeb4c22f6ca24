"""The route POST /v1/chat/completions answers a conversation."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pocketvlm.answers.answer import Answer
from pocketvlm.answers.choice import Delta
from pocketvlm.interfaces.schemas.chat import ChatRequest
from pocketvlm.interfaces.schemas.common import UsageChunks
from pocketvlm.interfaces.usage import RequestUsage
from pocketvlm.parsing import CallArguments, CallBegin, Content, Reasoning
from pocketvlm.processor.tokenizer import Tokenizer
from pocketvlm.server.context import Context
from pocketvlm.server.logs import Record
from pocketvlm.server.replies import Stream, dump, whole
from pocketvlm.server.routes.shared import ChunkStream, Route, accept
from pocketvlm.server.running import Run
from pocketvlm.types import FinishReason, TokenLogprob

router = APIRouter(route_class=Route, tags=["OpenAI"])

# What clients of different servers call the text of reasoning.
REASONING = ("reasoning_content", "reasoning")
# Stands for a chunk's text while what surrounds it is written; ids and names of models cannot hold it.
_HOLE = "\x00"


@router.post("/v1/chat/completions", summary="Answer a conversation")
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Text and images in, an answer out, whole or as a stream of server-sent events."""
    context, record = accept(request, body)
    name = context.check_model(body.model)
    record.user = body.user
    record.id = body.request_id or record.id
    run = await context.ask(body.question(record.ignored), record)
    head = {
        "id": f"chatcmpl-{record.id}",
        "created": int(time.time()),
        "model": name,
        "system_fingerprint": context.fingerprint,
    }
    if body.stream:
        usage = body.stream_options.usage if body.stream_options else "none"
        return Stream(context, run, record, ChatStream(context, run, record, head, usage, bool(body.logprobs)))
    return await whole(
        context, run, record, request, lambda answers: _completion(context, run, record, head, answers, body)
    )


def finish_reason(reason: FinishReason | None, called: bool = False) -> str | None:
    """OpenAI's word for an end. Clients know none for repetition, so `stop_reason` names it."""
    if reason == "repetition":
        return "length"
    return "tool_calls" if reason == "stop" and called else reason


def stop_reason(reason: FinishReason | None, stop: str | None) -> str | None:
    """What ended an answer, where `finish_reason` does not say it: a stop string, or repetition."""
    return "repetition" if reason == "repetition" else stop


def call_id(request_id: str, choice: int, index: int) -> str:
    """The id of a call: the same for the same request, so that parts of a stream agree."""
    return f"call_{request_id[-24:]}{choice:x}x{index:x}"


def logprob(tokenizer: Tokenizer, token: int, value: float) -> dict[str, Any]:
    """A token and its log-probability."""
    data = tokenizer.token_bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": max(value, -9999.0), "bytes": list(data)}


def logprobs(tokenizer: Tokenizer, tokens: tuple[TokenLogprob, ...] | list[TokenLogprob]) -> list[dict[str, Any]]:
    """OpenAI's list of tokens with their log-probabilities."""
    return [
        {
            **logprob(tokenizer, token.token_id, token.logprob),
            "top_logprobs": [logprob(tokenizer, other, value) for other, value in token.top],
        }
        for token in tokens
    ]


def content_logprobs(tokenizer: Tokenizer, tokens: list[TokenLogprob]) -> dict[str, Any]:
    """The log-probabilities of a choice."""
    return {"content": logprobs(tokenizer, tokens), "refusal": None}


def _completion(
    context: Context, run: Run, record: Record, head: dict[str, Any], answers: list[Answer], body: ChatRequest
) -> dict[str, Any]:
    usage = RequestUsage.of(run, record)
    choices = []
    for index, answer in enumerate(answers):
        text = "".join(answer.text)
        content = text if text or not answer.calls else None
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
        if answer.reasoning:
            message |= dict.fromkeys(REASONING, "".join(answer.reasoning))
        if answer.calls:
            message["tool_calls"] = [
                {
                    "id": call_id(record.id, index, number),
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(call.arguments)},
                }
                for number, call in enumerate(answer.calls)
            ]
        choice: dict[str, Any] = {
            "index": index,
            "message": message,
            "logprobs": content_logprobs(context.tokenizer, answer.logprobs) if body.logprobs else None,
            "finish_reason": finish_reason(answer.finish_reason, bool(answer.calls)),
        }
        stop = stop_reason(answer.finish_reason, answer.stop)
        if stop is not None:
            choice["stop_reason"] = stop
        choices.append(choice)
    return {
        **head,
        "object": "chat.completion",
        "choices": choices,
        "usage": usage.counts(),
        "timings": usage.timings(),
    }


class ChatStream(ChunkStream):
    """Chunks of /v1/chat/completions."""

    def __init__(
        self, context: Context, run: Run, record: Record, head: dict[str, Any], usage: UsageChunks, with_logprobs: bool
    ) -> None:
        super().__init__(run, record, {**head, "object": "chat.completion.chunk"}, usage)
        self._tokenizer = context.tokenizer
        self._logprobs = with_logprobs
        self._pending: list[list[TokenLogprob]] = [[] for _ in run.choices]
        self._around: dict[tuple[int, tuple[str, ...]], list[bytes]] = {}

    def head(self) -> bytes:
        """One chunk a choice with the role."""
        return b"".join(
            self._chunk(choice.index, {"role": "assistant", "content": ""}, None) for choice in self._run.choices
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
                    call = {"index": index, "id": call_id(self._record.id, delta.index, index), "type": "function"}
                    out.append(self._chunk(delta.index, {"tool_calls": [{**call, "function": function}]}, None))
                case CallArguments(index, text):
                    call = {"index": index, "function": {"arguments": text}}
                    out.append(self._chunk(delta.index, {"tool_calls": [call]}, None))
        if delta.finish_reason is not None:
            called = self._run.choices[delta.index].called
            more = {"timings": RequestUsage.of(self._run, self._record).timings()} if self._run.done else {}
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
            choice["logprobs"] = content_logprobs(self._tokenizer, pending) if pending else None
            self._pending[index] = []
        chunk = self.with_usage({**self._head, "choices": [choice]})
        if more:
            timings = more.pop("timings", None)
            choice.update(more)
            if timings is not None:
                chunk["timings"] = timings
        return b"data: " + dump(chunk) + b"\n\n"
