"""Requests in the form in which real clients send them: each is answered, and its answer has the interface's form."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import pytest
from server.bodies.chat import CHAT
from server.bodies.messages import MESSAGES, THREADS
from server.bodies.ollama import OLLAMA, PLAIN
from server.bodies.parts import Sent
from server.bodies.responses import RESPONSES
from server.kit import Running, events


def names(table: list[Sent]) -> dict[str, Any]:
    """Arguments of parametrize."""
    return {"argvalues": table, "ids": [sent.name for sent in table]}


def answer(server: Running, sent: Sent) -> httpx.Response:
    """The answer, which is no error."""
    found = server.client.post(sent.path, json=sent.body, headers=sent.headers)
    assert found.status_code == 200, found.text
    return found


def check_schema(sent: Sent, text: str) -> None:
    if sent.schema is not None:
        jsonschema.validate(json.loads(text), sent.schema)


@pytest.mark.parametrize("sent", **names(CHAT))
def test_chat_and_completions(server: Running, sent: Sent) -> None:
    found = answer(server, sent)
    chat = sent.path.endswith("chat/completions")
    if not sent.body.get("stream"):
        choice = found.json()["choices"][0]
        assert choice["finish_reason"] in ("stop", "length", "tool_calls")
        said = choice["message"] if chat else choice
        if chat:
            assert said["content"] or said.get("reasoning_content") or said["tool_calls"]
        check_schema(sent, said["content" if chat else "text"])
        return
    *chunks, done = events(found)
    assert done == "[DONE]"
    assert not any("error" in chunk for chunk in chunks)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    if chat:
        keys = ("content", "reasoning_content", "tool_calls")
        assert any(choice["delta"].get(key) for choice in choices for key in keys)
    if (sent.body.get("stream_options") or {}).get("include_usage"):
        assert chunks[-1]["usage"]["completion_tokens"] > 0
        assert chunks[-1]["choices"] == []


@pytest.mark.parametrize("sent", **names(RESPONSES))
def test_responses(server: Running, sent: Sent) -> None:
    found = answer(server, sent)
    response = found.json() if not sent.body.get("stream") else None
    if response is None:
        seen = events(found)
        assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
        assert seen[0]["type"] == "response.created"
        assert seen[-1]["type"] in ("response.completed", "response.incomplete")
        response = seen[-1]["response"]
    assert response["status"] in ("completed", "incomplete")
    assert response["output"]
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    check_schema(sent, "".join(part["text"] for part in parts))


@pytest.mark.parametrize("sent", **names(MESSAGES))
def test_messages(server: Running, sent: Sent) -> None:
    found = answer(server, sent)
    if sent.path.endswith("count_tokens"):
        assert found.json()["input_tokens"] > 0
        return
    if sent.body.get("stream"):
        kinds = [event["type"] for event in events(found)]
        assert kinds[0] == "message_start"
        assert kinds[-2:] == ["message_delta", "message_stop"]
        assert "content_block_delta" in kinds
        return
    message = found.json()
    assert (message["type"], message["role"]) == ("message", "assistant")
    assert message["content"]
    assert message["stop_reason"] in ("end_turn", "max_tokens", "tool_use", "stop_sequence")
    check_schema(sent, "".join(block["text"] for block in message["content"] if block["type"] == "text"))


@pytest.mark.parametrize("sent", **names(THREADS))
def test_a_thread_can_begin_and_is_then_not_found(server: Running, sent: Sent) -> None:
    """Clients then send their whole history, and in the end go on without threads."""
    found = server.client.post(sent.path, json=sent.body, headers=sent.headers)
    if sent.body["thread"]["type"] == "create":
        assert found.status_code == 200
        assert "thread" in found.headers["x-ignored-fields"].split(", ")
        return
    assert found.status_code == 400
    error = found.json()["error"]
    assert "thread" in error["message"]
    assert error["details"]["error_code"] == "thread_not_found"


@pytest.mark.parametrize("sent", **names(OLLAMA))
def test_ollama(server: Running, sent: Sent) -> None:
    found = answer(server, sent)
    if sent.path == "/api/show":
        assert found.json()["details"]["family"]
        return
    lines = [json.loads(line) for line in found.text.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert {line["model"] for line in lines} == {"nano"}
    texts = [line["message"]["content"] if sent.path == "/api/chat" else line["response"] for line in lines]
    if lines[-1]["done_reason"] not in ("load", "unload"):
        assert lines[-1]["eval_count"] > 0
    check_schema(sent, "".join(texts))


@pytest.mark.parametrize(("method", "path"), PLAIN)
def test_requests_without_a_body(server: Running, method: str, path: str) -> None:
    assert server.client.request(method, path).status_code == 200


def test_the_ollama_command_can_list_models(server: Running) -> None:
    """It prints the first twelve characters of a digest, and ends where there are fewer."""
    for path in ("/api/tags", "/api/ps"):
        for model in server.client.get(path).json()["models"]:
            assert len(model["digest"]) >= 12
