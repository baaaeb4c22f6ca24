"""The media of lines: local files and URLs, fetched again after a failure that may pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pocketvlm.errors import ImageError
from pocketvlm.interfaces.media import MediaSource
from pocketvlm.processor.fetch import UnavailableError, fetch
from pocketvlm.processor.limits import MediaLimits

_FIRST_PAUSE = 0.5  # seconds before the second attempt; each further pause is twice as long


@contextmanager
def released(cpu: threading.Semaphore) -> Iterator[None]:
    """A block in which another thread may have the permit that this thread holds."""
    cpu.release()
    try:
        yield
    finally:
        cpu.acquire()


class MediaFiles:
    """Reads paths, `file:` URLs and http(s) URLs. Safe to use from several threads.

    directory: where relative paths begin. cpu: held by threads that compute, and released while one of them waits for
    the network. closing: ends pauses.
    """

    def __init__(
        self, directory: Path, limits: MediaLimits, max_retries: int, cpu: threading.Semaphore, closing: threading.Event
    ) -> None:
        self._directory, self._limits, self._max_retries = directory, limits, max_retries
        self._cpu, self._closing = cpu, closing

    def __call__(self, source: MediaSource) -> bytes:
        """The bytes of a source. Raises ImageError."""
        where, value = source.where, source.value
        if source.kind == "file_id":
            raise ImageError(f"{where}: file_id={value[:80]!r} is a file of a server: give a path or a URL here")
        scheme = "" if source.kind == "path" else value.split(":", 1)[0].lower()
        if scheme in ("http", "https"):
            with released(self._cpu):
                return self._fetch(value, where)
        if scheme not in ("", "file"):
            raise ImageError(f"{where}: {scheme}: is not supported: give a path, or an https, http, data or file URL")
        return self._read(value, where, scheme == "file")

    def _fetch(self, url: str, where: str) -> bytes:
        for attempt in range(self._max_retries + 1):
            try:
                return fetch(url, where, self._limits)[0]
            except UnavailableError:
                if attempt == self._max_retries or self._closing.wait(_FIRST_PAUSE * 2**attempt):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _read(self, name: str, where: str, is_uri: bool) -> bytes:
        if is_uri:
            parts = urlsplit(name)
            if parts.netloc not in ("", "localhost"):
                raise ImageError(f"{where}: a file: URI on another host cannot be opened")
            name = unquote(parts.path)
        path = self._directory / Path(name).expanduser()
        try:
            if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
                raise ImageError(f"{where}: {name[:200]!r}: not a regular file: copy what it holds into one")
            with path.open("rb") as file:
                data = file.read(self._limits.max_bytes + 1)
        except FileNotFoundError:
            raise ImageError(f"{where}: {name[:200]!r}: there is no such file") from None
        except (OSError, ValueError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise ImageError(f"{where}: {name[:200]!r}: {reason}") from None
        if len(data) > self._limits.max_bytes:
            raise ImageError(f"{where}: {name[:200]!r}: more than the limit of {self._limits.max_bytes} bytes")
        return data
