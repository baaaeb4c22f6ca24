"""The route POST /v1/completions continues text without the chat template."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pocketvlm.answers.answer import Answer
from pocketvlm.answers.choice import Delta
from pocketvlm.interfaces.renderers.chat import finish_reason, stop_reason
from pocketvlm.interfaces.schemas.chat import CompletionRequest
from pocketvlm.interfaces.usage import RequestUsage
from pocketvlm.processor.tokenizer import Tokenizer
from pocketvlm.server.context import Context
from pocketvlm.server.logs import Record
from pocketvlm.server.replies import Stream, event, whole
from pocketvlm.server.routes.shared import ChunkStream, Route, accept
from pocketvlm.server.running import Run
from pocketvlm.types import TokenLogprob

router = APIRouter(route_class=Route, tags=["OpenAI"])


@router.post("/v1/completions", summary="Continue text")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Text or token ids in, what follows out; several prompts give choices one after the other."""
    context, record = accept(request, body)
    name = context.check_model(body.model)
    record.user = body.user
    record.id = body.request_id or record.id
    first, *also = body.questions(record.ignored)
    run = await context.ask(first, record, tuple(also))
    head = {
        "id": f"cmpl-{record.id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": name,
        "system_fingerprint": context.fingerprint,
    }
    if body.stream:
        return Stream(context, run, record, CompletionStream(context, run, record, head, body))

    def render(answers: list[Answer]) -> dict[str, Any]:
        usage = RequestUsage.of(run, record)
        choices = []
        for index, answer in enumerate(answers):
            echo = _prompt_text(context, run, index) if body.echo else ""
            choices.append(
                {
                    "index": index,
                    "text": echo + "".join(answer.text),
                    "logprobs": None if body.logprobs is None else _logprobs(context.tokenizer, answer.logprobs, 0)[0],
                    "finish_reason": finish_reason(answer.finish_reason),
                    "stop_reason": stop_reason(answer.finish_reason, answer.stop),
                }
            )
        return {**head, "choices": choices, "usage": usage.counts(), "timings": usage.timings()}

    return await whole(context, run, record, request, render)


def _prompt_text(context: Context, run: Run, index: int) -> str:
    ids = run.choices[index].request.prompt.ids
    return context.tokenizer.decode(ids.tolist(), skip_special_tokens=False)


def _logprobs(tokenizer: Tokenizer, tokens: list[TokenLogprob], offset: int) -> tuple[dict[str, Any], int]:
    """The older form of log-probabilities: lists side by side; and where the next token's text begins."""

    def text(token: int) -> str:
        return tokenizer.token_bytes(token).decode("utf-8", "replace")

    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(text(token.token_id))
    found = {
        "tokens": [text(token.token_id) for token in tokens],
        "token_logprobs": [max(token.logprob, -9999.0) for token in tokens],
        # The sampled token is always among them, so that logprobs=0 shows it alone.
        "top_logprobs": [
            {text(other): max(value, -9999.0) for other, value in ((token.token_id, token.logprob), *token.top)}
            for token in tokens
        ],
        "text_offset": offsets,
    }
    return found, offset


class CompletionStream(ChunkStream):
    """Chunks of /v1/completions."""

    def __init__(
        self, context: Context, run: Run, record: Record, head: dict[str, Any], body: CompletionRequest
    ) -> None:
        super().__init__(run, record, head, body.stream_options.usage if body.stream_options else "none")
        self._context = context
        self._echo = bool(body.echo)
        self._logprobs = body.logprobs is not None
        self._pending: list[list[TokenLogprob]] = [[] for _ in run.choices]
        self._offsets = [0] * len(run.choices)

    def head(self) -> bytes:
        """The prompts, where they are to be repeated."""
        if not self._echo:
            return b""
        choices = self._run.choices
        return b"".join(
            self._chunk(choice.index, _prompt_text(self._context, self._run, choice.index), None) for choice in choices
        )

    def delta(self, delta: Delta) -> bytes:
        """A chunk of text."""
        text = delta.text
        self._pending[delta.index] += delta.logprobs
        if not text and delta.finish_reason is None:
            return b""
        stop = stop_reason(delta.finish_reason, delta.stop)
        return self._chunk(delta.index, text, finish_reason(delta.finish_reason), stop)

    def _chunk(self, index: int, text: str, finish: str | None, stop: str | None = None) -> bytes:
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        if stop is not None:
            choice["stop_reason"] = stop
        if self._logprobs and self._pending[index]:
            choice["logprobs"], self._offsets[index] = _logprobs(
                self._context.tokenizer, self._pending[index], self._offsets[index]
            )
            self._pending[index] = []
        chunk = self.with_usage({**self._head, "choices": [choice]})
        if finish is not None and self._run.done:
            chunk["timings"] = RequestUsage.of(self._run, self._record).timings()
        return event(chunk)
