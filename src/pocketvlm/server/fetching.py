"""The server fetches media from URLs, checks every address before it connects, and repeats this at each redirect.

Proxies of the environment are not used: a proxy would resolve the name again, and its answer may be another one.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from pocketvlm import __version__
from pocketvlm.errors import ImageError
from pocketvlm.server.addresses import in_domains, is_public

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_MAX_URL = 8192
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class _Target:
    scheme: str
    host: str
    port: int
    request: str  # path and query


class _Pinned(http.client.HTTPConnection):
    """A connection to the first of some addresses that answers, whatever the name says by now."""

    def __init__(self, target: _Target, addresses: list[str], timeout: float, tls: ssl.SSLContext | None) -> None:
        super().__init__(target.host, target.port, timeout=timeout)
        self._addresses = addresses
        self._tls = tls
        self._wire: socket.socket | None = None  # `sock` is gone once the answer has begun

    def connect(self) -> None:
        for number, address in enumerate(self._addresses, 1):
            try:
                self.sock = socket.create_connection((address, self.port), self.timeout)
                break
            except OSError:
                if number == len(self._addresses):
                    raise
        self._wire = self.sock
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            # Wrapping takes the socket over, and shakes hands only afterwards, so that `cut` reaches it.
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self._wire = self.sock
            self.sock.do_handshake()

    def cut(self) -> None:
        """End it from another thread, whatever it waits for."""
        if self._wire is not None:
            with contextlib.suppress(OSError):
                self._wire.shutdown(socket.SHUT_RDWR)


class Fetcher:
    """Gets the bytes behind http(s) URLs. Blocking, for threads; `resolve` and `allowed` are replaced by tests."""

    def __init__(
        self,
        timeout: float,
        max_bytes: int,
        domains: tuple[str, ...] = (),
        resolve: Callable[[str, int], list[str]] | None = None,
        allowed: Callable[[str], bool] = is_public,
    ) -> None:
        self.timeout = timeout
        self.max_bytes = max_bytes
        self.domains = domains
        self._resolve = resolve or _resolve
        self._allowed = allowed
        self._tls = ssl.create_default_context()

    def fetch(self, url: str, where: str) -> bytes:
        """Body of a URL; `where` stands for it in messages. Raises ImageError."""
        deadline = time.monotonic() + self.timeout
        shown = url
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                target = self._target(url, where)
                found = self._one(target, where, deadline)
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found)
        except TimeoutError:
            raise ImageError(f"{where}: no complete answer from the URL within {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(f"{where}: the URL cannot be fetched: {_reason(error)}") from None
        raise ImageError(f"{where}: more than {_MAX_REDIRECTS} redirects from {shown[:80]!r}")

    def _target(self, url: str, where: str) -> _Target:
        try:
            if len(url) > _MAX_URL:
                raise ImageError(f"{where}: a URL of {len(url)} characters: {_MAX_URL} are the limit")
            parts = urlsplit(url)
            host, port, scheme = parts.hostname or "", parts.port, parts.scheme.lower()
            if scheme not in ("http", "https"):
                raise ImageError(f"{where}: {scheme or 'no scheme'}: only http and https are fetched")
            if parts.username is not None or parts.password is not None:
                raise ImageError(f"{where}: a URL with a user name or password is not fetched")
            if not host or any(char <= " " or char in "/\\@" or char == "\x7f" for char in host):
                raise ImageError(f"{where}: the URL has no valid host")
            host = host if ":" in host else host.encode("idna").decode("ascii")
        except (ValueError, UnicodeError) as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(f"{where}: not a valid URL: {error}") from None
        if not in_domains(host, self.domains):
            raise ImageError(f"{where}: the host {host!r} is not among the allowed media domains")
        safe = "/:?#[]@!$&'()*+,;=%~-._"
        path = quote(parts.path, safe) or "/"
        query = f"?{quote(parts.query, safe)}" if parts.query else ""
        default = 443 if scheme == "https" else 80
        return _Target(scheme, host, default if port is None else port, path + query)

    def _one(self, target: _Target, where: str, deadline: float) -> bytes | str:
        """The body, or where the answer redirects to."""
        addresses = self._addresses(target, where)
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection = _Pinned(target, addresses, left, self._tls if target.scheme == "https" else None)
        # A socket's timeout is for each receive: a server that drips header bytes is cut off by this instead.
        cut = threading.Timer(left, connection.cut)
        cut.daemon = True
        cut.start()
        try:
            headers = {
                "User-Agent": f"pocketvlm/{__version__}",
                "Accept": "image/*, video/*",
                "Accept-Encoding": "identity",
            }
            connection.request("GET", target.request, headers=headers)
            with connection.getresponse() as response:
                location = response.headers.get("Location")
                if response.status in _REDIRECTS and location:
                    return location
                if response.status != 200:
                    raise ImageError(f"{where}: the URL's server answered {response.status}")
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise ImageError(f"{where}: the URL's server sent compressed content, which was not asked for")
                return self._body(response, where, deadline)
        except (OSError, http.client.HTTPException, ValueError):
            if time.monotonic() >= deadline:
                raise TimeoutError from None
            raise
        finally:
            cut.cancel()
            connection.close()

    def _addresses(self, target: _Target, where: str) -> list[str]:
        """Addresses of the host, all of them allowed: one that is not makes the whole answer suspicious."""
        addresses = self._resolve(target.host, target.port)
        if not addresses or not all(self._allowed(address) for address in addresses):
            raise ImageError(f"{where}: the URL's host {target.host[:80]!r} is not on the public internet")
        return addresses

    def _body(self, response: http.client.HTTPResponse, where: str, deadline: float) -> bytes:
        over = ImageError(f"{where}: more than the limit of {self.max_bytes} bytes")
        stated = response.length
        if stated is not None and stated > self.max_bytes:
            raise over
        chunks, total = [], 0
        while chunk := response.read1(_CHUNK):
            chunks.append(chunk)
            total += len(chunk)
            if total > self.max_bytes:
                raise over
        if time.monotonic() >= deadline:
            raise TimeoutError
        if stated is not None and total < stated:
            raise ImageError(f"{where}: the connection closed after {total} of {stated} bytes")
        return b"".join(chunks)


def _resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "its host is not known"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or type(error).__name__})"
    return type(error).__name__ if not isinstance(error, OSError) or not error.strerror else error.strerror
