"""Servers with a data directory, batches through the official clients, and a gate that stops lines half-way."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import openai
from server.kit import Running, until

from pocketvlm.server.context import Context

CHAT = "/v1/chat/completions"
FIRST = "word " * 500  # longer than a picture counts, so that a line with it is answered before those of GATED
MORE = 40  # lines, more than a job has in flight: some of them have not begun when the gate opens
GATED = [{"type": "image_url", "image_url": {"url": "https://gate.example/a.png"}}]


def line(custom_id: str, content: Any = "hello", url: str = CHAT, **fields: Any) -> dict[str, Any]:
    """A line of a batch file."""
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 3, "temperature": 0, **fields}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def client_of(server: Running, key: str = "none") -> openai.OpenAI:
    """The official client; it does not try again by itself."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def begin(client: openai.OpenAI, lines: Sequence[Any], endpoint: Any = CHAT, **more: Any) -> Any:
    """Upload lines and begin a batch; texts are written as they are."""
    text = "".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in lines)
    file = client.files.create(file=("lines.jsonl", io.BytesIO(text.encode())), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def ended(client: openai.OpenAI, batch: Any) -> Any:
    """The batch once it has ended."""

    def check() -> Any:
        found = client.batches.retrieve(batch.id)
        return found if found.status in ("completed", "failed", "expired", "cancelled") else None

    return until(check, 60)


def content(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output file."""
    return [] if file_id is None else [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


class Gate:
    """Lines with the image of GATED wait, after `reached`, until `open` is set; then they are refused."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def install(self, context: Context) -> None:
        """Put it into the place of a server's fetcher."""
        real: Callable[..., bytes] = context.media.fetcher.fetch

        def fetch(url: str, where: str) -> bytes:
            if url.startswith("https://gate.example/"):
                self.reached.set()
                assert self.open.wait(60)
            return real(url, where)

        context.media.fetcher.fetch = fetch  # type: ignore[method-assign]
        context.media.fetcher._resolve = lambda host, port: ["10.0.0.1"]
