"""Ollama's interface: /api/chat, /api/generate, /api/tags, /api/show, /api/ps, /api/version."""

from __future__ import annotations

import json
import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pocketvlm import __version__
from pocketvlm.parsing import CallArguments, CallBegin, Content, Reasoning
from pocketvlm.server.accounts import Account
from pocketvlm.server.answering import Piece
from pocketvlm.server.context import Context
from pocketvlm.server.errors import ApiError
from pocketvlm.server.logs import Record
from pocketvlm.server.replies import Answer, Call, Json, Stream, dump, whole
from pocketvlm.server.routes.shared import Route, accept, context_of, record_of
from pocketvlm.server.running import Run
from pocketvlm.server.schemas.ollama import OllamaChatRequest, OllamaGenerateRequest, OllamaShowRequest

router = APIRouter(route_class=Route, tags=["Ollama"])


@router.post("/api/chat", summary="Answer a conversation")
async def chat(body: OllamaChatRequest, request: Request) -> Response:
    """Messages in, one JSON object a line out."""
    context, record = accept(request, body)
    name = context.check_model(body.model)
    run = await context.ask(body.question(context.max_model_len, record.ignored), record)
    return await _reply(request, run, name, body.stream is not False, True)


@router.post("/api/generate", summary="Answer a question")
async def generate(body: OllamaGenerateRequest, request: Request) -> Response:
    """A prompt in, one JSON object a line out. Without a prompt: whether the model is there, which it is."""
    context, record = accept(request, body)
    name = context.check_model(body.model)
    if not body.prompt and not body.images:
        done = {"done": True, "done_reason": "load"}
        return Json({"model": name, "created_at": _now(), "response": "", **done})
    run = await context.ask(body.question(context.max_model_len, record.ignored), record)
    return await _reply(request, run, name, body.stream is not False, False)


@router.get("/api/tags", summary="The models")
async def tags(request: Request) -> Response:
    """The model under each of its names."""
    context = context_of(request)
    return Json({"models": [_tag(context, name) for name in context.names]})


@router.get("/api/ps", summary="The models in memory")
async def ps(request: Request) -> Response:
    """The same: the model is always in memory."""
    context = context_of(request)
    more = {"expires_at": "2999-01-01T00:00:00Z", "size_vram": 0, "context_length": context.max_model_len}
    return Json({"models": [{**_tag(context, name), **more} for name in context.names]})


@router.post("/api/show", summary="What a model is")
async def show(body: OllamaShowRequest, request: Request) -> Response:
    """Template, sizes and capabilities."""
    context, _ = accept(request, body)
    context.check_model(body.model or body.name)
    config = context.model.checkpoint.model.text
    return Json(
        {
            "modelfile": "",
            "parameters": "",
            "template": context.processor.template.source,
            "details": _details(context),
            "model_info": {
                "general.architecture": "minicpmv",
                "general.parameter_count": context.model.checkpoint.parameters,
                "minicpmv.context_length": context.max_model_len,
                "minicpmv.embedding_length": config.hidden_size,
                "minicpmv.block_count": len(config.layer_types),
            },
            "capabilities": ["completion", "vision", "tools", "thinking"],
            "modified_at": _now(context.created),
        }
    )


@router.get("/api/version", summary="The version of pocketvlm")
async def version() -> Response:
    """In Ollama's form."""
    return Json({"version": __version__})


def _now(seconds: float | None = None) -> str:
    seconds = time.time() if seconds is None else seconds
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06d}Z"


def _details(context: Context) -> dict[str, Any]:
    checkpoint = context.model.checkpoint
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": "minicpmv",
        "families": ["minicpmv"],
        "parameter_size": f"{checkpoint.parameters / 1e9:.1f}B",
        "quantization_level": str(context.model.ops.describe().get("weights", "")).partition(" ")[0],
    }


def _tag(context: Context, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": _now(context.created),
        "size": context.model.checkpoint.nbytes,
        "digest": "",
        "details": _details(context),
    }


async def _reply(request: Request, run: Run, name: str, stream: bool, chat: bool) -> Response:
    context, record = context_of(request), record_of(request)
    lines = Lines(run, record, name, chat)
    if stream:
        return Stream(context, run, record, lines)

    def render(answers: list[Answer]) -> dict[str, Any]:
        answer = answers[0]
        text, thought = "".join(answer.text), "".join(answer.reasoning)
        return lines.line(text, thought, answer.calls, lines.end())

    return await whole(context, run, record, request, render)


class Lines:
    """JSON objects, one a line. Calls are given whole, as Ollama does."""

    media_type = "application/x-ndjson"
    ping = b""

    def __init__(self, run: Run, record: Record, name: str, chat: bool) -> None:
        self._run = run
        self._record = record
        self._name = name
        self._chat = chat
        self._calls: list[Call] = []

    def head(self) -> bytes:
        """Nothing."""
        return b""

    def piece(self, piece: Piece) -> bytes:
        """A line for each piece of text; one for the calls, at their end."""
        out = []
        for delta in piece.deltas:
            match delta:
                case Content(text):
                    out.append(self.line(text, "", [], {}))
                case Reasoning(text):
                    out.append(self.line("", text, [], {}))
                case CallBegin(_, name):
                    self._calls.append(Call(name))
                case CallArguments(_, text):
                    self._calls[-1].arguments.append(text)
        if piece.finish_reason is not None and self._calls:
            out.append(self.line("", "", self._calls, {}))
        return b"".join(dump(line) + b"\n" for line in out)

    def tail(self) -> bytes:
        """The last line: why it ended, counts and times."""
        return dump(self.line("", "", [], self.end())) + b"\n"

    def failure(self, error: ApiError) -> bytes:
        """A line with the error."""
        return dump(error.body("ollama")) + b"\n"

    def line(self, text: str, thinking: str, calls: list[Call], more: dict[str, Any]) -> dict[str, Any]:
        """One object."""
        head = {"model": self._name, "created_at": _now()}
        done = more or {"done": False}
        if not self._chat:
            return {**head, "response": text, **({"thinking": thinking} if thinking else {}), **done}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = [
                {"function": {"name": call.name, "arguments": json.loads("".join(call.arguments) or "{}")}}
                for call in calls
            ]
        return {**head, "message": message, **done}

    def end(self) -> dict[str, Any]:
        """The fields of the last object; times are nanoseconds."""
        account = Account.of(self._run, self._record)
        return {
            "done": True,
            "done_reason": str(self._run.voices[0].finish_reason),
            "total_duration": int(account.total * 1e9),
            "load_duration": 0,
            "prompt_eval_count": account.prompt,
            "prompt_eval_duration": int((account.vision + account.prefill) * 1e9),
            "eval_count": account.completion,
            "eval_duration": int(account.decode * 1e9),
        }
