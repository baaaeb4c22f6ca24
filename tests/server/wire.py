"""Requests by hand, byte for byte."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from server.kit import Running


@contextmanager
def wire(server: Running) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as found:
        yield found


def everything(connection: socket.socket) -> bytes:
    """What the server says until it closes."""
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def chat_body(**fields: Any) -> bytes:
    return json.dumps({"model": "nano", "messages": [{"role": "user", "content": "hello"}], **fields}).encode()


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body
