"""These routes serve Ollama's /api/chat and /api/generate."""

from __future__ import annotations

import json
import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pocketvlm.answers.answer import Answer, Call
from pocketvlm.answers.choice import Delta
from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.renderers.chat import call_id, logprobs
from pocketvlm.interfaces.schemas.ollama import OllamaBase, OllamaChatRequest, OllamaGenerateRequest
from pocketvlm.interfaces.usage import RequestUsage
from pocketvlm.parsing import CallArguments, CallBegin, Content, Reasoning
from pocketvlm.server.context import Context
from pocketvlm.server.logs import Record
from pocketvlm.server.replies import Json, Stream, dump, whole
from pocketvlm.server.routes.shared import Route, accept, context_of, record_of
from pocketvlm.server.running import Run
from pocketvlm.types import TokenLogprob

router = APIRouter(route_class=Route, tags=["Ollama"])


@router.post("/api/chat", summary="Answer a conversation")
async def chat(body: OllamaChatRequest, request: Request) -> Response:
    """Messages in, one JSON object a line out. Without messages: whether the model is loaded, which it is."""
    context, record = accept(request, body)
    name = context.check_model(body.asked)
    question = body.question(record.ignored)
    if not body.messages:
        return _loaded(name, body, {"message": {"role": "assistant", "content": ""}})
    run = await context.ask(question, record)
    return await _reply(request, run, body, Lines(context, run, record, name, chat=True))


@router.post("/api/generate", summary="Answer a question")
async def generate(body: OllamaGenerateRequest, request: Request) -> Response:
    """A prompt in, one JSON object a line out. Without a prompt: whether the model is loaded, which it is."""
    context, record = accept(request, body)
    name = context.check_model(body.asked)
    question = body.question(context.processor.template.source, record.ignored)
    if not body.prompt and not body.images:
        return _loaded(name, body, {"response": ""})
    run = await context.ask(question, record)
    return await _reply(request, run, body, Lines(context, run, record, name, chat=False, raw=bool(body.raw)))


def timestamp(seconds: float | None = None) -> str:
    """A time, now by default, in the form of Go's JSON."""
    seconds = time.time() if seconds is None else seconds
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06d}Z"


def _loaded(name: str, body: OllamaBase, empty: dict[str, Any]) -> Response:
    """What Ollama answers when it has loaded or unloaded a model: one object, also for streams."""
    reason = "unload" if body.unloads else "load"
    return Json({"model": name, "created_at": timestamp(), **empty, "done": True, "done_reason": reason})


async def _reply(request: Request, run: Run, body: OllamaBase, lines: Lines) -> Response:
    context, record = context_of(request), record_of(request)
    if body.stream is not False:
        return Stream(context, run, record, lines)
    return await whole(context, run, record, request, lambda answers: lines.whole(answers[0]))


class Lines:
    """JSON objects, one a line. Calls are given whole, as Ollama does."""

    media_type = "application/x-ndjson"
    ping = b""

    def __init__(self, context: Context, run: Run, record: Record, name: str, *, chat: bool, raw: bool = False) -> None:
        self._tokenizer = context.tokenizer
        self._run = run
        self._record = record
        self._name = name
        self._chat = chat
        # An earlier conversation comes back as ids alone, in which images would be missing.
        self._gives_ids = not chat and not raw and not run.prompts[0].views
        self._ids: list[int] = []
        self._calls: list[Call] = []
        self._logprobs: list[TokenLogprob] = []

    def head(self) -> bytes:
        """Nothing."""
        return b""

    def delta(self, delta: Delta) -> bytes:
        """A line for each delta with text; one for the calls, at their end."""
        out = []
        self._ids += delta.token_ids
        self._logprobs += delta.logprobs
        for part in delta.parts:
            match part:
                case Content(text):
                    out.append(self._line(text, "", [], {}))
                case Reasoning(text):
                    out.append(self._line("", text, [], {}))
                case CallBegin(_, name):
                    self._calls.append(Call(name))
                case CallArguments(_, text):
                    self._calls[-1].arguments.append(text)
        if delta.finish_reason is not None and self._calls:
            out.append(self._line("", "", self._calls, {}))
        return b"".join(dump(line) + b"\n" for line in out)

    def tail(self) -> bytes:
        """The last line: why it ended, counts and times."""
        return dump(self._line("", "", [], self._end())) + b"\n"

    def failure(self, error: ApiError) -> bytes:
        """A line with the error."""
        return dump(error.body("ollama")) + b"\n"

    def whole(self, answer: Answer) -> dict[str, Any]:
        """All of an answer as one object."""
        self._ids, self._logprobs = answer.token_ids, answer.logprobs
        return self._line("".join(answer.text), "".join(answer.reasoning), answer.calls, self._end())

    def _line(self, text: str, thinking: str, calls: list[Call], end: dict[str, Any]) -> dict[str, Any]:
        """One object, with the log-probabilities of all tokens since the last one."""
        line: dict[str, Any] = {"model": self._name, "created_at": timestamp()}
        thought = {"thinking": thinking} if thinking else {}
        if self._chat:
            called = {"tool_calls": self._called(calls)} if calls else {}
            line["message"] = {"role": "assistant", "content": text, **thought, **called}
        else:
            line |= {"response": text, **thought}
        if self._logprobs:
            line["logprobs"] = logprobs(self._tokenizer, self._logprobs)
            self._logprobs = []
        return {**line, **(end or {"done": False})}

    def _called(self, calls: list[Call]) -> list[dict[str, Any]]:
        return [
            {
                "id": call_id(self._record.id, 0, index),
                "function": {
                    "index": index,
                    "name": call.name,
                    "arguments": json.loads("".join(call.arguments) or "{}"),
                },
            }
            for index, call in enumerate(calls)
        ]

    def _end(self) -> dict[str, Any]:
        """The fields of the last object; times are nanoseconds.

        load_duration is how long the request waited for the model: Ollama's time until one is ready.
        """
        usage = RequestUsage.of(self._run, self._record)
        ids = {"context": [*self._run.prompts[0].ids.tolist(), *self._ids]} if self._gives_ids else {}
        return {
            "done": True,
            "done_reason": str(self._run.choices[0].finish_reason),
            **ids,
            "total_duration": int(usage.total * 1e9),
            "load_duration": max(1, int(usage.queue * 1e9)),
            "prompt_eval_count": usage.prompt,
            "prompt_eval_duration": int((usage.vision + usage.prefill) * 1e9),
            "eval_count": usage.completion,
            "eval_duration": int(usage.decode * 1e9),
        }
