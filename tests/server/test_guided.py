"""Answers that must have a form: nano is no great writer, but a grammar lets it write nothing else."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from server.kit import Running, events

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ant", "bee"]}, "legs": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"many": {"type": "integer", "minimum": 1, "maximum": 3}, "kind": {"enum": ["a", "b"]}},
                "required": ["many", "kind"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("count", "sort")
]


def text(response: Any) -> str:
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["finish_reason"] == "stop", response.text
    return str(response.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA}}},
        {"guided_json": SCHEMA},
        {"structured_outputs": {"json": SCHEMA}},
    ],
)
def test_json_by_a_schema(server: Running, fields: dict[str, Any]) -> None:
    found = json.loads(text(server.chat("An animal?", max_tokens=1000, **fields)))
    assert found["name"] in ("ant", "bee")
    assert found["legs"] in range(10)
    again = server.chat("An animal?", max_tokens=1000, temperature=3.0, seed=1, n=3, stream=True, **fields)
    for index in range(3):
        said = "".join(
            choice["delta"].get("content", "")
            for chunk in events(again)[:-1]
            for choice in chunk["choices"]
            if choice["index"] == index
        )
        assert set(json.loads(said)) == {"name", "legs"}


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}}


@pytest.mark.parametrize("seed", range(8))
def test_a_short_value_needs_few_tokens(server: Running, seed: int) -> None:
    schema = {"type": "object", "properties": {"colour": {"const": "red"}}, "required": ["colour"]}
    for fields in ({"temperature": 0}, {"temperature": 1.5, "seed": seed}):
        assert json.loads(text(server.chat("hello", max_tokens=32, **fields, **form(schema)))) == {"colour": "red"}


@pytest.mark.parametrize("seed", range(4))
def test_no_names_are_invented(server: Running, seed: int) -> None:
    schema = {"type": "object", "properties": {"legs": {"type": "integer", "maximum": 9, "minimum": 0}}}
    found = json.loads(text(server.chat("hello", max_tokens=32, temperature=2.0, seed=seed, **form(schema))))
    assert set(found) <= {"legs"}


UNION = {
    "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
    "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}},
    "title": "Pet",
}
PET = {
    "type": "object",
    "properties": {"pet": UNION},
    "required": ["pet"],
    "$defs": {
        name.title(): {"type": "object", "properties": {"kind": {"const": name, "default": name, "type": "string"}}}
        for name in ("cat", "dog")
    },
}


@pytest.mark.parametrize("seed", range(3))
def test_a_union_with_a_discriminator(server: Running, seed: int) -> None:
    fields = {"max_tokens": 60, "temperature": 1.0, "seed": seed}
    found = [json.loads(text(server.chat("hello", **form(PET), **fields)))]
    tool = {"type": "function", "function": {"name": "f", "parameters": PET}}
    body = server.chat("hello", tools=[tool], tool_choice="required", parallel_tool_calls=False, **fields).json()
    found.append(json.loads(body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]))
    assert all(one in ({"pet": {"kind": "cat"}}, {"pet": {"kind": "dog"}}) for one in found)


@pytest.mark.parametrize("seed", range(6))
def test_with_tools_an_answer_is_a_call_or_has_the_form(server: Running, seed: int) -> None:
    schema = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
    body = server.chat("hello", tools=[tool], max_tokens=60, temperature=1.0, seed=seed, **form(schema)).json()
    message = body["choices"][0]["message"]
    calls = message.get("tool_calls", [])
    found = [json.loads(call["function"]["arguments"]) for call in calls] or [json.loads(message["content"])]
    assert all(one["kind"] in ("a", "b") for one in found)
    assert bool(calls) != bool(message["content"])


def test_lines_where_a_request_allows_them(server: Running) -> None:
    schema = {"type": "object", "properties": {name: {"const": 1} for name in "abcdef"}, "required": [*"abcdef"]}
    flat = {"temperature": 2.0, "max_tokens": 200, **form(schema)}
    for fields, lines in (({}, False), ({"guided_whitespace_pattern": r"\n? *"}, True)):
        texts = [text(server.chat("hello", seed=seed, **flat, **fields)) for seed in range(4)]
        assert any("\n" in one for one in texts) == lines
        assert all(json.loads(one) == dict.fromkeys("abcdef", 1) for one in texts)
    pattern = {"structured_outputs": {"json": schema, "whitespace_pattern": " ?"}}
    assert "\n" not in text(server.chat("hello", temperature=2.0, max_tokens=200, **pattern))
    for blanks in ("", r"\t+"):
        other = server.chat("hello", max_tokens=200, guided_whitespace_pattern=blanks, **form(schema))
        assert other.headers["x-ignored-fields"] == "guided_whitespace_pattern"
    for blanks in ("(", "a{99999999999}", "(" * 3000 + ")" * 3000):
        refused = server.chat("hello", guided_whitespace_pattern=blanks, **form(schema))
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "guided_whitespace_pattern"
    pattern["structured_outputs"]["whitespace_pattern"] = "("
    refused = server.chat("hello", **pattern)
    assert refused.json()["error"]["param"] == "structured_outputs.whitespace_pattern"


# Python's own engine takes longer than the universe is old for each of these.
def test_expressions_that_backtrack_without_end(server: Running) -> None:
    schema = {"properties": {"a" * 40 + "!": {"const": 1}}, "patternProperties": {"^(a|a)*$": {"const": 2}}}
    blanks = "(" * 20 + r"\s*" + ")*" * 20 + "x"
    body = server.chat("hello", max_tokens=60, guided_whitespace_pattern=blanks, **form(schema))
    assert body.status_code == 200, body.text


def test_choices_and_expressions(server: Running) -> None:
    assert text(server.chat("hello", guided_choice=["yes", "no"])) in ("yes", "no")
    assert re.fullmatch(r"[a-c]{3}-\d\d", text(server.chat("hello", guided_regex=r"[a-c]{3}-\d\d")))
    body = {"model": "nano", "prompt": "hello", "guided_choice": ["left", "right"]}
    assert server.client.post("/v1/completions", json=body).json()["choices"][0]["text"] in ("left", "right")


def test_thoughts_come_first_and_end_in_time(server: Running) -> None:
    fields = {"guided_choice": ["yes", "no"], "reasoning_effort": "high", "thinking_token_budget": 7, "max_tokens": 60}
    body = server.chat("hello", temperature=1.5, seed=3, **fields).json()
    message = body["choices"][0]["message"]
    assert message["content"] in ("yes", "no")
    assert 0 < body["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 8


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "sort"}}])
@pytest.mark.parametrize("stream", [True, False])
def test_a_function_must_be_called(server: Running, choice: Any, stream: bool) -> None:
    fields = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 200}
    response = server.chat("Count!", temperature=1.0, seed=2, stream=stream, **fields)
    if stream:
        chunks = events(response)[:-1]
        calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
        name = calls[0]["function"]["name"]
        arguments = "".join(call["function"]["arguments"] for call in calls)
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    else:
        found = response.json()["choices"][0]
        name, arguments = (found["message"]["tool_calls"][0]["function"][key] for key in ("name", "arguments"))
        assert found["finish_reason"] == "tool_calls"
    assert name in (("count", "sort") if choice == "required" else ("sort",))
    found = json.loads(arguments)
    assert found["many"] in (1, 2, 3)
    assert found["kind"] in ("a", "b")


def test_other_interfaces(server: Running) -> None:
    post = server.client.post
    body = {"model": "nano", "messages": [{"role": "user", "content": "x"}], "stream": False, "format": SCHEMA}
    said = post("/api/chat", json=body).json()["message"]["content"]
    assert set(json.loads(said)) == {"name", "legs"}
    form = {"format": {"type": "json_schema", "name": "animal", "schema": SCHEMA}}
    answer = post("/v1/responses", json={"model": "nano", "input": "x", "text": form}).json()
    assert set(json.loads(answer["output"][0]["content"][0]["text"])) == {"name", "legs"}
    tool = {"name": "count", "input_schema": TOOLS[0]["function"]["parameters"]}
    asked = {"model": "nano", "max_tokens": 200, "messages": body["messages"], "tools": [tool]}
    answer = post("/v1/messages", json={**asked, "tool_choice": {"type": "any"}}).json()
    assert answer["stop_reason"] == "tool_use"
    assert answer["content"][-1]["input"]["many"] in (1, 2, 3)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"guided_regex": "("}, "regex"),
        ({"guided_json": {"type": "wrong"}}, "guided_json: json schema: "),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "tool_choice.tools: a list"),
        ({"guided_choice": []}, "choice"),
        (
            {"guided_json": {"properties": {"k": {"$ref": "#/$defs/E"}}, "$defs": {"E": {"$ref": "#/$defs/E"}}}},
            "itself",
        ),
        ({"guided_json": {"properties": {"k": {"$ref": "#"}}, "required": ["k"]}}, "nothing satisfies it"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "only one form"),
        ({"guided_grammar": "start: x"}, "not supported"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "no function"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "two functions"),
    ],
)
def test_forms_that_cannot_hold_are_refused(server: Running, fields: dict[str, Any], says: str) -> None:
    response = server.chat("hello", **fields)
    assert response.status_code == 400, response.text
    assert says in response.json()["error"]["message"]
