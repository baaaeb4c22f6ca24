"""A light HTTP/1.1 client stores the bytes of a stream with their times; they are parsed after the run.

Reading a stream while it runs would take processor time from a server on the same machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pocketvlm.errors import OptionError

Clock = Callable[[], float]
_HEAD_LIMIT = 1 << 16
_BUFFER = 1 << 16


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server. path: the prefix of its routes, usually "/v1"."""

    host: str
    port: int
    tls: bool
    path: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """The address in a URL such as http://127.0.0.1:8000/v1; the default path is /v1. Raises OptionError."""
        wanted = f"--url {url}: write it as http://HOST:PORT/v1"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise OptionError(wanted) from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise OptionError(wanted)
        if not url.isascii() or not url.isprintable() or " " in url:
            raise OptionError(wanted)
        tls = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/") or "/v1")

    @property
    def authority(self) -> str:
        """Host and port for the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"


@dataclass(slots=True)
class Received:
    """A raw answer. sent: when the request was sent. parts: received bytes of the body with their times.

    error: why the answer is incomplete, or empty. status: 0 if nothing was received.
    """

    sent: float
    status: int = 0
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    error: str = ""

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(data for _, data in self.parts)


class Connection(asyncio.BufferedProtocol):
    """One connection; it serves one request after the other."""

    # All reads go into one buffer, because asyncio would allocate 256 KiB for each token.

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.reusable = False
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Received] | None = None
        self._now = Received(0.0)
        self._buffer = bytearray(_BUFFER)
        self._pending = b""  # an incomplete head, or an incomplete line with a chunk's size
        self._in_head = True
        self._chunked = self._trailer = self._keep = False
        self._left = -1  # bytes of the body, or of the chunk with its line end; -1: until the connection closes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.reusable = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop. A body without a length ends here."""
        self.reusable = False
        whole = not self._in_head and not self._chunked and self._left < 0
        self._finish("" if whole else f"the connection was closed before the answer was whole{_because(exc)}")

    def ask(self, request: bytes) -> asyncio.Future[Received]:
        """Send a request; the future gets the answer, also if it fails."""
        self._waiting = future = asyncio.get_running_loop().create_future()
        self._pending, self._in_head, self._chunked, self._trailer, self._left = b"", True, False, False, -1
        self._now = Received(self._clock())
        if self._transport is None or self._transport.is_closing():
            self._finish("the connection was closed before the request was sent")
        else:
            self._transport.write(request)
        return future

    def close(self) -> None:
        """Close it."""
        self.reusable = False
        if self._transport is not None:
            self._transport.close()

    def get_buffer(self, sizehint: int) -> bytearray:
        """Called by the loop: the buffer for received bytes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop: the buffer holds `nbytes` new bytes."""
        self.data_received(bytes(memoryview(self._buffer)[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Parse the next bytes."""
        now = self._clock()
        if self._waiting is None:  # no request is open
            self.close()
            return
        try:
            if self._in_head:
                data = self._read_head(self._pending + data)
                if self._in_head:
                    return
            if self._chunked:
                self._read_chunks(data, now)
            elif self._left < 0:
                self._keep_part(data, now)
            else:
                self._keep_part(data[: self._left], now)
                self._left -= len(data)
                if self._left <= 0:
                    self._finish("")
        except ValueError:
            self._keep = False
            self._finish("the answer is not valid HTTP")

    def _read_head(self, data: bytes) -> bytes:
        """Read the head if it is complete; returns the bytes after it."""
        head, found, body = data.partition(b"\r\n\r\n")
        if not found:
            if len(data) > _HEAD_LIMIT:
                raise ValueError
            self._pending = data
            return b""
        first, *lines = head.split(b"\r\n")
        version, status, *_ = first.split(b" ", 2)
        if not version.startswith(b"HTTP/1."):
            raise ValueError
        if 100 <= int(status) < 200:
            return self._read_head(body)
        headers = {name.strip().lower(): value.strip().lower() for name, _, value in (x.partition(b":") for x in lines)}
        self._now.status = int(status)
        self._pending, self._in_head = b"", False
        self._chunked = b"chunked" in headers.get(b"transfer-encoding", b"")
        length = headers.get(b"content-length")
        self._left = 0 if self._chunked or int(status) in (204, 304) else int(length) if length is not None else -1
        connection = headers.get(b"connection", b"")
        self._keep = b"close" not in connection and (version != b"HTTP/1.0" or b"keep-alive" in connection)
        return body

    def _read_chunks(self, data: bytes, now: float) -> None:
        while data:
            if self._left > 2:
                part = data[: self._left - 2]
                self._keep_part(part, now)
            elif self._left > 0:  # the line end after a chunk
                part = data[: self._left]
            else:
                line, found, data = (self._pending + data).partition(b"\r\n")
                if not found:
                    if len(line) > _HEAD_LIMIT:
                        raise ValueError
                    self._pending = line
                    return
                self._pending = b""
                if self._trailer:
                    if not line:
                        self._finish("")
                        return
                    continue
                size = int(line.split(b";")[0], 16)
                self._trailer, self._left = size == 0, size + 2 if size else 0
                continue
            self._left -= len(part)
            data = data[len(part) :]

    def _keep_part(self, data: bytes, now: float) -> None:
        if data:
            self._now.parts.append((now, data))

    def _finish(self, error: str) -> None:
        waiting, self._waiting = self._waiting, None
        if error or not self._keep:
            self.close()
        if waiting is not None and not waiting.done():
            self._now.error = error
            waiting.set_result(self._now)


class Client:
    """Connections to one address, reused for later requests."""

    def __init__(self, address: Address, key: str | None = None, clock: Clock = time.perf_counter) -> None:
        if key is not None and not (key.isascii() and key.isprintable()):
            raise OptionError("--api-key: a key has printable ASCII characters only")
        self.address = address
        self.clock = clock
        self._idle: list[Connection] = []
        self._headers = {
            "Host": address.authority,
            "User-Agent": "pocketvlm-bench",
            "Accept": "*/*",
            **({"Authorization": f"Bearer {key}"} if key else {}),
        }

    def close(self) -> None:
        """Close all idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def request(self, method: str, route: str, body: bytes | None = None) -> bytes:
        """The bytes of a request. route: the path after the address's prefix, such as "/models"."""
        more: Mapping[str, str] = (
            {} if body is None else {"Content-Type": "application/json", "Content-Length": str(len(body))}
        )
        lines = [f"{method} {self.address.path}{route} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in {**self._headers, **more}.items()]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")

    async def ask(self, request: bytes) -> Received:
        """Send a request and wait for its end. Failures are reported in the answer's `error`."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.reusable:
                continue
            received = await connection.ask(request)
            if not (received.error and received.status == 0):
                return self._recycle(connection, received)
            # The server may close an idle connection at any time: try again on a new one.
        began = self.clock()
        try:
            connection = await self.connect()
        except OSError as error:
            return Received(began, error=f"cannot connect to {self.address.authority}: {_reason(error)}")
        return self._recycle(connection, await connection.ask(request))

    async def connect(self) -> Connection:
        """A new connection that is not reused. Raises OSError."""
        loop, address = asyncio.get_running_loop(), self.address
        _, connection = await loop.create_connection(
            lambda: Connection(self.clock), address.host, address.port, ssl=True if address.tls else None
        )
        return connection

    def _recycle(self, connection: Connection, received: Received) -> Received:
        if connection.reusable and not received.error:
            self._idle.append(connection)
        return received


def _because(error: Exception | None) -> str:
    return f" ({_reason(error)})" if error is not None else ""


def _reason(error: Exception) -> str:
    """The system's words for an error."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
