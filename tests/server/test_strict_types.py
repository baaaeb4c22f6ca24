"""Every answer against the types of the official clients, and against the keys that the descriptions require."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, get_args

import httpx
import ollama
import pytest
from anthropic.types import ErrorResponse, Message, MessageTokensCount, RawMessageStreamEvent
from openai.types import Completion, FileDeleted, FileObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from server.bodies.parts import DATA, URI, flat, function
from server.kit import EXAMPLES, Running, Script, events, running

SPOKEN = (
    "I look.\n</think>\n\nOne moment.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n"
    "</function>\n</tool_call>"
)
HELLO = [{"role": "user", "content": "hello"}]
PICTURE = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": URI}}]


@pytest.fixture(scope="module")
def scripted() -> Iterator[Running]:
    """A server whose model thinks, says a word and calls a function."""
    script = Script([SPOKEN])
    with running(prepare=script.install) as found:
        yield found


@pytest.fixture(params=["model", "scripted"])
def either(request: pytest.FixtureRequest) -> Running:
    """The real model, and the one that calls functions."""
    found: Running = request.getfixturevalue({"model": "server", "scripted": "scripted"}[request.param])
    return found


def _by_type(union: Any) -> dict[str, Any]:
    """The members of a union of events by their types, so that a failure tells of one member alone."""
    members = get_args(get_args(union)[0])
    return {get_args(member.model_fields["type"].annotation)[0]: member for member in members}


RESPONSE_EVENTS = _by_type(ResponseStreamEvent)
MESSAGE_EVENTS = _by_type(RawMessageStreamEvent)


def strict(kind: Any, value: Any) -> None:
    """Raise where a value is not exactly of a type, and where a key is missing that is not optional."""
    TypeAdapter(kind).validate_json(json.dumps(value), strict=True)


def post(server: Running, path: str, **body: Any) -> httpx.Response:
    answer = server.client.post(path, json={"model": "nano", **body})
    assert answer.status_code == 200, answer.text
    return answer


def need(value: dict[str, Any], keys: str) -> None:
    """Require keys, null or not."""
    missing = [key for key in keys.split() if key not in value]
    assert not missing


CHATS: list[dict[str, Any]] = [
    {"messages": HELLO, "logprobs": True, "top_logprobs": 2},
    {"messages": [{"role": "user", "content": PICTURE}], "max_tokens": 3},
    {"messages": HELLO, "tools": [function()], "reasoning_effort": "low", "max_tokens": 200},
    {"messages": HELLO, "n": 2, "stop": ["ello"]},
]


@pytest.mark.parametrize("body", CHATS)
def test_chat(either: Running, body: dict[str, Any]) -> None:
    whole = post(either, "/v1/chat/completions", **body).json()
    strict(ChatCompletion, whole)
    for choice in whole["choices"]:
        need(choice, "index message finish_reason logprobs")
        need(choice["message"], "role content refusal")
        if choice["logprobs"] is not None:
            need(choice["logprobs"], "content refusal")
    chunks = events(post(either, "/v1/chat/completions", **body, stream=True, stream_options={"include_usage": True}))
    assert chunks.pop() == "[DONE]"
    for chunk in chunks:
        strict(ChatCompletionChunk, chunk)
        need(chunk, "id object created model choices")
        for choice in chunk["choices"]:
            need(choice, "index delta finish_reason")
            if choice.get("logprobs") is not None:
                need(choice["logprobs"], "content refusal")


@pytest.mark.parametrize("more", [{}, {"logprobs": 2}, {"echo": True}])
def test_completions(server: Running, more: dict[str, Any]) -> None:
    body = {"prompt": "hello", "max_tokens": 5, **more}
    strict(Completion, post(server, "/v1/completions", **body).json())
    for chunk in events(post(server, "/v1/completions", **body, stream=True))[:-1]:
        # Of the last chunk's type alone: before it there is no finish reason, which the type does not know.
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        strict(Completion, chunk)


RESPONSES: list[dict[str, Any]] = [
    {"input": "hello"},
    {"input": "hello", "max_output_tokens": 1, "instructions": "Be brief.", "metadata": {"a": "b"}},
    {"input": "hello", "tools": [flat(strict=True)], "tool_choice": "auto", "reasoning": {"effort": "low"}},
    {"input": "hello", "tools": [flat()], "tool_choice": {"type": "function", "name": "weather"}},
]
_RESPONSE = (
    "id object created_at completed_at status error incomplete_details instructions max_output_tokens max_tool_calls "
    "metadata model output parallel_tool_calls previous_response_id reasoning store temperature text tool_choice tools "
    "top_p top_logprobs truncation usage background service_tier presence_penalty frequency_penalty prompt_cache_key "
    "safety_identifier"
)


@pytest.mark.parametrize("body", RESPONSES)
def test_responses(either: Running, body: dict[str, Any]) -> None:
    whole = post(either, "/v1/responses", **body).json()
    strict(Response, whole)
    need(whole, _RESPONSE)
    for event in events(post(either, "/v1/responses", **body, stream=True)):
        strict(RESPONSE_EVENTS[event["type"]], event)
        if "response" in event:
            need(event["response"], _RESPONSE)


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}
TOOL = {"name": "weather", "input_schema": function()["function"]["parameters"]}
MESSAGES: list[dict[str, Any]] = [
    {"messages": HELLO, "max_tokens": 50},
    {"messages": [{"role": "user", "content": [IMAGE]}], "max_tokens": 2},
    {"messages": HELLO, "max_tokens": 300, "tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 1024}},
    {"messages": HELLO, "max_tokens": 50, "stop_sequences": ["ello"]},
]
_USAGE = "input_tokens output_tokens cache_creation_input_tokens cache_read_input_tokens server_tool_use"


def _check_block(block: dict[str, Any]) -> None:
    need(block, {"text": "text citations", "tool_use": "id name input caller"}.get(block["type"], "thinking signature"))


@pytest.mark.parametrize("body", MESSAGES)
def test_messages(either: Running, body: dict[str, Any]) -> None:
    whole = post(either, "/v1/messages", **body).json()
    strict(Message, whole)
    need(whole, "id type role model content stop_reason stop_sequence stop_details container usage")
    need(whole["usage"], f"{_USAGE} cache_creation service_tier inference_geo output_tokens_details")
    for block in whole["content"]:
        _check_block(block)
    for event in events(post(either, "/v1/messages", **body, stream=True)):
        if event["type"] == "ping":
            continue
        strict(MESSAGE_EVENTS[event["type"]], event)
        if event["type"] == "message_delta":
            need(event["delta"], "stop_reason stop_sequence stop_details container")
            need(event["usage"], f"{_USAGE} output_tokens_details")
        if event["type"] == "content_block_start":
            _check_block(event["content_block"])


def test_counts_and_errors(server: Running) -> None:
    strict(MessageTokensCount, post(server, "/v1/messages/count_tokens", messages=HELLO).json())
    error = server.client.post("/v1/messages", json={"model": "other", "max_tokens": 1, "messages": HELLO})
    strict(ErrorResponse, error.json())
    told = server.client.post("/v1/chat/completions", json={"model": "other", "messages": HELLO}).json()["error"]
    need(told, "message type param code")


def test_models_and_files(server: Running) -> None:
    listed = server.client.get("/v1/models").json()
    assert listed["object"] == "list"
    strict(list[Model], listed["data"])
    strict(Model, server.client.get("/v1/models/nano").json())
    files = [
        server.client.post(
            "/v1/files", files={"file": ("a.png", (EXAMPLES / "apple.png").read_bytes())}, data={"purpose": "vision"}
        ).json()
        for _ in range(2)
    ]
    strict(list[FileObject], files)
    strict(FileObject, server.client.get(f"/v1/files/{files[0]['id']}").json())
    page = server.client.get("/v1/files").json()
    need(page, "object data first_id last_id has_more")
    strict(list[FileObject], page["data"])
    assert [page["first_id"], page["last_id"]] == [page["data"][0]["id"], page["data"][-1]["id"]]
    for file in files:
        strict(FileDeleted, server.client.delete(f"/v1/files/{file['id']}").json())
    empty = server.client.get("/v1/files").json()
    need(empty, "object data first_id last_id has_more")


def test_an_answer_that_repeats_itself_ends_for_a_known_reason() -> None:
    """The types of clients list the reasons; a client that meets another one may stop."""
    script = Script(["ha " * 2000])
    with running(prepare=script.install) as server:
        strict(ChatCompletion, post(server, "/v1/chat/completions", messages=HELLO).json())
        strict(Completion, post(server, "/v1/completions", prompt="hello").json())
        strict(Response, post(server, "/v1/responses", input="hello").json())
        strict(Message, post(server, "/v1/messages", messages=HELLO, max_tokens=1000).json())


OLLAMA: list[tuple[str, type[BaseModel], dict[str, Any]]] = [
    ("/api/chat", ollama.ChatResponse, {"messages": HELLO, "options": {"num_predict": 5}}),
    ("/api/chat", ollama.ChatResponse, {"messages": HELLO, "tools": [function()], "think": True}),
    ("/api/generate", ollama.GenerateResponse, {"prompt": "hello", "images": [DATA]}),
    ("/api/generate", ollama.GenerateResponse, {"prompt": "hello", "think": True}),
    ("/api/generate", ollama.GenerateResponse, {"prompt": ""}),
]
_COUNTS = "total_duration load_duration prompt_eval_count prompt_eval_duration eval_count eval_duration"


@pytest.mark.parametrize(("path", "kind", "body"), OLLAMA)
def test_ollama(either: Running, path: str, kind: type[BaseModel], body: dict[str, Any]) -> None:
    body = {"options": {"num_predict": 200}, **body}
    whole = post(either, path, **body, stream=False).json()
    lines = [json.loads(line) for line in post(either, path, **body).text.splitlines()]
    for line in (whole, *lines):
        strict(kind, line)
        need(line, "model created_at done")
        need(line, "message" if path == "/api/chat" else "response")
        assert datetime.fromisoformat(line["created_at"]).tzinfo is not None
        for number, call in enumerate(line.get("message", {}).get("tool_calls", ())):
            assert call["function"]["index"] == number
            need(call, "id function")
    for line in (whole, lines[-1]):
        need(line, "done_reason")
        if body.get("prompt") != "":
            need(line, _COUNTS)


def test_ollama_models(server: Running) -> None:
    for path, kind in (("/api/tags", ollama.ListResponse), ("/api/ps", ollama.ProcessResponse)):
        found = server.client.get(path).json()
        strict(kind, found)
        for model in found["models"]:
            need(model, "name model size digest details")
            need(model["details"], "parent_model format family families parameter_size quantization_level")
    shown = post(server, "/api/show").json()
    strict(ollama.ShowResponse, shown)
    need(shown, "details model_info capabilities modified_at template")
