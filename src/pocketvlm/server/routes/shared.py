"""Routes share the context, the request record, a JSON reader and the answers to failures."""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pocketvlm.errors import PocketVLMError
from pocketvlm.interfaces.endpoints import read_json
from pocketvlm.interfaces.errors import ApiError, from_failure
from pocketvlm.interfaces.schemas.common import Body
from pocketvlm.server.context import Context
from pocketvlm.server.logs import Record


class _JsonRequest(Request):
    """A request whose JSON is read by the quick parser, which also refuses NaN and infinity."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = read_json(await self.body())
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
            except OSError as error:
                full = disk_full(error)
                if full is None:
                    raise
                raise full from None
            except HTTPException as error:
                # FastAPI wraps what goes wrong while it reads a body.
                raise error.__cause__ if isinstance(error.__cause__, ApiError) else error from None

        return handle


def disk_full(error: OSError) -> ApiError | None:
    """What a client is told of a full disk; None for another failure."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ApiError(507, "the server's disk is full: try again when there is room", code="disk_full")
    return None


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
