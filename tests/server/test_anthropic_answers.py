"""Anthropic's interface: answers by the strict types of its package, streams, errors, models, and whole clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from anthropic.types.beta import BetaMessage, BetaRawMessageStreamEvent
from pydantic import BaseModel, TypeAdapter
from server.kit import Running, Script, events, running

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [{"name": "weather", "description": "Weather.", "input_schema": SCHEMA}]
CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"
ASKED: dict[str, Any] = {"model": "nano", "max_tokens": 99, "messages": [{"role": "user", "content": "Weather?"}]}
THINKS: dict[str, Any] = {**ASKED, "tools": TOOLS, "thinking": {"type": "enabled", "budget_tokens": 1024}}
OMITTED = {"type": "adaptive", "display": "omitted"}


@pytest.fixture(scope="module")
def calling() -> Iterator[Running]:
    """A server whose model thinks, says a word and calls a function, whatever it is asked."""
    script = Script([f"I look it up.\n</think>\n\nOne moment.\n\n{CALL}"])
    with running(prepare=script.install) as found:
        yield found


@pytest.fixture
def client(calling: Running) -> Iterator[anthropic.Anthropic]:
    with official(calling) as found:
        yield found


def official(server: Running) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, _strict_response_validation=True)


def valid(kinds: Any, value: Any) -> Any:
    """Checked by the package's own types, without conversions."""
    return TypeAdapter(kinds).validate_json(json.dumps(value), strict=True)


def test_whole_answers_have_every_field_of_the_types(calling: Running, client: anthropic.Anthropic) -> None:
    answer = client.messages.create(**THINKS)
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use"]
    raw = calling.client.post("/v1/messages", json=THINKS).json()
    assert valid(Message, raw).stop_reason == "tool_use"
    assert valid(BetaMessage, raw).content[2].input == {"city": "Paris"}
    assert {"container", "stop_details", "stop_sequence"} <= set(raw)
    usage = raw["usage"]
    assert usage["cache_creation"] == {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    assert (usage["service_tier"], usage["inference_geo"], usage["server_tool_use"]) == ("standard", None, None)
    assert 0 < usage["output_tokens_details"]["thinking_tokens"] < usage["output_tokens"]
    counted = calling.client.post("/v1/messages/count_tokens", json=THINKS).json()
    assert valid(MessageTokensCount, counted).input_tokens == usage["input_tokens"] + usage["cache_read_input_tokens"]


def test_streams_have_the_published_order_and_types(calling: Running, client: anthropic.Anthropic) -> None:
    found = events(calling.client.post("/v1/messages", json={**THINKS, "stream": True}))
    for event in found:
        if event["type"] != "ping":
            valid(RawMessageStreamEvent, event)
            valid(BetaRawMessageStreamEvent, event)
    kinds = [event["type"] for event in found if event["type"] != "content_block_delta"]
    block = ["content_block_start", "content_block_stop"]
    assert kinds == ["message_start", "ping", *block * 3, "message_delta", "message_stop"]
    starts = [event for event in found if event["type"] == "content_block_start"]
    assert [event["index"] for event in starts] == [0, 1, 2]
    assert [event["content_block"]["type"] for event in starts] == ["thinking", "text", "tool_use"]
    start, end = found[0]["message"], next(event for event in found if event["type"] == "message_delta")
    assert (start["content"], start["stop_reason"], start["usage"]["output_tokens"]) == ([], None, 0)
    assert start["usage"]["input_tokens"] > 0
    ended = {"stop_reason": "tool_use", "stop_sequence": None, "stop_details": None, "container": None}
    assert end["delta"] == ended
    assert end["usage"]["output_tokens"] > end["usage"]["output_tokens_details"]["thinking_tokens"] > 0
    with client.messages.stream(**THINKS) as stream:
        final = stream.get_final_message()
    whole = client.messages.create(**THINKS)
    assert [block.model_dump() for block in final.content][:2] == [block.model_dump() for block in whole.content][:2]
    with client.beta.messages.stream(**THINKS, betas=["interleaved-thinking-2025-05-14"]) as stream:
        assert stream.get_final_message().stop_reason == "tool_use"


def test_omitted_thinking_is_an_empty_block(calling: Running) -> None:
    asked = {**THINKS, "thinking": OMITTED}
    raw = calling.client.post("/v1/messages", json=asked)
    assert raw.json()["content"][0] == {"type": "thinking", "thinking": "", "signature": "pocketvlm"}
    assert "look it up" not in raw.text
    stream = calling.client.post("/v1/messages", json={**asked, "stream": True})
    deltas = [event["delta"]["type"] for event in events(stream) if event.get("index") == 0 and "delta" in event]
    assert deltas == ["signature_delta"]
    assert "look it up" not in stream.text


def test_hidden_thoughts_keep_the_connection_open() -> None:
    script = Script(["word " * 40 + "</think>\n\nDone."], pause=0.02)
    with running(prepare=script.install, ping=0.1) as server:
        stream = server.client.post("/v1/messages", json={**ASKED, "thinking": OMITTED, "stream": True})
    kinds = [event["type"] for event in events(stream)]
    assert kinds[3:].index("content_block_stop") > kinds[3:].index("ping")


def test_repetition_has_a_published_reason() -> None:
    script = Script(["again and again " * 600])
    with running(prepare=script.install) as server:
        answer = server.client.post("/v1/messages", json={**ASKED, "max_tokens": 4000}).json()
        assert server.line(answer["id"].removeprefix("msg_"))["finish"] == "repetition"
    assert valid(Message, answer).stop_reason == "max_tokens"


def test_typed_answers_of_the_package(server: Running) -> None:
    class Yes(BaseModel):
        sure: bool

    with official(server) as client:
        parsed = client.messages.parse(**{**ASKED, "max_tokens": 500}, output_format=Yes)
        assert isinstance(parsed.parsed_output, Yes)


def test_errors_have_the_form_of_the_interface() -> None:
    settings: dict[str, Any] = {"max_body_bytes": 2000, "max_seqs": 1, "max_queue": 0}
    with running(prepare=Script(["word " * 50], pause=0.02).install, **settings) as server, official(server) as client:
        with pytest.raises(anthropic.NotFoundError, match="not served here") as missing:
            client.messages.create(**{**ASKED, "model": "other"})
        check(missing.value.response, "not_found_error")
        check(server.client.post("/v1/messages", content=b"{"), "invalid_request_error")
        check(server.client.post("/v1/messages", json=[1]), "invalid_request_error")
        check(server.client.post("/v1/messages/count_tokens", json={}), "invalid_request_error")
        check(server.client.post("/v1/messages/nothing", json={}), "not_found_error")
        check(server.client.post("/v1/messages/batches", json={}), "invalid_request_error")
        check(server.client.get("/v1/messages"), "invalid_request_error")
        large = {**ASKED, "system": "x" * 3000}
        check(server.client.post("/v1/messages", json=large), "request_too_large")
        with client.messages.create(**ASKED, stream=True) as stream:
            next(iter(stream))
            with pytest.raises(anthropic.RateLimitError) as busy:
                client.messages.create(**ASKED)
        check(busy.value.response, "rate_limit_error")
    with running(api_keys=("long-secret",)) as server:
        check(server.client.post("/v1/messages", json=ASKED), "authentication_error")
    with running(prepare=Script(["word"], end="it broke").install) as server, official(server) as client:
        check(server.client.post("/v1/messages", json=ASKED), "api_error")
        failed = events(server.client.post("/v1/messages", json={**ASKED, "stream": True}))[-1]
        assert (failed["type"], failed["error"]["type"]) == ("error", "api_error")
        with pytest.raises(anthropic.APIStatusError, match="it broke"), client.messages.stream(**ASKED) as broken:
            broken.get_final_message()


def check(response: httpx.Response, kind: str) -> None:
    body = response.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["error"]["message"]
    assert body["request_id"] == response.headers["request-id"]


def test_models_for_both_packages() -> None:
    with running(served_model_name=("nano", "claude-x")) as server, official(server) as client:
        page = client.models.list(limit=1)
        assert [model.id for model in page] == ["nano", "claude-x"]
        assert (page.has_more, page.first_id, page.last_id) == (False, "nano", "claude-x")
        model = client.models.retrieve("claude-x")
        assert (model.type, model.display_name, model.lifecycle) == ("model", "nano", "active")
        assert model.created_at.timestamp() == server.context.created
        assert [model.id for model in client.beta.models.list()] == ["nano", "claude-x"]
        with pytest.raises(anthropic.NotFoundError):
            client.models.retrieve("other")
        plain = server.client.get("/v1/models").json()
        assert (plain["object"], plain["data"][0]["object"]) == ("list", "model")


def test_a_coding_agent(calling: Running) -> None:
    """System blocks, many tools, cache marks, adaptive thinking, context management; counted, then streamed."""
    mark = {"type": "ephemeral"}
    tools = [*TOOLS, *({"name": f"mcp__t_{number}", "input_schema": {}} for number in range(14))]
    body = {
        **ASKED,
        "system": [
            {"type": "text", "text": "You are an agent.", "cache_control": mark},
            {"type": "text", "text": "Be careful.", "cache_control": {**mark, "ttl": "1h"}},
        ],
        "tools": [*tools[:-1], {**tools[-1], "cache_control": mark}],
        "metadata": {"user_id": json.dumps({"device_id": "d", "session_id": "s"})},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "<system-reminder>\nx\n</system-reminder>"},
                                         {"type": "text", "text": "Weather?", "cache_control": mark}]},
        ],
    }  # fmt: skip
    headers = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27",
        "authorization": "Bearer none",
    }
    counted = calling.client.post("/v1/messages/count_tokens?beta=true", json=body, headers=headers)
    assert counted.json()["input_tokens"] > 500
    response = calling.client.post("/v1/messages?beta=true", json={**body, "stream": True}, headers=headers)
    assert response.headers["x-ignored-fields"] == (
        "context_management, tools[14].cache_control, output_config.effort, system[0].cache_control, "
        "system[1].cache_control, messages[0].content[1].cache_control"
    )
    assert response.status_code == 200, response.text
    found = [valid(BetaRawMessageStreamEvent, event) for event in events(response) if event["type"] != "ping"]
    assert found[-2].delta.stop_reason == "tool_use"
    assert calling.line(response.headers["request-id"])["user"] == body["metadata"]["user_id"]
    # The next request has the answer and the tool's result.
    blocks = calling.client.post("/v1/messages?beta=true", json=body, headers=headers).json()["content"]
    result = {"type": "tool_result", "tool_use_id": blocks[-1]["id"], "content": "rain", "cache_control": mark}
    more = [{"role": "assistant", "content": blocks}, {"role": "user", "content": [result]}]
    again = calling.client.post("/v1/messages?beta=true", json={**body, "messages": [*body["messages"], *more]})
    assert again.status_code == 200
    shown = calling.context.driver.requests[-1].prompt.text  # type: ignore[attr-defined]
    assert "<think>\nI look it up.\n</think>\n\nOne moment.\n\n<tool_call>" in shown
    assert shown.rstrip().endswith("<tool_response>\nrain\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>")


def test_libraries_on_top_of_the_interface(calling: Running) -> None:
    """Requests in the form that @ai-sdk/anthropic and langchain-anthropic write."""
    history = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "I look it up.", "signature": ""},
            {"type": "text", "text": "One moment."},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain", "is_error": False},
        ]},
    ]  # fmt: skip
    sdk = {
        **ASKED, "messages": history, "temperature": 0.5, "top_k": 5, "stop_sequences": ["END"],
        "system": [{"type": "text", "text": "Be brief."}], "tool_choice": {"type": "auto"}, "stream": True,
        "tools": [{**TOOLS[0], "eager_input_streaming": True}], "thinking": {"type": "enabled", "budget_tokens": 1024},
    }  # fmt: skip
    chain = {**ASKED, "messages": history, "system": "Be brief.", "tools": TOOLS, "stream": False, "top_p": None}
    for body in (sdk, chain, {**chain, "mcp_servers": None, "betas": None, "tool_choice": {"type": "any"}}):
        response = calling.client.post("/v1/messages", json=body)
        assert response.status_code == 200, response.text
        assert "x-ignored-fields" not in response.headers
