"""/v1/responses as agents use it: other kinds of tools, history, counts, log-probabilities, places in errors."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from server.kit import EXAMPLES, Running, Script, events, picture, running

SHELL = {
    "type": "function",
    "name": "shell",
    "description": "Runs a command.",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"command": {"type": "array", "items": {"type": "string"}, "maxItems": 2}},
        "required": ["command"],
    },
}
READ = {"type": "function", "name": "read", "parameters": {"type": "object", "properties": {}}}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}


def ask(server: Running, **fields: Any) -> Any:
    return server.client.post("/v1/responses", json={"input": "hello", "max_output_tokens": 200, **fields})


def good(response: Any) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def test_an_agents_turn(server: Running) -> None:
    text = {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "read only"}]}
    history = [
        text,
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}],
         "encrypted_content": None},
        {"type": "function_call", "name": "shell", "arguments": '{"command":["ls"]}', "call_id": "c1"},
        {"type": "function_call_output", "call_id": "c1", "output": [
            {"type": "input_text", "text": "a.txt"}, {"type": "input_image", "image_url": picture()}]},
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    ]  # fmt: skip
    tools = [
        SHELL,
        {"type": "web_search", "external_web_access": False},
        {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: A"}},
        {"type": "namespace", "name": "mcp", "tools": []},
    ]
    fields = {
        "instructions": "You help.", "tools": tools, "tool_choice": "auto", "parallel_tool_calls": False,
        "reasoning": {"effort": "none", "summary": "auto"}, "store": False, "background": False,
        "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k", "text": {"verbosity": "low"},
        "service_tier": "auto", "truncation": "auto", "max_tool_calls": 5, "client_metadata": {"x": "y"},
        "seed": 1, "top_k": 5, "ignore_eos": False, "metadata": {"who": "me"},
    }  # fmt: skip
    response = ask(server, **fields, input=history)
    body = good(response)
    assert sorted(response.headers["x-ignored-fields"].split(", ")) == [
        "client_metadata", "include[0]", "input[7]", "max_tool_calls", "prompt_cache_key", "reasoning.summary",
        "text.verbosity", "tools[1]", "tools[2]", "tools[3]", "truncation",
    ]  # fmt: skip
    assert [tool["name"] for tool in body["tools"]] == ["shell"]
    assert body["metadata"] == {"who": "me"}
    assert body["usage"]["input_tokens_details"]["cache_write_tokens"] == 0
    counted = good(server.client.post("/v1/responses/input_tokens", json={**fields, "input": history}))
    assert counted == {"object": "response.input_tokens", "input_tokens": body["usage"]["input_tokens"]}


def test_log_probabilities_are_those_of_the_text(server: Running) -> None:
    include = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = good(ask(server, **include))
    part = whole["output"][0]["content"][0]
    assert b"".join(bytes(token["bytes"]) for token in part["logprobs"]).decode() == part["text"]
    assert all(len(token["top_logprobs"]) == 2 for token in part["logprobs"])
    found = events(ask(server, **include, stream=True))
    deltas = [event for event in found if event["type"] == "response.output_text.delta"]
    assert [token for event in deltas for token in event["logprobs"]] == part["logprobs"]
    done = next(event for event in found if event["type"] == "response.output_text.done")
    assert done["logprobs"] == part["logprobs"]
    assert found[-1]["response"]["output"][0]["content"] == [part]
    assert good(ask(server))["output"][0]["content"][0]["logprobs"] == []


@pytest.mark.parametrize("form", [{"tool_choice": "required"}, {"tool_choice": {"type": "function", "name": "shell"}}])
def test_a_call_wins_over_a_form(server: Running, form: dict[str, Any]) -> None:
    text = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    response = ask(server, tools=[SHELL], text=text, **form)
    assert [item["type"] for item in good(response)["output"]] == ["function_call"]
    assert response.headers["x-ignored-fields"] == "text.format"
    assert json.loads(good(ask(server, text=text))["output"][0]["content"][0]["text"])["a"] in (1, 2)


def test_a_call_wins_over_a_form_in_chat(server: Running) -> None:
    tool = {"type": "function", "function": {key: value for key, value in SHELL.items() if key != "type"}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    response = server.chat("hello", tools=[tool], tool_choice="required", response_format=form, max_tokens=200)
    assert response.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "shell"
    assert response.headers["x-ignored-fields"] == "response_format"
    response = server.chat("hello", tools=[tool], tool_choice="required", guided_json=SCHEMA, max_tokens=200)
    assert response.headers["x-ignored-fields"] == "guided_json"


def test_many_tools_take_little_time(server: Running) -> None:
    names = [f"f{number}" for number in range(3000)]
    tools = [{"type": "function", "name": name} for name in names]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [*tools, {"type": "function", "name": "other"}]}
    began = time.monotonic()
    refused = ask(server, tools=tools, tool_choice=choice)
    assert "no function 'other'" in refused.json()["error"]["message"]
    assert time.monotonic() - began < 5


def test_reasoning_alone_comes_with_an_empty_text() -> None:
    with running(prepare=Script(["Only thoughts"]).install) as server:
        fields = {"reasoning": {"effort": "high"}}
        whole = good(ask(server, **fields))["output"]
        streamed = events(ask(server, **fields, stream=True))[-1]["response"]["output"]
    assert [item["type"] for item in whole] == ["reasoning", "message"]
    assert [item["type"] for item in streamed] == ["reasoning", "message"]
    assert [item["content"] for item in streamed] == [item["content"] for item in whole]


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools(server: Running, mode: str) -> None:
    choice = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "shell"}]}
    body = good(ask(server, tools=[READ, SHELL], tool_choice=choice))
    assert body["tool_choice"] == choice
    only = good(ask(server, tools=[SHELL], tool_choice=mode))
    assert body["usage"]["input_tokens"] == only["usage"]["input_tokens"]
    named = {"mode": mode, "tools": [{"type": "function", "function": {"name": "shell"}}]}
    tools = [{"type": "function", "function": {"name": tool["name"]}} for tool in (READ, SHELL)]
    fields = {"tools": tools, "tool_choice": {"type": "allowed_tools", "allowed_tools": named}, "max_tokens": 200}
    message = server.chat("hello", **fields).json()["choices"][0]["message"]
    if mode == "required":
        assert [item["name"] for item in body["output"]] == ["shell"]
        assert [call["function"]["name"] for call in message["tool_calls"]] == ["shell"]
    choice["tools"] = [{"type": "function", "name": "other"}]
    refused = ask(server, tools=[READ], tool_choice=choice)
    assert "no function 'other'" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("item", "param", "says"),
    [
        ({"role": "king", "content": "x"}, "input[1]", "role='king'"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "data:,x"}]}, "input[1].content[0]", ""),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "http://127.0.0.1/"}]},
         "input[1].content[0]", ""),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[1].content[0]", "'text'"),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}, "input[1].content[0]", "input_file"),
        ({"role": "user", "content": ["x"]}, "input[1].content[0]", "object"),
        ({"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "!"}]},
         "input[1].output[0]", "base64"),
        ({"type": "function_call", "name": None, "arguments": "{}"}, "input[1]", "name"),
        ({"type": "item_reference", "id": "msg_1"}, "input[1]", "nothing is stored"),
        ({"type": "never", "id": "msg_1"}, "input[1]", "'never'"),
        ({"type": "reasoning", "summary": 3}, "input[1]", "lists of parts"),
        ({"type": "reasoning", "summary": [{"text": None}]}, "input[1]", "parts with a text"),
        ({"role": "assistant", "content": [{"type": "output_text", "text": None}]}, "input[1].content[0]", "a text"),
        ({"role": "assistant", "content": [{"type": "input_image", "image_url": "data:,x"}]}, "input[1].content[0]",
         "images in a user message"),
        ({"role": "assistant", "content": 5}, "input[1].content", "not int"),
        ({"type": "function_call_output", "call_id": "c", "output": {"a": 1}}, "input[1].output", "a string"),
        ({"role": "user", "content": [{}]}, "input[1].content[0]", "type 'None'"),
    ],
)  # fmt: skip
def test_errors_name_the_item(server: Running, item: dict[str, Any], param: str, says: str) -> None:
    response = ask(server, instructions="Be brief.", input=[{"role": "user", "content": "hello"}, item])
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"].startswith(param)
    assert error["message"].startswith(param)
    assert says in error["message"]


@pytest.mark.parametrize(("data", "says"), [(b"[]", "not a list"), (b"", "a JSON object"), (b"3", "not a number"),
                                            (b'"x"', "not a string"), (b"{", "not valid JSON")])  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"])
def test_bodies_that_are_no_object(server: Running, path: str, data: bytes, says: str) -> None:
    response = server.client.post(path, content=data)
    assert response.status_code == 400
    error = response.json()["error"]
    assert says in (error if isinstance(error, str) else error["message"])


def test_lists_of_files_have_pages(server: Running) -> None:
    content = (EXAMPLES / "dog.png").read_bytes()
    upload = server.client.post
    ids = [
        upload("/v1/files", files={"file": ("a.png", content)}, data={"purpose": purpose}).json()["id"]
        for purpose in ("vision", "user_data", "vision")
    ]

    def listed(**query: Any) -> Any:
        return server.client.get("/v1/files", params=query).json()

    found = listed()
    assert [file["id"] for file in found["data"]] == ids[::-1]
    assert (found["first_id"], found["last_id"], found["has_more"]) == (ids[2], ids[0], False)
    first = listed(limit=2, order="asc")
    assert ([file["id"] for file in first["data"]], first["has_more"]) == (ids[:2], True)
    rest = listed(limit=2, order="asc", after=first["last_id"])
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (ids[2:], False)
    assert [file["id"] for file in listed(purpose="user_data")["data"]] == ids[1:2]
    empty = listed(purpose="none")
    assert (empty["data"], empty["first_id"], empty["last_id"]) == ([], None, None)
    assert server.client.get("/v1/files", params={"after": "file-x"}).status_code == 404
    for number in ids:
        server.client.delete(f"/v1/files/{number}")


def test_models_with_a_slash_at_the_end(server: Running) -> None:
    assert server.client.get("/v1/models/").json() == server.client.get("/v1/models").json()
    assert "use nano" in server.client.get("/v1/models/x").json()["error"]["message"]
    assert server.client.get("/v1/models/nano:latest").json()["id"] == "nano:latest"


def test_fields_that_sdks_read(server: Running) -> None:
    body = server.chat("hello", logprobs=True, top_logprobs=0).json()
    message, logprobs = (body["choices"][0][key] for key in ("message", "logprobs"))
    assert message["refusal"] is None
    assert logprobs["refusal"] is None
    assert {len(token["top_logprobs"]) for token in logprobs["content"]} == {0}
    assert body["system_fingerprint"].startswith("fp_")
    chunks = events(server.chat("hello", stream=True))[:-1]
    assert {chunk["system_fingerprint"] for chunk in chunks} == {body["system_fingerprint"]}
    plain = {"prompt": "hello", "max_tokens": 3, "logprobs": 0}
    found = server.client.post("/v1/completions", json=plain).json()["choices"][0]["logprobs"]
    pairs = zip(found["tokens"], found["token_logprobs"], strict=True)
    assert found["top_logprobs"] == [{token: value} for token, value in pairs]
