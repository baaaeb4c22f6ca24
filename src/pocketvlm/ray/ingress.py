"""`Ingress` is what Ray's proxy calls: it reads a request's body, and passes it to the replica that its key prefers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from ray.exceptions import RayError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pocketvlm.interfaces.errors import ApiError
from pocketvlm.ray.affinity import affinity_key
from pocketvlm.ray.options import AppOptions
from pocketvlm.server.errors import style_of

_ATTEMPTS = 3  # replicas that a request may lose before it has an answer
# Files and batches would exist on one replica alone.
_LOCAL = ("/v1/files", "/v1/batches", "/v1/messages/batches")


class Ingress:
    """Passes requests on, and streams answers back."""

    def __init__(self, options: AppOptions, engine: Any) -> None:
        self._options = options
        self._engine = engine
        self._max_bytes = int(options.settings.get("max_body_bytes", 64 << 20))

    async def __call__(self, request: Request) -> Response:
        """The answer of a replica, as it comes."""
        path = request.url.path
        try:
            if path.startswith(_LOCAL):
                raise ApiError(
                    404,
                    f"{path} is not served here: replicas share no files; send media in the request, and run "
                    "`pocketvlm serve` or `pocketvlm batch` for files and batches",
                )
            body = await self._body(request)
            return await self._pass_on(request, path, body)
        except ApiError as error:
            return _failure(error, path)

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._max_bytes:
                raise ApiError(413, f"the body is larger than the limit of {self._max_bytes} bytes")
            parts.append(part)
        return b"".join(parts)

    async def _pass_on(self, request: Request, path: str, body: bytes) -> Response:
        key = affinity_key(body) if body else ""
        adapter = self._adapter(body)
        arguments = (key, adapter, request.method, path, request.url.query.encode(), request.headers.raw, body)
        engine = self._engine.options(stream=True, multiplexed_model_id=adapter)
        failure: Exception | None = None
        for _ in range(_ATTEMPTS):
            chunks = engine.http.remote(*arguments)
            try:
                status, headers = await anext(chunks)
            except (RayError, StopAsyncIteration) as error:
                failure = error  # nothing was sent yet, so another replica may answer
                await asyncio.sleep(0.1)
                continue
            media = next((value.decode() for name, value in headers if name.lower() == b"content-type"), None)
            response = StreamingResponse(_stream(chunks, path, media), status)
            response.raw_headers = [(name, value) for name, value in headers if name.lower() != b"content-length"]
            return response
        raise ApiError(503, f"no replica could answer: {_reason(failure)}; try again", headers={"Retry-After": "2"})

    def _adapter(self, body: bytes) -> str:
        """The adapter that a request names, or ""."""
        if not self._options.adapters or not body:
            return ""
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            return ""
        names = (found.get("adapter"), found.get("model")) if isinstance(found, dict) else ()
        return next((name for name in names if isinstance(name, str) and name in self._options.adapters), "")


async def _stream(chunks: AsyncIterator[Any], path: str, media: str | None) -> AsyncGenerator[bytes, None]:
    """Chunks of a body; the loss of the replica is the last one, in the form that the client reads."""
    try:
        async for chunk in chunks:
            yield chunk
    except RayError as error:
        lost = ApiError(503, f"the replica that answered has gone: {_reason(error)}; ask again", code="replica_lost")
        found = lost.body(style_of(path))
        if media is not None and media.startswith("text/event-stream"):
            event = "event: error\n" if style_of(path) == "anthropic" else ""
            yield f"{event}data: {json.dumps(found)}\n\n".encode()
        elif media is not None and media.startswith("application/x-ndjson"):
            yield json.dumps(found).encode() + b"\n"
        else:
            raise  # a whole answer without its end: the connection breaks off, so that no client takes it for whole


def _failure(error: ApiError, path: str) -> Response:
    content = json.dumps(error.body(style_of(path)))
    return Response(content, error.status, dict(error.headers or {}), "application/json")


def _reason(error: Exception | None) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}" if error and str(error) else "it ended"
