"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's interface."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pocketvlm.parsing import CallArguments, CallBegin, Content, Reasoning
from pocketvlm.server.accounts import Account
from pocketvlm.server.answering import Piece
from pocketvlm.server.errors import ApiError
from pocketvlm.server.logs import Record
from pocketvlm.server.replies import Answer, Json, Stream, event, whole
from pocketvlm.server.routes.chat import call_id
from pocketvlm.server.routes.shared import Route, accept
from pocketvlm.server.running import Run
from pocketvlm.server.schemas.anthropic import CountRequest, MessagesRequest

router = APIRouter(route_class=Route, tags=["Anthropic"])


@router.post("/v1/messages", summary="Answer a conversation")
async def messages(body: MessagesRequest, request: Request) -> Response:
    """Text and image blocks in, blocks out, whole or as a stream of events."""
    context, record = accept(request, body)
    name = context.check_model(body.model)
    record.user = body.metadata.user_id if body.metadata else None
    run = await context.ask(body.question(record.ignored), record)
    if body.stream:
        return Stream(context, run, record, MessageStream(run, record, name))
    return await whole(context, run, record, request, lambda answers: _message(run, record, name, answers[0]))


@router.post("/v1/messages/count_tokens", summary="Count the tokens of a conversation")
async def count_tokens(body: CountRequest, request: Request) -> Response:
    """How many tokens the prompt has, those of images included."""
    context, record = accept(request, body)
    context.check_model(body.model)
    prompt, _ = await context.prompt_for(body.question(record.ignored), record.owner)
    return Json({"input_tokens": len(prompt.ids)})


def _usage(account: Account) -> dict[str, Any]:
    return {
        "input_tokens": account.prompt - account.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": account.cached,
        "output_tokens": account.completion,
    }


def _stop(run: Run) -> dict[str, Any]:
    voice = run.voices[0]
    reason = {"stop": "end_turn", "length": "max_tokens"}.get(str(voice.finish_reason), voice.finish_reason)
    if voice.matched is not None:
        reason = "stop_sequence"
    elif voice.called and reason == "end_turn":
        reason = "tool_use"
    return {"stop_reason": reason, "stop_sequence": voice.matched}


def _message(run: Run, record: Record, name: str, answer: Answer) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        blocks.append({"type": "thinking", "thinking": "".join(answer.reasoning), "signature": ""})
    text = "".join(answer.text)
    if text and (text.strip() or not answer.calls):
        blocks.append({"type": "text", "text": text})
    for number, call in enumerate(answer.calls):
        blocks.append(
            {
                "type": "tool_use",
                "id": call_id(record.id, 0, number),
                "name": call.name,
                "input": json.loads("".join(call.arguments) or "{}"),
            }
        )
    return {
        "id": f"msg_{record.id}",
        "type": "message",
        "role": "assistant",
        "model": name,
        "content": blocks,
        **_stop(run),
        "usage": _usage(Account.of(run, record)),
    }


class MessageStream:
    """Events of /v1/messages: one block after the other."""

    media_type = "text/event-stream; charset=utf-8"
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, run: Run, record: Record, name: str) -> None:
        self._run = run
        self._record = record
        self._name = name
        self._index = -1
        self._open: str | None = None

    def head(self) -> bytes:
        """The message without content."""
        usage = {**_usage(Account.of(self._run, self._record)), "output_tokens": 0}
        message: dict[str, Any] = {
            "id": f"msg_{self._record.id}", "type": "message", "role": "assistant", "model": self._name,
            "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage,
        }  # fmt: skip
        return self._event("message_start", message=message) + self.ping

    def piece(self, piece: Piece) -> bytes:
        """Blocks, and pieces of them."""
        out = []
        for delta in piece.deltas:
            match delta:
                case Content(text):
                    out.append(self._block("text", {"type": "text", "text": ""}))
                    out.append(self._delta({"type": "text_delta", "text": text}))
                case Reasoning(text):
                    out.append(self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""}))
                    out.append(self._delta({"type": "thinking_delta", "thinking": text}))
                case CallBegin(index, name):
                    out.append(self._close())
                    number = call_id(self._record.id, 0, index)
                    out.append(self._block("call", {"type": "tool_use", "id": number, "name": name, "input": {}}))
                case CallArguments(_, text):
                    out.append(self._delta({"type": "input_json_delta", "partial_json": text}))
        return b"".join(out)

    def tail(self) -> bytes:
        """Why it ended, and what it took."""
        account = Account.of(self._run, self._record)
        stop = self._event("message_delta", delta=_stop(self._run), usage=_usage(account), timings=account.timings())
        return self._close() + stop + self._event("message_stop")

    def failure(self, error: ApiError) -> bytes:
        """An error event."""
        return event(error.body("anthropic", self._record.id), "error")

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
            last = self._delta({"type": "signature_delta", "signature": ""})
        self._open = None
        return last + self._event("content_block_stop", index=self._index)

    @staticmethod
    def _event(name: str, /, **fields: Any) -> bytes:
        return event({"type": name, **fields}, name)
