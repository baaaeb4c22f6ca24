"""Anthropic's interface: requests as clients write them, with every field that its package publishes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from server.kit import EXAMPLES, Running, Script, running

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "description": "The weather of a place.", "input_schema": SCHEMA}
CACHED = {"type": "ephemeral", "ttl": "5m"}
APPLE = base64.b64encode((EXAMPLES / "apple.png").read_bytes()).decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": APPLE}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}


@pytest.fixture(scope="module")
def scripted() -> Iterator[Running]:
    """A server that says "Fine." to everything, so that prompts can be looked at."""
    script = Script(["Fine."])
    with running(prepare=script.install) as found:
        yield found


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def post(server: Running, content: Any = "hello", path: str = "/v1/messages", **fields: Any) -> httpx.Response:
    """POST one user message; `messages` instead of it."""
    body = {"model": "nano", "max_tokens": 20, "messages": [{"role": "user", "content": content}], **fields}
    return server.client.post(path, json=body, headers={"anthropic-version": "2023-06-01"})


def prompt(server: Running, *args: Any, **fields: Any) -> tuple[str, str]:
    """The text of the prompt that a request becomes, and its ignored fields."""
    response = post(server, *args, **fields)
    assert response.status_code == 200, response.text
    requests = server.context.driver.requests  # type: ignore[attr-defined]
    return requests[-1].prompt.text, response.headers.get("x-ignored-fields", "")


def refused(server: Running, *args: Any, **fields: Any) -> str:
    """The message of a request that is refused, in Anthropic's form."""
    response = post(server, *args, **fields)
    assert response.status_code == 400, response.text
    body = response.json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert body["request_id"] == response.headers["request-id"]
    message: str = body["error"]["message"]
    return message


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"cache_control": CACHED}, "cache_control"),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}, "context_management"),
        ({"context_management": {"edits": []}, "service_tier": "auto", "speed": "standard", "mcp_servers": []}, ""),
        ({"service_tier": "priority", "speed": "fast", "inference_geo": "eu"}, "service_tier, speed, inference_geo"),
        ({"container": None, "inference_geo": None, "output_config": None, "thinking": None, "system": None}, ""),
        ({"thread": {"type": "create"}}, "thread"),
        ({"diagnostics": {"previous_message_id": None}}, "diagnostics"),
        ({"fallbacks": [{"model": "other"}], "fallback_credit_token": "x"}, "fallbacks, fallback_credit_token"),
        ({"billing_policy": {"type": "billing_policy"}, "user_profile_id": "u"}, "billing_policy, user_profile_id"),
        ({"betas": ["x"], "anthropic_version": "bedrock-2023-05-31"}, "betas, anthropic_version"),
        ({"metadata": {"user_id": '{"device_id":"x"}', "trace": 1}}, "metadata.trace"),
        ({"output_config": {"effort": "high", "task_budget": {"type": "tokens", "total": 9}}},
         "output_config.effort, output_config.task_budget"),
        ({"thinking": {"type": "adaptive", "display": "summarized", "block_binding": {}}}, "thinking.block_binding"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "temperature": 0, "top_k": 0, "top_p": 1}, ""),
        ({"stop_sequences": [], "stream": False, "tools": [], "tool_choice": {"type": "auto"}}, ""),
        ({"stop_sequences": ["\n\nHuman:", "\n"]}, ""),
        ({"system": [text("Be brief.", cache_control=CACHED, citations=None)]}, "system[0].cache_control"),
        ({"messages": [{"role": "user", "content": "hello", "id": "m"}]}, "messages[0].id"),
    ],
)  # fmt: skip
def test_fields_that_change_no_answer_are_accepted(scripted: Running, fields: dict[str, Any], ignored: str) -> None:
    for path in ("/v1/messages?beta=true", "/v1/messages/count_tokens?beta=true"):
        response = post(scripted, path=path, **fields)
        assert response.status_code == 200, response.text
        names = response.headers.get("x-ignored-fields", "").split(", ")
        if "count" not in path:
            assert names == ignored.split(", ")
        else:
            assert set(names) >= {name for name in ignored.split(", ") if name and "metadata" not in name}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mcp_servers": [{"type": "url", "name": "x", "url": "https://example.com"}]}, "mcp_servers: this field"),
        ({"container": "c_1"}, "container: this field"),
        ({"thread": {"type": "continue", "previous_message_id": "m"}}, "thread: nothing is stored"),
        ({"compaction": {"type": "summarize"}}, "compaction: this field"),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"max_tokens": None}, "max_tokens: "),
        ({"stop_sequences": ["a", ""]}, r"stop_sequences[1]: "),
        ({"stop_sequences": "a"}, "stop_sequences: "),
        ({"thinking": {"type": "enabled", "display": "updates"}}, "thinking.display: "),
        ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type: "),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema: this field is required"),
        ({"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
          "output_format": {"type": "json_schema", "schema": {}}}, "output_config.format and output_format differ"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.type='any' needs tools"),
        ({"tool_choice": {"type": "tool"}, "tools": [TOOL]}, "tool_choice.name: this field is required"),
        ({"tool_choice": {"type": "tool", "name": "x"}, "tools": [TOOL]}, "tool_choice: there is no function 'x'"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}], "tool_choice": {"type": "any"}}, "tool_choice.type"),
        ({"tools": [TOOL, {"type": "function", "function": TOOL}]}, "tools[1].name: this field is required"),
        ({"tools": [TOOL, {**TOOL, "name": "a b"}]}, "tools[1].name: "),
        ({"tools": [TOOL, {**TOOL, "name": "x" * 129}]}, "tools[1].name: "),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema: this field is required"),
        ({"system": [text("x"), {"type": "image"}]}, "system[1]: only text"),
        ({"system": [text("x"), {"type": "text"}]}, "system[1].text must be a string"),
        ({"messages": [{"role": "system", "content": "x", "clear_at": "next_user_message"},
                       {"role": "user", "content": "x"}]}, "messages[0].clear_at: this field"),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role: "),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content: "),
    ],
)  # fmt: skip
def test_fields_that_would_change_the_answer_are_refused_by_name(
    scripted: Running, fields: dict[str, Any], says: str
) -> None:
    assert refused(scripted, **fields).startswith(says)


def test_strict_servers_refuse_what_others_ignore() -> None:
    with running(prepare=Script(["Fine."]).install, strict=True) as server:
        assert refused(server, [text("x", cache_control=CACHED)]).startswith("messages[0].content[0].cache_control: ")
        assert refused(server, tools=[{"type": "bash_20250124", "name": "bash"}]).startswith("tools[0]: ")


def test_tools_of_every_kind(scripted: Running) -> None:
    own: list[dict[str, Any]] = [
        {**TOOL, "type": "custom", "cache_control": CACHED, "eager_input_streaming": True, "defer_loading": True},
        {**TOOL, "name": "x" * 128, "input_examples": [{"city": "Rome"}], "allowed_callers": ["direct"]},
        {"name": "a-b_C9", "input_schema": {"type": "object"}, "strict": True, "allowed_callers": ["code_execution"]},
    ]
    other: list[dict[str, Any]] = [
        {"type": kind, "name": "x", "max_uses": 5, "cache_control": CACHED}
        for kind in ("web_search_20250305", "bash_20250124", "text_editor_20250728", "computer_20250124",
                     "memory_20250818", "code_execution_20250825", "web_fetch_20250910", "tool_search_tool_bm25")
    ]  # fmt: skip
    other.append({"type": "mcp_toolset", "mcp_server_name": "x"})
    shown, ignored = prompt(scripted, tools=[other[0], *own, *other[1:]])
    assert ignored.split(", ") == [
        "tools[0]", "tools[1].cache_control", "tools[1].defer_loading", "tools[3].allowed_callers",
        *(f"tools[{index}]" for index in range(4, 12)),
    ]  # fmt: skip
    assert shown.count('{"type": "function"') == 3
    assert '"examples": [{"city": "Rome"}]' in shown
    assert "web_search" not in shown
    assert "<tools>" not in prompt(scripted, tools=[TOOL], tool_choice={"type": "none"})[0]
    assert prompt(scripted, tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True})[1] == ""


def test_forced_tools_and_formats_are_really_done(server: Running) -> None:
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}):
        schema = {"format": {"type": "json_schema", "schema": SCHEMA}}
        answer = post(server, tools=[TOOL], tool_choice=choice, max_tokens=200, output_config=schema)
        assert answer.json()["content"][-1]["type"] == "tool_use"
        assert list(answer.json()["content"][-1]["input"]) == ["city"]
        assert answer.headers["x-ignored-fields"] == "output_config.format"
    seven = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
    form = {"type": "json_schema", "schema": seven}
    for fields in ({"output_config": {"format": form}}, {"output_format": form}):
        for thinking in ({"type": "disabled"}, {"type": "enabled", "budget_tokens": 4}):
            answer = post(server, max_tokens=200, thinking=thinking, **fields)
            assert json.loads(answer.json()["content"][-1]["text"]) == {"n": 7}


def test_history_as_clients_send_it_back(scripted: Running) -> None:
    history = [
        {"role": "user", "content": [text("Weather?", cache_control=CACHED)]},
        {
            "role": "assistant",
            "content": [
                {"type": "redacted_thinking", "data": "xyz"},
                {"type": "thinking", "thinking": "I look it up.", "signature": "abc"},
                {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}},
                {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
                {"type": "mcp_tool_use", "id": "m1", "name": "x", "server_name": "y", "input": {}},
                {"type": "mcp_tool_result", "tool_use_id": "m1", "content": []},
                text("One moment.", citations=[{"type": "char_location"}]),
                {**USE, "caller": {"type": "direct"}, "cache_control": CACHED, "toolset_name": None},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True, "cache_control": CACHED,
                 "content": [text("no network"), IMAGE, {"type": "tool_reference", "tool_name": "weather"}]},
                {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": True},
                {"type": "tool_result", "tool_use_id": "toolu_3", "content": "rain"},
                text("And now?"),
            ],
        },
    ]  # fmt: skip
    shown, ignored = prompt(scripted, messages=history, tools=[TOOL])
    assert "One moment.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nParis\n" in shown
    results = shown.split("</tool_call>")[-1]
    assert "<tool_response>\nno network\n" in results
    assert "\nweather\n</tool_response>\n<tool_response>\nerror\n</tool_response>" in results
    assert "<tool_response>\nrain\n</tool_response><|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>" in results
    assert ignored.split(", ") == [
        "messages[0].content[0].cache_control",
        *(f"messages[1].content[{index}]" for index in (0, 2, 3, 4, 5)),
        "messages[1].content[6].citations", "messages[1].content[7].cache_control",
        "messages[2].content[0].is_error", "messages[2].content[0].cache_control", "messages[2].content[1].is_error",
    ]  # fmt: skip


def test_documents_and_search_results_are_text(scripted: Running) -> None:
    cited = {"citations": {"enabled": False}}
    plain = {"type": "text", "media_type": "text/plain", "data": "Grass is green."}
    parts = {"type": "content", "content": [text("Page one."), IMAGE, text("Page two.")]}
    found = {"type": "search_result", "source": "https://x", "title": "Sky", "content": [text("It is blue.")], **cited}
    content = [
        {"type": "document", "source": plain, "title": "Grass", "context": "A note.", **cited},
        {"type": "document", "source": parts},
        {"type": "document", "source": {"type": "content", "content": "Short."}, "citations": {"enabled": True}},
        found,
        {"type": "compaction", "content": "Earlier we met."},
    ]
    shown, ignored = prompt(scripted, content)
    assert "user\nGrass\nA note.\nGrass is green.\nPage one.\n" in shown
    assert "\nPage two.\nShort.\nSky\nhttps://x\nIt is blue.\nEarlier we met.<|im_end|>" in shown
    assert ignored == "messages[0].content[2].citations"
    result = {"type": "tool_result", "tool_use_id": "x", "content": [found]}
    history = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [USE]},
        {"role": "user", "content": [result]},
    ]
    assert "<tool_response>\nSky\nhttps://x\nIt is blue.\n</tool_response>" in prompt(scripted, messages=history)[0]


def test_beginnings_of_answers_and_empty_content(scripted: Running) -> None:
    user = {"role": "user", "content": "hello"}
    for content in ("Well,", [text("Well,", cache_control=CACHED)]):
        assert prompt(scripted, messages=[user, {"role": "assistant", "content": content}])[0].endswith("Well,")
    alone = prompt(scripted, messages=[user])[0]
    for empty in ("", [], [text("")], [{"type": "redacted_thinking", "data": "x"}]):
        assert prompt(scripted, messages=[user, {"role": "assistant", "content": empty}])[0] == alone
    for nothing in ("", []):
        assert "user\n<|im_end|>" in prompt(scripted, nothing)[0]
    says = refused(scripted, messages=[user, {"role": "assistant", "content": [USE]}])
    assert says.startswith("messages[1]: the last message calls a tool")
    assert refused(scripted, messages=[{"role": "assistant", "content": []}]).startswith("messages is empty")


def test_system_texts(scripted: Running) -> None:
    user = {"role": "user", "content": "hello"}
    for system in ("One.\nTwo.", [text("One.", cache_control=CACHED), text("Two.")]):
        assert "system\nOne.\nTwo.<|im_end|>" in prompt(scripted, system=system)[0]
        assert (
            "system\nOne.\nTwo.<|im_end|>"
            in prompt(scripted, messages=[{"role": "system", "content": system}, user])[0]
        )
    later = [user, {"role": "system", "content": [text("Be kind.")]}, {"role": "assistant", "content": "Hm."}, user]
    shown = prompt(scripted, system="One.", messages=[{"role": "system", "content": "Two."}, *later])[0]
    assert "system\nOne.\n\nTwo.<|im_end|>" in shown
    assert "user\nhello\n\n<system>\nBe kind.\n</system><|im_end|>" in shown
    assert prompt(scripted, system=[])[0] == prompt(scripted, system="")[0] == prompt(scripted)[0]
    says = refused(scripted, messages=[{"role": "system", "content": [text("x"), {"type": "tool_addition"}]}, user])
    assert says.startswith("messages[0].content[1]: only text")


@pytest.mark.parametrize(
    "image",
    [
        IMAGE,
        {**IMAGE, "cache_control": CACHED, "fps": 3, "transformations": {"oversized_image": "error"}},
        {"type": "image", "source": {"type": "base64", "data": APPLE}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": APPLE, "name": "x"}},
        {"type": "image", "source": {"type": "url", "url": f"data:image/png;base64,{APPLE}"}, "max_slice_nums": 1},
    ],
)
def test_images(server: Running, image: dict[str, Any]) -> None:
    assert "pple" in post(server, [image, text("What is this?")], max_tokens=50).json()["content"][0]["text"]


def test_uploaded_images(server: Running) -> None:
    upload = {"file": ("apple.png", (EXAMPLES / "apple.png").read_bytes())}
    file_id = server.client.post("/v1/files", files=upload, data={"purpose": "vision"}).json()["id"]
    image = {"type": "image", "source": {"type": "file", "file_id": file_id}}
    assert "pple" in post(server, [image, text("What is this?")], max_tokens=50).json()["content"][0]["text"]
    document = {"type": "document", "source": {"type": "file", "file_id": file_id}}
    assert "send each page as an image block" in refused(server, [document])
    server.client.delete(f"/v1/files/{file_id}")
    assert post(server, [image]).status_code == 404


def test_errors_name_places_in_the_request(scripted: Running) -> None:
    bad = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    closed = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/x.png"}}
    deep: Any = 0
    for _ in range(150):
        deep = {"x": deep}
    start = [{"role": "user", "content": "x"}, {"role": "assistant", "content": [USE]}]

    def result(*blocks: Any) -> list[Any]:
        block = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("x"), text("y"), *blocks]}
        return [*start, {"role": "user", "content": [text("first"), block, text("x"), *blocks]}]

    other = {"type": "bash_20250124", "name": "bash"}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "x"}}
    document = {"type": "document", "title": "T", "source": {"type": "content", "content": [text("x"), bad]}}

    def answered(block: Any) -> dict[str, Any]:
        return {"messages": [start[0], {"role": "assistant", "content": [block]}]}

    later = [*start, {"role": "user", "content": [*result()[2]["content"], bad]}]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"messages": result(bad), "system": "S"}, "messages[2].content[1].content[2]: "),
        ({"messages": result(closed), "system": "S"}, "messages[2].content[1].content[2]: "),
        ({"messages": later}, "messages[2].content[3]: "),
        ({"messages": result({"type": "browser_state"})}, "messages[2].content[1].content[2]: blocks of type"),
        ({"content": [document]}, "messages[0].content[0].source.content[1]: "),
        ({"content": [pdf]}, "messages[0].content[0]: PDF files"),
        ({"content": [text("x"), {"type": "text"}]}, "messages[0].content[1].text must be a string"),
        ({"content": [{**IMAGE, "max_slice_nums": "x"}], "system": "S"}, "messages[0].content[0]"),
        ({"content": [{"type": "image"}]}, "messages[0].content[0]: an image needs a source"),
        ({"content": [{"type": "container_upload"}]}, "messages[0].content[0]: blocks of type 'container_upload'"),
        ({"tools": [other, {**TOOL, "input_schema": deep}]}, "tools[1].input_schema.x"),
        (answered({**USE, "input": deep}), "messages[1].content[0].input.x"),
        (answered({**USE, "input": "x"}), "messages[1].content[0].input must be an object"),
        (answered({"type": "text"}), "messages[1].content[0].text must be a string"),
    ]
    for fields, says in cases:
        assert refused(scripted, **fields).startswith(says)
