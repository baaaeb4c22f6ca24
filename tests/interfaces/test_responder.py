"""A body that is answered without a server gets the server's answer: same status, same body, same ignored fields."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from server.bodies.chat import CHAT
from server.bodies.messages import MESSAGES, THREADS
from server.bodies.ollama import OLLAMA
from server.bodies.parts import DATA, SCHEMA, URI, Sent, flat, function
from server.bodies.responses import RESPONSES
from server.kit import Running, events

import pocketvlm
from pocketvlm.errors import OptionError
from pocketvlm.interfaces.endpoints import ENDPOINTS
from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.responder import Responder, Response

ID = "0123456789abcdef01234567"
USER = [{"role": "user", "content": "hello"}]
TOOL = function(parameters=SCHEMA)
CLAUDES = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}
CHAT_PATH, TEXT_PATH, RESPONSES_PATH = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES_PATH, OLLAMA_CHAT, OLLAMA_GENERATE = "/v1/messages", "/api/chat", "/api/generate"

# Each case by its name: path and body.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat, text": (CHAT_PATH, {"messages": USER}),
    "chat, image": (CHAT_PATH, {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": URI}, "max_slice_nums": 1}, {"type": "text", "text": "What?"}]}]}),
    "chat, base64 text": (CHAT_PATH, {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": DATA}}]}]}),
    "chat, frames": (CHAT_PATH, {"messages": [{"role": "user", "content": [{"type": "video", "video": [URI, URI]}]}]}),
    "chat, tools": (CHAT_PATH, {"messages": USER, "tools": [TOOL], "tool_choice": "required"}),
    "chat, choices": (CHAT_PATH, {"messages": USER, "n": 3, "seed": 5, "temperature": 1.5, "max_tokens": 9,
                                  "logprobs": True, "top_logprobs": 2}),
    "chat, schema": (CHAT_PATH, {"messages": USER, "response_format": {
        "type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}}),
    "chat, reasoning": (CHAT_PATH, {"messages": USER, "reasoning_effort": "high", "thinking_token_budget": 4,
                                    "max_tokens": 20}),
    "chat, own id": (CHAT_PATH, {"messages": USER, "max_tokens": 3, "request_id": "mine", "user": "me", "x": 1}),
    "chat, stop": (CHAT_PATH, {"messages": USER, "stop": ["e", "a"]}),
    "text": (TEXT_PATH, {"prompt": "hello", "max_tokens": 8}),
    "texts": (TEXT_PATH, {"prompt": ["hello", "you"], "n": 2, "seed": 1, "echo": True, "max_tokens": 5}),
    "ids": (TEXT_PATH, {"prompt": [5, 6, 7], "max_tokens": 5, "logprobs": 1}),
    "responses, text": (RESPONSES_PATH, {"input": "hello", "include": ["message.output_text.logprobs"]}),
    "responses, image": (RESPONSES_PATH, {"instructions": "Be brief.", "input": [{"role": "user", "content": [
        {"type": "input_image", "image_url": URI}, {"type": "input_text", "text": "What?"}]}]}),
    "responses, tools": (RESPONSES_PATH, {"input": "hello", "tools": [flat()], "tool_choice": "required"}),
    "messages, text": (MESSAGES_PATH, {"messages": USER, "max_tokens": 20, "system": "Be brief."}),
    "messages, image": (MESSAGES_PATH, {"max_tokens": 20, "messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}},
        {"type": "text", "text": "What?"}]}]}),
    "messages, tools": (MESSAGES_PATH, {"messages": USER, "max_tokens": 60, "tools": [CLAUDES],
                                        "tool_choice": {"type": "any"}}),
    "messages, hidden thoughts": (MESSAGES_PATH, {"messages": USER, "max_tokens": 30, "thinking": {
        "type": "enabled", "budget_tokens": 3, "display": "omitted"}}),
    "ollama, text": (OLLAMA_CHAT, {"messages": USER}),
    "ollama, image": (OLLAMA_CHAT, {"messages": [{"role": "user", "content": "What?", "images": [DATA]}]}),
    "ollama, tools": (OLLAMA_CHAT, {"messages": USER, "tools": [function(strict=True)]}),
    "ollama, load": (OLLAMA_CHAT, {"model": "nano"}),
    "generate, text": (OLLAMA_GENERATE, {"prompt": "hello", "logprobs": True, "options": {"num_predict": 6}}),
    "generate, image": (OLLAMA_GENERATE, {"prompt": "What?", "images": [URI]}),
    "generate, context": (OLLAMA_GENERATE, {"prompt": "hello", "context": [5, 6, 7], "format": "json",
                                            "options": {"num_predict": 9}}),
    "generate, raw": (OLLAMA_GENERATE, {"prompt": "hello", "raw": True, "options": {"num_predict": 6}}),
    "generate, unload": (OLLAMA_GENERATE, {"keep_alive": 0}),
}  # fmt: skip

WRONG: dict[str, tuple[str, Any]] = {
    "chat, no JSON": (CHAT_PATH, "{"),
    "chat, NaN": (CHAT_PATH, '{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}'),
    "chat, nothing": (CHAT_PATH, ""),
    "chat, null": (CHAT_PATH, "null"),
    "chat, a list": (CHAT_PATH, "[1]"),
    "chat, no messages": (CHAT_PATH, {}),
    "chat, wrong type": (CHAT_PATH, {"messages": USER, "max_tokens": "1"}),
    "chat, wrong value": (CHAT_PATH, {"messages": USER, "temperature": -1}),
    "chat, wrong role": (CHAT_PATH, {"messages": [{"role": "nobody", "content": "x"}]}),
    "chat, other model": (CHAT_PATH, {"messages": USER, "model": "other"}),
    "chat, refused field": (CHAT_PATH, {"messages": USER, "modalities": ["audio"]}),
    "chat, bad image": (CHAT_PATH, {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:;base64,AAAA"}}]}]}),
    "chat, two sources": (CHAT_PATH, {"messages": [{"role": "user", "content": [
        {"type": "image", "image": URI, "file_id": "file-1"}]}]}),
    "chat, bad video": (CHAT_PATH, {"messages": [{"role": "user", "content": [{"type": "video", "video": "AAAA"}]}]}),
    "chat, bad schema": (CHAT_PATH, {"messages": USER, "guided_json": {"type": "nothing"}}),
    "chat, no function": (CHAT_PATH, {"messages": USER, "tools": [TOOL], "tool_choice": {
        "type": "function", "function": {"name": "g"}}}),
    "chat, too long": (CHAT_PATH, {"messages": [{"role": "user", "content": "word " * 40_000}]}),
    "text, bad ids": (TEXT_PATH, {"prompt": [1 << 30]}),
    "text, no prompt": (TEXT_PATH, {"prompt": []}),
    "responses, stored": (RESPONSES_PATH, {"input": "x", "previous_response_id": "resp_1"}),
    "responses, bad item": (RESPONSES_PATH, {"input": [{"type": "item_reference", "id": "x"}]}),
    "messages, no limit": (MESSAGES_PATH, {"messages": USER}),
    "messages, bad block": (MESSAGES_PATH, {"max_tokens": 9, "messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "data": "AAAA"}}]}]}),
    "messages, refused field": (MESSAGES_PATH, {"messages": USER, "max_tokens": 9, "stop": "x"}),
    "ollama, bad option": (OLLAMA_CHAT, {"messages": USER, "options": {"top_p": 7}}),
    "ollama, bad image": (OLLAMA_CHAT, {"messages": [{"role": "user", "content": "x", "images": ["AAAA"]}]}),
    "generate, template": (OLLAMA_GENERATE, {"prompt": "x", "template": "{{ .Prompt }}"}),
}  # fmt: skip

RECORDED = [sent for sent in (*CHAT, *RESPONSES, *MESSAGES, *OLLAMA) if sent.path in ENDPOINTS]


def settled(path: str, body: dict[str, Any], stream: bool = False) -> dict[str, Any]:
    """A body whose answer is the same each time, and whole or a stream."""
    body = {**body, "stream": stream}
    if path.startswith("/api/"):
        return {**body, "options": {"temperature": 0, **(body.get("options") or {})}}
    return {"temperature": 0, **body}


def timeless(value: Any) -> Any:
    """A value without the fields that tell of time."""
    if isinstance(value, list):
        return [timeless(each) for each in value]
    if not isinstance(value, dict):
        return value
    times = ("created", "created_at", "completed_at", "timings")
    return {key: timeless(each) for key, each in value.items() if key not in times and not key.endswith("_duration")}


def post(server: Running, path: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, str) else json.dumps(body)
    return server.client.post(path, content=content, headers={**headers, "x-request-id": ID})


def check(found: httpx.Response, own: Response) -> None:
    assert own.status == found.status_code
    assert timeless(own.body) == timeless(found.json())
    assert own.ignored == found.headers.get("x-ignored-fields", "")
    assert own.request_id == found.headers["x-request-id"]


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_the_servers(server: Running, responder: Responder, name: str) -> None:
    path, body = CASES[name]
    sent = settled(path, body)
    found = post(server, path, sent)
    assert found.status_code == 200, found.text
    check(found, responder.answer(path, sent, ID))
    if "tools" in body and path != OLLAMA_CHAT:
        assert "weather" in found.text.partition('"tools":')[0]


@pytest.mark.parametrize("sent", RECORDED, ids=[sent.name for sent in RECORDED])
def test_answers_to_recorded_bodies_are_the_servers(server: Running, responder: Responder, sent: Sent) -> None:
    body = {**settled(sent.path, sent.body), **({} if sent.path.startswith("/api/") else {"temperature": 0})}
    body.pop("stream_options", None)
    found = post(server, sent.path, body, **sent.headers)
    assert found.status_code == 200, found.text
    check(found, responder.answer(sent.path, json.dumps(body), ID))


@pytest.mark.parametrize("name", WRONG)
def test_an_error_is_the_servers(server: Running, responder: Responder, name: str) -> None:
    path, body = WRONG[name]
    found = post(server, path, body)
    assert 400 <= found.status_code < 500
    check(found, responder.answer(path, body, ID))


def test_a_thread_that_goes_on_is_not_found(server: Running, responder: Responder) -> None:
    (sent,) = [sent for sent in THREADS if sent.body["thread"]["type"] != "create"][:1]
    check(post(server, sent.path, sent.body), responder.answer(sent.path, sent.body, ID))


def spoken(stream: list[Any]) -> dict[str, list[Any]]:
    """What a stream says under each key: texts joined, since chunks may be cut differently, other values once."""
    found: dict[str, Any] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                if key != "sequence_number":
                    visit(each, f"{path}.{key}")
        elif isinstance(value, list):
            for each in value:
                visit(each, f"{path}[{each.get('index', '') if isinstance(each, dict) else ''}]")
        elif isinstance(value, str) and path.rpartition(".")[2] in TEXTS:
            found[path] = found.get(path, "") + value
        elif value is not None and value not in found.setdefault(path, []):
            found[path].append(value)

    for each in stream:
        visit(timeless(each), "")
    return found


TEXTS = (
    "content", "reasoning_content", "reasoning", "text", "delta", "thinking", "partial_json", "arguments", "response",
)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in CASES if "load" not in name])
def test_a_stream_says_what_the_servers_says(server: Running, responder: Responder, name: str) -> None:
    path, body = CASES[name]
    plain = {key: value for key, value in body.items() if key not in ("logprobs", "top_logprobs", "include")}
    sent = settled(path, plain, stream=True)
    found = post(server, path, sent)
    data = b"".join(responder.stream(path, sent, ID))
    own = httpx.Response(200, content=data)
    if path.startswith("/api/"):
        assert spoken([json.loads(line) for line in own.text.splitlines()]) == spoken(
            [json.loads(line) for line in found.text.splitlines()]
        )
    else:
        assert spoken(events(own)) == spoken(events(found))


def test_threads_share_one_engine(responder: Responder) -> None:
    paths = [(path, settled(path, body)) for path, body in CASES.values()]
    alone = [responder.answer(path, body, ID) for path, body in paths]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda pair: responder.answer(*pair, ID), paths))
    assert [timeless(found.body) for found in together] == [timeless(found.body) for found in alone]


def test_a_whole_answer_ignores_the_wish_for_a_stream(responder: Responder) -> None:
    found = responder.answer(OLLAMA_CHAT, {"messages": USER, "stream": True, "options": {"num_predict": 2}})
    assert (found.status, found.ignored, found.body["done"]) == (200, "stream", True)


def test_a_stream_is_refused_before_it_begins(responder: Responder) -> None:
    with pytest.raises(ApiError, match="not found"):
        responder.stream(CHAT_PATH, {"messages": USER, "model": "other"})


def test_a_stream_that_is_left_ends_its_request() -> None:
    with pocketvlm.load("nano", threads=1) as model:
        responder = Responder(model)
        stream = responder.stream(CHAT_PATH, {"messages": USER, "ignore_eos": True, "max_tokens": 500, "n": 2})
        assert b"assistant" in next(stream)
        next(stream)
        assert len(model.engine.sequences) == 2
        stream.close()
        assert not model.engine.sequences


@pytest.mark.parametrize("path", [CHAT_PATH, MESSAGES_PATH, OLLAMA_CHAT])
def test_a_failure_of_the_engine_is_told_in_the_interfaces_form(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pocketvlm.load("nano", threads=1) as model:
        responder = Responder(model)
        monkeypatch.setattr(model.engine, "step", broken)
        whole = responder.answer(path, {"messages": USER, "max_tokens": 5})
        assert whole.status == 500
        error = whole.body["error"]
        assert "ZeroDivisionError" in (error if path == OLLAMA_CHAT else error["message"])
        stream = b"".join(responder.stream(path, {"messages": USER, "max_tokens": 5}, whole.request_id))
        last = [line for line in stream.splitlines() if line.startswith((b"{", b"data: {"))][-1]
        assert json.loads(last.removeprefix(b"data: ")) == whole.body


def test_an_unknown_path_is_our_callers_mistake(responder: Responder) -> None:
    with pytest.raises(OptionError, match=r"/v1/embeddings.*give one of /v1/chat"):
        responder.answer("/v1/embeddings", {})
