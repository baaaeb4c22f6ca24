"""A server that sends answers prepared by a test: whole ones, broken ones, and ones cut in the middle."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

Reply = Callable[[dict[str, Any], int], bytes]


def chunk(text: str | None, finish: str | None = None, **more: Any) -> bytes:
    """One event of a chat's stream."""
    delta = {} if text is None else {"content": text}
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}).encode()


def usage(prompt: int, completion: int) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return b"data: " + json.dumps({"choices": [], "usage": counts}).encode()


DONE = b"data: [DONE]"


def stream(*events: bytes, end: bool = True, keep: bool = True) -> bytes:
    """A streamed answer in chunks, one an event. end: False leaves the last chunk out and closes."""
    body = b"".join(b"%x\r\n%s\n\n\r\n" % (len(event) + 2, event) for event in events)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    close = b"" if keep and end else b"connection: close\r\n"
    return head + close + b"\r\n" + body + (b"0\r\n\r\n" if end else b"")


def whole(status: int, value: Any) -> bytes:
    """An answer of JSON."""
    body = json.dumps(value).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


def words(body: dict[str, Any]) -> int:
    """Words of a prompt; each is a token here, and 7 stand around them."""
    text = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
    if isinstance(text, list):
        text = text[-1]["text"]
    return len(text.split())


def answer(body: dict[str, Any], number: int) -> bytes:
    """As many tokens as are asked for, with usage."""
    count = body["max_tokens"]
    texts = [chunk(f" w{i}") for i in range(count)]
    return stream(chunk(""), *texts, chunk(None, "length"), usage(7 + words(body), count), DONE)


class StandIn:
    """What was asked, and how many requests were open at a time."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.connections = self.open = self.max_open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                if head.startswith("GET"):
                    writer.write(whole(200, {"data": [{"id": "stand-in"}]}))
                    continue
                body = json.loads(await reader.readexactly(int(lines["Content-Length"])))
                self.bodies.append(body)
                self.open += 1
                self.max_open = max(self.max_open, self.open)
                await asyncio.sleep(0.002)
                self.open -= 1
                data = self.reply(body, len(self.bodies) - 1)
                writer.write(data)
                await writer.drain()
                if b"connection: close" in data or not data:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def standing_in(reply: Reply = answer) -> AsyncIterator[StandIn]:
    found = StandIn(reply)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield found
    finally:
        server.close()
