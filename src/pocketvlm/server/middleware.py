"""The middleware checks ids, hosts, origins, keys, sizes and times before any route, and logs each request."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import secrets
import time
import traceback

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.fields import IgnoredFields
from pocketvlm.server.context import Context
from pocketvlm.server.errors import internal, style_of
from pocketvlm.server.logs import Record
from pocketvlm.server.replies import Json

_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
# "/" says only that the server runs: Ollama's command line asks for it first, and has no key to send.
_OPEN = ("/", "/health", "/health/ready")
_STATIC = "/ui/"  # files of the web page, the same for everybody
_MULTIPART = ("/v1/files",)
_FORM = 64 << 10  # bytes of a form around its file
_METHODS_WITH_BODY = ("POST", "PUT", "PATCH")


class Middleware:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._context = context
        # Digests have one length, so that comparing them tells nothing about the keys.
        self._keys = [_digest(key) for key in context.settings.api_keys]
        self._origins = {origin.rstrip("/").lower() for origin in context.settings.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        scope = {**scope, "path": _below(self._context.settings.root_path, scope["path"])}
        given = headers.get("x-request-id", "")
        record = Record(
            given if _ID.fullmatch(given) else secrets.token_hex(12),
            scope["method"],
            scope["path"],
            ignored=IgnoredFields(self._context.settings.strict),
        )
        if scope["method"] == "HEAD":  # every GET route answers it; uvicorn sends the headers without the body
            scope = {**scope, "method": "GET"}
        scope["record"] = record
        started = False
        origin = headers.get("origin", "")

        async def reply(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                record.status = message["status"]
                self._release(record)
                message["headers"] = [*message.get("headers", ()), *self._headers(record, origin)]
            await send(message)

        try:
            if scope["method"] == "OPTIONS" and origin.lower() in self._origins:
                await _preflight(scope, receive, reply)
                return
            if scope["method"] == "GET" and scope["path"] == self._context.settings.root_path:
                # The page's own addresses are relative, so they need the last slash.
                await Json({}, 308, {"Location": f"{scope['path']}/"})(scope, receive, reply)
                return
            self._check(scope, headers, record)
            await self._app(scope, self._bounded(headers, receive, record), reply)
        except ApiError as error:
            await self._fail(error, record, started, scope, receive, reply)
        except Exception as error:  # whatever it is, it is ours: an answer, a traceback in the log, and on we go
            self._context.log.trouble(type(error).__name__, record.id, traceback.format_exc())
            await self._fail(internal(record.id), record, started, scope, receive, reply)
        finally:
            self._release(record)
            seconds = time.perf_counter() - record.times.began
            self._context.metrics.ended(record, seconds)
            self._context.log.request(record, seconds)

    async def _fail(
        self, error: ApiError, record: Record, started: bool, scope: Scope, receive: Receive, reply: Send
    ) -> None:
        record.error = error.code or error.message[:200]
        if not started:
            await error_response(error, scope["path"], record.id)(scope, receive, reply)

    def _headers(self, record: Record, origin: str) -> list[tuple[bytes, bytes]]:
        number = record.id.encode("ascii")
        more = [(b"x-request-id", number), (b"request-id", number), (b"x-content-type-options", b"nosniff")]
        if record.ignored:
            more.append((b"x-ignored-fields", str(record.ignored).encode("ascii")))
        if origin.lower() in self._origins:
            more += [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]
        return more

    def _check(self, scope: Scope, headers: dict[str, str], record: Record) -> None:
        """Raises ApiError where this request may not come in."""
        path = scope["path"]
        self._check_host(headers)
        self._check_origin(headers)
        if self._keys and not _is_open(scope):
            record.owner = self._owner(headers)
        if self._context.draining and path not in (*_OPEN, "/metrics"):
            retry = {"Retry-After": "5", "Connection": "close"}
            raise ApiError(503, "the server is shutting down", code="shutting_down", headers=retry)
        if scope["method"] in _METHODS_WITH_BODY and path not in _MULTIPART:
            # Every body here is JSON, whatever a tool such as curl calls it. Browsers cannot use that to get around
            # a preflight: their requests carry an Origin, which was checked.
            saved = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
            scope["headers"] = [*saved, (b"content-type", b"application/json")]

    def _check_host(self, headers: dict[str, str]) -> None:
        """A page in a browser may give its own name this machine's address; its requests then bear that name."""
        settings = self._context.settings
        if not settings.local and not settings.allowed_hosts:
            return
        host = _host(headers.get("host", ""))
        if host in ("", "localhost") or host.endswith(".localhost") or _is_address(host):
            return
        if host not in {name.lower() for name in settings.allowed_hosts}:
            raise ApiError(
                403, f"the host name {host[:80]!r} is not served here: add it with --allowed-hosts", code="host"
            )

    def _check_origin(self, headers: dict[str, str]) -> None:
        origin = headers.get("origin", "")
        if not origin or origin.lower().rstrip("/") in self._origins:
            return
        if origin.split("://", 1)[-1].lower() != headers.get("host", "").lower():
            raise ApiError(
                403, f"pages from {origin[:80]!r} may not call this server: see --allowed-origins", code="origin"
            )

    def _owner(self, headers: dict[str, str]) -> int:
        """Number of the key that a request bears, from 1. Raises ApiError 401."""
        kind, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        if not given:
            raise ApiError(
                401,
                "an API key is needed: Authorization: Bearer KEY",
                code="missing_api_key",
                headers={"WWW-Authenticate": "Bearer", "Connection": "close"},
            )
        digest, found = _digest(given), 0
        for number, known in enumerate(self._keys, 1):
            if hmac.compare_digest(digest, known):
                found = number
        if not found:
            raise ApiError(401, "this API key is not valid", code="invalid_api_key", headers={"Connection": "close"})
        return found

    def _bounded(self, headers: dict[str, str], receive: Receive, record: Record) -> Receive:
        """`receive` with the limits on bodies: bytes of one, of all together, and time."""
        settings, context = self._context.settings, self._context
        close = {"Connection": "close"}
        stated = headers.get("content-length", "")
        # The form of an upload goes to a temporary file as it comes, so it takes no memory, and may take its time.
        streamed = record.path in _MULTIPART and bool(settings.data_dir)
        maximum = max(settings.max_body_bytes, settings.max_batch_bytes + _FORM if streamed else 0)
        large = ApiError(413, f"the body is larger than {maximum} bytes", code="body_too_large", headers=close)
        if stated.isdigit() and int(stated) > maximum:
            raise large
        deadline = time.monotonic() + settings.body_timeout
        complete, total = False, 0

        async def bounded() -> Message:
            nonlocal complete, total, deadline
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise ApiError(
                    408, f"no whole body within {settings.body_timeout:g} s", code="timeout", headers=close
                ) from None
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                total += size
                complete = not message.get("more_body", False)
                if total > maximum:
                    raise large
                if streamed:
                    deadline += settings.body_timeout * size / settings.max_body_bytes
                    return message
                record.body_bytes += size
                context.body_bytes += size
                if context.body_bytes > settings.max_bodies_bytes:
                    raise ApiError(
                        429,
                        "the bodies of all requests together are too large just now: try again later",
                        code="bodies",
                        headers={"Retry-After": "2", **close},
                    )
            return message

        return bounded

    def _release(self, record: Record) -> None:
        self._context.body_bytes -= record.body_bytes
        record.body_bytes = 0


def error_response(error: ApiError, path: str, request_id: str) -> Json:
    """The answer that tells a client of an error, in the form of the interface that it used."""
    return Json(error.body(style_of(path), request_id), error.status, error.headers)


async def _preflight(scope: Scope, receive: Receive, send: Send) -> None:
    allow = {
        "Access-Control-Allow-Methods": "GET, POST, DELETE, OPTIONS",
        "Access-Control-Allow-Headers": "authorization, content-type, x-api-key, x-request-id, anthropic-version",
        "Access-Control-Max-Age": "600",
    }
    await Json({}, 200, allow)(scope, receive, send)


def _below(prefix: str, path: str) -> str:
    """The path without the prefix of a proxy that does not remove it."""
    inside = prefix and path.startswith(f"{prefix}/")
    return path[len(prefix) :] if inside else path


def _is_open(scope: Scope) -> bool:
    """Whether a request needs no key."""
    path = scope["path"]
    return path in _OPEN or (scope["method"] == "GET" and path.startswith(_STATIC))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host(header: str) -> str:
    """The host of a Host header, without port and brackets."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0] if text.count(":") == 1 else text


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
