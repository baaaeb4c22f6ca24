"""Media are fetched over http(s), bounded in time, size and redirects.

Every address that this machine can reach is fetched, inner networks included: a service that takes URLs from strangers
switches MediaLimits.remote off and fetches by its own rules.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from pocketvlm.errors import ImageError

if TYPE_CHECKING:
    from pocketvlm.processor.limits import MediaLimits

AGENT = "pocketvlm"
_CHUNK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_BUSY = (408, 425, 429, 500, 502, 503, 504)


class UnavailableError(ImageError):
    """A URL that cannot be fetched now; another attempt may succeed."""


def _opener() -> urllib.request.OpenerDirector:
    # Not build_opener: it adds handlers for file:, ftp: and data:, and follows redirects by rules of its own.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", AGENT), ("Accept", "image/*, video/*")]
    return opener


def _ascii_url(url: str, name: str) -> str:
    """The URL with non-ASCII host and path encoded, as browsers do. Raises ImageError for what cannot be fetched."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port
        if parts.username or parts.password:
            raise ImageError(f"{name}: a URL with a user name or password is not supported")
        if not host:
            raise ImageError(f"{name}: the URL has no host")
        shown = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name}: not a valid URL: {error}") from None
    netloc = shown if port is None else f"{shown}:{port}"
    safe = "/:?#[]@!$&'()*+,;=%~-._"
    return urlunsplit((parts.scheme, netloc, quote(parts.path, safe), quote(parts.query, safe), ""))


def fetch(url: str, name: str, limits: MediaLimits) -> tuple[bytes, str]:
    """Body and content type of a URL. `name` stands for the URL in messages. Raises ImageError."""
    deadline = time.monotonic() + limits.timeout
    slow = f"{name}: no complete answer within {limits.timeout:g} s: try again or raise timeout"
    opener = _opener()
    try:
        for _ in range(limits.max_redirects + 1):
            left = deadline - time.monotonic()
            if left <= 0:
                raise UnavailableError(slow)
            try:
                with opener.open(urllib.request.Request(_ascii_url(url, name)), timeout=left) as response:
                    body = _body(response, name, limits, deadline, slow)
                    return body, response.headers.get("Content-Type", "")
            except urllib.error.HTTPError as error:
                error.close()
                target = error.headers.get("Location")
                if error.code not in _REDIRECTS or not target:
                    kind = UnavailableError if error.code in _BUSY else ImageError
                    raise kind(f"{name}: the server answered {error.code} {error.reason}") from None
                url = urljoin(url, target)
                if urlsplit(url).scheme.lower() not in ("http", "https"):
                    raise ImageError(f"{name}: redirected to {url[:60]!r}, which is not http or https") from None
    except TimeoutError:
        raise UnavailableError(slow) from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise UnavailableError(slow) from None
        raise UnavailableError(f"{name}: cannot be fetched: {reason}") from error
    raise ImageError(f"{name}: more than {limits.max_redirects} redirects")


def _body(response: Any, name: str, limits: MediaLimits, deadline: float, slow: str) -> bytes:
    stated = response.headers.get("Content-Length", "")
    length = int(stated) if stated.isdigit() else None
    over = f"are more than the limit of {limits.max_bytes}: send a smaller file or raise max_bytes"
    if length is not None and length > limits.max_bytes:
        raise ImageError(f"{name}: {length} bytes {over}")
    chunks, total = [], 0
    # read1 returns what one receive brings, so that a dripping server cannot hold us past the deadline.
    while chunk := response.read1(_CHUNK):
        chunks.append(chunk)
        total += len(chunk)
        if total > limits.max_bytes:
            raise ImageError(f"{name}: {total} bytes and more {over}")
        if time.monotonic() > deadline:
            raise UnavailableError(slow)
    if length is not None and total < length:
        raise UnavailableError(f"{name}: the connection closed after {total} of {length} bytes")
    return b"".join(chunks)
