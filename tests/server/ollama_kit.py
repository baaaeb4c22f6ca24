"""Ollama's requests as the Go client writes them, and what must hold for each answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
from server.kit import Running

NOTHING: dict[str, Any] = {}
# As Go writes a tool whose type, description and required names nobody set.
GO_TOOL = {
    "type": "",
    "function": {
        "name": "weather",
        "description": "",
        "parameters": {
            "type": "object",
            "required": None,
            "items": None,
            "properties": {"city": {"type": "string", "description": ""}},
        },
    },
}
GO_SHOW = {"model": "nano", "system": "", "template": "", "verbose": False, "options": None, "name": ""}
GO_GENERATE = {
    "model": "nano", "prompt": "hello", "suffix": "", "system": "", "template": "", "options": None,
    "_debug_render_only": False,
}  # fmt: skip
GO_CHAT = {
    "model": "nano", "messages": [{"role": "user", "content": "hello"}], "options": None, "_debug_render_only": False
}  # fmt: skip


def post(server: Running, path: str, body: Mapping[str, Any] = NOTHING, **more: Any) -> dict[str, Any]:
    """The answer as one object; it must be one, without ignored fields."""
    answer = server.client.post(path, json={"stream": False, **body, **more})
    assert answer.status_code == 200, answer.text
    assert "x-ignored-fields" not in answer.headers
    found: dict[str, Any] = answer.json()
    return found


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    """The objects of a stream."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def refused(server: Running, path: str, status: int = 400, **body: Any) -> str:
    """The error of a request, which must have Ollama's form."""
    answer = server.client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    return str(answer.json()["error"])
