"""A real server in this process: uvicorn on a free port, nano behind it, and what tests ask of it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

import pocketvlm
from pocketvlm.engine.driver import Ticket
from pocketvlm.engine.request import Request, TokenEvent
from pocketvlm.server.context import Context
from pocketvlm.server.logs import Log
from pocketvlm.server.media import Media
from pocketvlm.server.run import Server, address, bind
from pocketvlm.server.settings import Settings

EXAMPLES = Path(__file__).parents[2] / "examples"


class Running:
    """A server, its address, and its log."""

    def __init__(self, server: Server, url: str, log: io.StringIO, thread: threading.Thread) -> None:
        self.server = server
        self.context = server.context
        self.url = url
        self.log = log
        self.thread = thread
        self.client = httpx.Client(base_url=url, timeout=60)

    def lines(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def line(self, request_id: str) -> dict[str, Any]:
        """The log line of a request; waits for it."""
        return until(lambda: next((line for line in self.lines() if line.get("id") == request_id), None))

    def chat(self, content: Any, **fields: Any) -> httpx.Response:
        """POST one user message to /v1/chat/completions."""
        body = {"model": "nano", "messages": [{"role": "user", "content": content}], **fields}
        return self.client.post("/v1/chat/completions", json=body)

    def idle(self) -> None:
        """Wait until nothing runs any more."""
        until(lambda: self.context.admission.inside == 0 and not self.context.runs)


def until(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value of `check`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := check():
            return value
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


@contextmanager
def running(
    media: Callable[[Settings], Media] | None = None,
    prepare: Callable[[Context], None] | None = None,
    loading: dict[str, Any] | None = None,
    around: Callable[[Any], Any] | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """A server with these settings.

    loading: arguments of `load`. prepare: changes its context before it starts. around: wraps its application.
    """
    model = pocketvlm.load(**{"model": "nano", "threads": 1, **(loading or {})})
    chosen = Settings(**{"port": 0, **settings})
    log = io.StringIO()
    context = Context(model, chosen, Log("json", log), media and media(chosen))
    if prepare is not None:
        prepare(context)
    server = Server(context)
    if around is not None:
        server.config.app = around(server.config.app)
    listener = bind(chosen)
    listener.listen(1024)
    url = address(listener)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    found = Running(server, url, log, thread)
    until(lambda: server.started)
    try:
        yield found
    finally:
        found.client.close()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"
        failures = [line for line in found.lines() if "trace" in line]
        assert not failures, failures[0]["trace"]
        assert context.body_bytes == 0
        assert context.admission.inside == 0


def picture(name: str = "dog.png") -> str:
    """One of the examples as a data URI."""
    return "data:image/png;base64," + base64.b64encode((EXAMPLES / name).read_bytes()).decode()


def image(name: str = "dog.png", **more: Any) -> dict[str, Any]:
    """One of the examples as a content part."""
    return {"type": "image_url", "image_url": {"url": picture(name)}, **more}


def events(response: httpx.Response) -> list[Any]:
    """The data of server-sent events, parsed; "[DONE]" as it is."""
    found = []
    for line in response.text.splitlines():
        if line.startswith("data: "):
            text = line.removeprefix("data: ")
            found.append(text if text == "[DONE]" else json.loads(text))
    return found


class Script:
    """Stands in for the engine: says given texts token by token, whatever was asked. pause: seconds before each."""

    def __init__(self, texts: list[str], pause: float = 0.0, end: str = "stop") -> None:
        self.texts = texts
        self.pause = pause
        self.end = end
        self.requests: list[Request] = []
        self.stopped: set[int] = set()
        self.tokenizer: Any = None

    def install(self, context: Context) -> None:
        """Put it into the place of a server's engine."""
        self.tokenizer = context.tokenizer
        context.driver = self

    def submit(self, request: Request, deliver: Callable[[TokenEvent], None]) -> Ticket:
        """Begin to speak, on a thread."""
        ticket = Ticket(len(self.requests))
        ids = self.tokenizer.encode_template(self.texts[len(self.requests) % len(self.texts)])
        self.requests.append(request)
        threading.Thread(target=self._speak, args=(ticket, ids, request, deliver), daemon=True).start()
        return ticket

    def _speak(self, ticket: Ticket, ids: list[int], request: Request, deliver: Callable[[TokenEvent], None]) -> None:
        ticket.queue_seconds = 1e-6
        for token in ids:
            time.sleep(self.pause)
            if ticket.number in self.stopped:
                deliver(TokenEvent(ticket.number, -1, "abort"))
                return
            deliver(TokenEvent(ticket.number, token, None))
        if self.end == "stop":
            deliver(TokenEvent(ticket.number, request.eos_token_ids[0], "stop"))
        else:
            deliver(TokenEvent(ticket.number, -1, "error", error=self.end))

    def cancel(self, ticket: Ticket) -> None:
        """Stop speaking."""
        self.stopped.add(ticket.number)

    def begun(self, ticket: Ticket) -> bool:
        """It always has."""
        return True
