"""uvicorn's HTTP protocol gets limits on header size and time, and a direct write for streams."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

# What a request's scope calls the function that sends a part of its answer at once, without waiting and without the
# layers above: bytes in, and whether they were sent. Its price for each token is what counts (docs/log.md).
WRITE = "pocketvlm.write"
_BODY = b'{"error":{"message":"%s","type":"invalid_request_error","param":null,"code":"headers"}}'


def _write(cycle: RequestResponseCycle, data: bytes) -> bool:
    """Send one chunk of an answer that was begun in chunks; False where that is not possible now."""
    if (
        not cycle.response_started
        or cycle.response_complete
        or cycle.disconnected
        or not cycle.chunked_encoding
        or cycle.flow.write_paused
    ):
        return False
    cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
    return True


def limited(max_header_bytes: int, header_timeout: float) -> type[asyncio.Protocol]:
    """A protocol class with these limits. A connection that sends too much or nothing whole in time is closed."""

    class Limited(HttpToolsProtocol):
        """One connection."""

        def connection_made(self, transport: Any) -> None:
            """Give the first request's headers their time."""
            super().connection_made(transport)
            self._header_bytes = 0
            self._in_headers = True
            self._late = self.loop.call_later(header_timeout, self._timeout)

        def connection_lost(self, exc: Exception | None) -> None:
            """Nothing to wait for any more."""
            self._late.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            """Count while headers come in; the parser itself would keep any amount."""
            if self._in_headers:
                self._header_bytes += len(data)
            super().data_received(data)
            if self._in_headers and self._header_bytes > max_header_bytes:
                self._refuse(b"431 Request Header Fields Too Large", b"the headers are larger than this server reads")

        def on_message_begin(self) -> None:
            """The headers of a request, the first or a later one."""
            super().on_message_begin()
            self._in_headers = True
            self._late.cancel()
            self._late = self.loop.call_later(header_timeout, self._timeout)

        def on_headers_complete(self) -> None:
            """Headers are there."""
            self._late.cancel()
            self._in_headers = False
            self._header_bytes = 0
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > max_header_bytes:
                self._refuse(b"431 Request Header Fields Too Large", b"the headers are larger than this server reads")
                return
            super().on_headers_complete()
            cycle = self.cycle
            if cycle is not None and cycle.scope is self.scope:  # not where it was refused
                cycle.scope[WRITE] = partial(_write, cycle)  # type: ignore[literal-required]

        def on_body(self, body: bytes) -> None:
            """Nothing more of a request that was refused."""
            if not self.transport.is_closing():
                super().on_body(body)

        def on_message_complete(self) -> None:
            """Nothing more of a request that was refused."""
            if not self.transport.is_closing():
                super().on_message_complete()

        def send_400_response(self, msg: str) -> None:
            """What is sent is no HTTP: an answer in our form."""
            self._refuse(b"400 Bad Request", b"this is not a valid HTTP request")

        def _timeout(self) -> None:
            if self._in_headers and not self.transport.is_closing():
                self._refuse(b"408 Request Timeout", b"no whole headers in time")

        def _refuse(self, status: bytes, message: bytes) -> None:
            if self.transport.is_closing():
                return
            body = _BODY % message
            lines = (
                b"HTTP/1.1 " + status,
                b"content-type: application/json",
                b"content-length: " + str(len(body)).encode(),
                b"connection: close",
                b"",
                body,
            )
            self.transport.write(b"\r\n".join(lines))
            self.transport.close()

    return Limited
