"""A `Batch` is what is known about one batch, in the forms of OpenAI and Anthropic."""

from __future__ import annotations

import json
import re
import secrets
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Kind = Literal["openai", "anthropic"]
Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
ACTIVE = ("validating", "in_progress", "finalizing", "cancelling")
_PREFIX = {"openai": "batch_", "anthropic": "msgbatch_"}
_WINDOW = re.compile(r"([1-9]\d{0,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 30 * 86400


@dataclass(slots=True)
class Batch:
    """One batch. owner: of its files. times: of each status that it reached, in seconds since 1970.

    total, completed, failed: lines; unfinished: those that cancelling or expiry left without an answer. usage: tokens
    of all answers, once it has ended. errors: why it failed or waits. adapters: those that its lines name.
    output_seconds: lifetime of the output files.
    """

    id: str
    kind: Kind
    owner: str
    endpoint: str
    created: float
    expires: float
    status: Status = "validating"
    input_file_id: str = ""
    window: str = "24h"
    total: int = 0
    completed: int = 0
    failed: int = 0
    unfinished: int = 0
    times: dict[str, float] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    metadata: dict[str, str] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    output_seconds: float | None = None
    expired: bool = False
    usage: dict[str, int] = field(default_factory=dict)
    adapters: list[str] = field(default_factory=list)

    @classmethod
    def new(cls, kind: Kind, owner: str, endpoint: str, window: str, **more: Any) -> Batch:
        """A batch that begins now. window: as `window_seconds` reads it."""
        now = time.time()
        expires = now + (window_seconds(window) or _SECONDS["d"])
        batch_id = f"{_PREFIX[kind]}{secrets.token_hex(16)}"
        return cls(batch_id, kind, owner, endpoint, now, expires, window=window, **more)

    @property
    def job(self) -> str:
        """The part of its id that its output lines have, 16 hex digits."""
        return self.id.rpartition("_")[2][:16]

    @property
    def active(self) -> bool:
        """Whether something is still to be done."""
        return self.status in ACTIVE

    def reach(self, status: Status) -> None:
        """Take a status, now."""
        self.status = status
        self.times[status] = time.time()

    def to_json(self) -> str:
        """For the index."""
        return json.dumps(asdict(self))

    def to_openai(self) -> dict[str, Any]:
        """OpenAI's batch object."""
        steps = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": self.window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": int(self.created),
            "expires_at": int(self.expires),
            **{f"{step}_at": int(self.times[step]) if step in self.times else None for step in steps},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": self.metadata,
            "usage": self._openai_usage() if self.usage else None,
        }

    def _openai_usage(self) -> dict[str, Any]:
        inputs, outputs = self.usage.get("input", 0), self.usage.get("output", 0)
        return {
            "input_tokens": inputs,
            "input_tokens_details": {"cached_tokens": self.usage.get("cached", 0)},
            "output_tokens": outputs,
            "output_tokens_details": {"reasoning_tokens": self.usage.get("reasoning", 0)},
            "total_tokens": inputs + outputs,
        }

    def to_anthropic(self, base_url: str) -> dict[str, Any]:
        """Anthropic's message batch. base_url: of this server, for the address of the results."""
        ended = None if self.active else self.times.get(self.status)
        state = "ended" if not self.active else "canceling" if "cancelling" in self.times else "in_progress"
        left = self.total - self.completed - self.failed
        counts = {
            "processing": left if self.active else 0,
            "succeeded": self.completed,
            "errored": self.failed,
            "canceled": 0 if self.active or self.expired else self.unfinished,
            "expired": self.unfinished if not self.active and self.expired else 0,
        }
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": state,
            "request_counts": counts,
            "created_at": _iso(self.created),
            "expires_at": _iso(self.expires),
            "ended_at": _iso(ended),
            "archived_at": None,
            "cancel_initiated_at": _iso(self.times.get("cancelling")),
            "results_url": None if self.active else f"{base_url}/v1/messages/batches/{self.id}/results",
        }


def window_seconds(window: str) -> int | None:
    """Seconds of a completion window such as 24h, 30m or 7d, at most 30 days; None for another text."""
    found = _WINDOW.fullmatch(window)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    return seconds if 0 < seconds <= _LONGEST else None


def _iso(when: float | None) -> str | None:
    if when is None:
        return None
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
