"""Routes share the context, the request record, a JSON reader and the end of a stream."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pydantic_core
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from pocketvlm.errors import PocketVLMError
from pocketvlm.interfaces.errors import ApiError, from_failure
from pocketvlm.interfaces.schemas.common import Body, UsageChunks
from pocketvlm.interfaces.usage import RequestUsage
from pocketvlm.server.context import Context
from pocketvlm.server.logs import Record
from pocketvlm.server.replies import event
from pocketvlm.server.running import Run


class _JsonRequest(Request):
    """A request whose JSON is read by the quick parser, which also refuses NaN and infinity."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            try:
                self._json = pydantic_core.from_json(await self.body(), allow_inf_nan=False)
            except ValueError as error:
                nested = "recursion limit" in str(error)
                why = "is nested too deeply" if nested else f"is not valid JSON: {error}"
                raise ApiError(400, f"the body {why}", code="invalid_json") from None
        return self._json


class Route(APIRoute):
    """A route that reads bodies so, and turns our own failures into answers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, wrapped."""
        handler = super().get_route_handler()
        name = self.path

        async def handle(request: Request) -> Response:
            record_of(request).route = name
            try:
                return await handler(_JsonRequest(request.scope, request.receive))
            except PocketVLMError as error:
                raise from_failure(error) from None

        return handle


def context_of(request: Request) -> Context:
    """The server that a request came to."""
    context: Context = request.app.state.context
    return context


def record_of(request: Request) -> Record:
    """What is noted about a request."""
    record: Record = request.scope["record"]
    return record


def accept(request: Request, body: Body) -> tuple[Context, Record]:
    """The server and the record of a request, once the fields of its body have been judged. Raises OptionError."""
    record = record_of(request)
    body.accept(record.ignored)
    return context_of(request), record


class ChunkStream:
    """What streams of OpenAI's chunks have in common: how they stay open, and how they end."""

    media_type = "text/event-stream; charset=utf-8"
    ping = b": still at work\n\n"

    def __init__(self, run: Run, record: Record, head: dict[str, Any], usage: UsageChunks) -> None:
        self._run, self._record, self._head, self._usage = run, record, head, usage

    def with_usage(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """The chunk, with the usage so far or with none, as the client asked."""
        if self._usage != "none":
            chunk["usage"] = RequestUsage.of(self._run, self._record).counts() if self._usage == "each" else None
        return chunk

    def tail(self) -> bytes:
        """The usage, where it was asked for, and the end."""
        last = b""
        if self._usage != "none":
            usage = RequestUsage.of(self._run, self._record)
            last = event({**self._head, "choices": [], "usage": usage.counts(), "timings": usage.timings()})
        return last + b"data: [DONE]\n\n"

    def failure(self, error: ApiError) -> bytes:
        """An error object, and the end."""
        return event(error.body("openai")) + b"data: [DONE]\n\n"
