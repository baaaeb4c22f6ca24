"""The log has one line of JSON for each request, without prompts or answers."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

from pocketvlm.interfaces.fields import IgnoredFields
from pocketvlm.interfaces.usage import RequestTimes
from pocketvlm.server.settings import LogFormat


@dataclass(slots=True)
class Record:
    """What is known about one HTTP request. owner: number of its key, 0 where there are no keys. Times in seconds."""

    id: str
    method: str
    path: str
    route: str = ""
    owner: int = 0
    status: int = 0
    error: str | None = None
    stream: bool = False
    user: str | None = None
    adapter: str | None = None
    prompt_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    images: int = 0
    finish: tuple[str, ...] = ()
    queue: float | None = None
    ttft: float | None = None
    body_bytes: int = 0
    ignored: IgnoredFields = field(default_factory=IgnoredFields)
    times: RequestTimes = field(default_factory=RequestTimes)

    def to_dict(self, seconds: float) -> dict[str, Any]:
        """What the line says; fields that do not apply are left out."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z",
            "id": self.id,
            "method": self.method,
            "path": self.path[:200],
            "status": self.status,
            "seconds": round(seconds, 6),
        }
        more = {
            "key": self.owner or None,
            "user": self.user,
            "adapter": self.adapter,
            "error": self.error,
            "ignored": str(self.ignored),
            "stream": self.stream or None,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "image_tokens": self.image_tokens,
            "images": self.images,
            "completion_tokens": self.completion_tokens,
            "finish": ",".join(self.finish),
            "fetch": round(self.times.fetch, 6),
            "media": round(self.times.media, 6),
            "preprocess": round(self.times.preprocess, 6),
            "queue": None if self.queue is None else round(self.queue, 6),
            "ttft": None if self.ttft is None else round(self.ttft, 6),
        }
        return {**line, **{name: value for name, value in more.items() if value}}


class Log:
    """Writes records to a stream, stderr by default."""

    def __init__(self, form: LogFormat = "json", stream: TextIO | None = None) -> None:
        self._form = form
        self._stream = stream
        self._lock = threading.Lock()

    def request(self, record: Record, seconds: float) -> None:
        """The line of a request that has ended."""
        if self._form == "json":
            self._write(json.dumps(record.to_dict(seconds), ensure_ascii=True))

    def warning(self, text: str, source: str) -> None:
        """A warning of a library (`source`), which concerns no request in particular."""
        if self._form == "json":
            now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
            self._write(json.dumps({"time": now, "event": "warning", "source": source, "warning": text}))

    def trouble(self, what: str, request_id: str, trace: str) -> None:
        """A failure that is ours, with its traceback, whatever the form."""
        self._write(json.dumps({"event": "internal_error", "id": request_id, "error": what, "trace": trace}))

    def _write(self, line: str) -> None:
        with self._lock:
            stream = self._stream or sys.stderr
            try:
                stream.write(line + "\n")
                stream.flush()
            except (OSError, ValueError):  # nobody reads the log any more: no reason to fail requests
                pass
