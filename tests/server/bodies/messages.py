"""Bodies of /v1/messages and /v1/messages/count_tokens as clients send them."""

from __future__ import annotations

from typing import Any

from server.bodies.parts import ARGUMENTS, DATA, DRAFT, ID, SCHEMA, Sent

PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}
CACHED = {"cache_control": {"type": "ephemeral"}}
VERSION = {"anthropic-version": "2023-06-01"}
FORM = {"format": {"type": "json_schema", "schema": SCHEMA}}


def text(said: str, **more: Any) -> dict[str, Any]:
    """A block of text."""
    return {"type": "text", "text": said, **more}


def tool(name: str = "weather", schema: dict[str, Any] = SCHEMA, **more: Any) -> dict[str, Any]:
    """A function."""
    return {"name": name, "description": "The weather.", "input_schema": schema, **more}


def called(name: str = "weather", *before: dict[str, Any]) -> dict[str, Any]:
    """An answer that calls a function."""
    use = {"type": "tool_use", "id": ID, "name": name, "input": ARGUMENTS}
    return {"role": "assistant", "content": [*before, use]}


def result(content: Any = "rain", **more: Any) -> dict[str, Any]:
    """The function's result."""
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": ID, "content": content, **more}]}


def sent(
    client: str,
    about: str,
    messages: list[Any],
    answer_schema: dict[str, Any] | None = None,
    /,
    path: str = "/v1/messages",
    beta: str = "",
    **fields: Any,
) -> Sent:
    """A conversation; answer_schema: the schema that its answer must match."""
    limit = {} if path.endswith("count_tokens") else {"max_tokens": 300}
    body = {"model": "nano", **limit, "messages": messages, **fields}
    return Sent(client, about, path, body, {**VERSION, **({"anthropic-beta": beta} if beta else {})}, answer_schema)


CODE: dict[str, Any] = {
    "path": "/v1/messages?beta=true",
    "beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,effort-2025-11-24",
    "system": [text("A client."), text("Be brief.", **CACHED)],
    "tools": [tool("Bash"), tool("Read"), tool("Later", {"type": "object", "properties": {}}, defer_loading=True)],
    "metadata": {"user_id": '{"session_id":"01a22b71"}'},
    "max_tokens": 32000,
    "thinking": {"type": "adaptive", "display": "omitted"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "stream": True,
}
CODE_TASK = {"role": "user", "content": [text("A folder."), text("hello")]}
CODE_MORE = {"role": "system", "content": [text("More functions may come.", **CACHED)]}
THOUGHT = {"type": "thinking", "thinking": "I look.", "signature": ""}
PI_TOOL = tool(eager_input_streaming=True, **CACHED)
PI: dict[str, Any] = {
    "stream": True,
    "system": [text("Be brief.", **CACHED)],
    "tools": [PI_TOOL],
    "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "summarized"},
    "beta": "interleaved-thinking-2025-05-14",
}
FUNCTION = {"tools": [tool()]}

MESSAGES = [
    sent("Claude Code 2.1.332", "a system message after the task", [CODE_TASK, CODE_MORE], **CODE),
    sent(
        "Claude Code 2.1.332",
        "result of a function",
        [
            CODE_TASK,
            {"role": "system", "content": "More functions may come."},
            called("Bash", THOUGHT),
            result("hello", is_error=False, **CACHED),
        ],
        **CODE,
    ),
    sent(
        "Claude Code 2.1.332",
        "a picture as the result of a function",
        [CODE_TASK, CODE_MORE, called("Read", THOUGHT), result([PICTURE], **CACHED)],
        **CODE,
    ),
    sent("Claude Code 2.1.332", "a title", [CODE_TASK], **{**CODE, "tools": [], "thinking": {"type": "disabled"}}),
    sent(
        "pi 0.73.1",
        "picture",
        [{"role": "user", "content": [text("What is this?"), {**PICTURE, **CACHED}]}],
        **PI,
    ),
    sent(
        "pi 0.73.1",
        "result of a function",
        [
            {"role": "user", "content": "Weather?"},
            called("weather", text("I look.")),
            result("rain\n", is_error=False, **CACHED),
        ],
        **PI,
    ),
    sent(
        "anthropic 2.14.0",
        "parse",
        [{"role": "user", "content": "Paris"}],
        SCHEMA,
        output_config=FORM,
    ),
    sent(
        "anthropic 2.14.0",
        "all fields that change no answer",
        [{"role": "user", "content": [text("hello", citations=None, **CACHED)]}],
        metadata={"user_id": "u"},
        service_tier="auto",
        inference_geo=None,
        container=None,
        cache_control={"type": "ephemeral"},
        system=[text("Be brief.", citations=None)],
        stop_sequences=[],
        top_k=0,
        tool_choice={"type": "none"},
        **FUNCTION,
    ),
    sent(
        "anthropic 2.14.0",
        "an answer goes back as it is",
        [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": [
                    THOUGHT,
                    text("I look.", citations=None),
                    {**called()["content"][0], "caller": {"type": "direct"}},
                ],
            },
            result([text("rain")]),
        ],
        **FUNCTION,
    ),
    sent(
        "anthropic 2.14.0",
        "count",
        [{"role": "user", "content": "hello"}],
        path="/v1/messages/count_tokens",
        tools=[tool(**CACHED)],
        output_config={"effort": "low"},
    ),
    sent(
        "langchain-anthropic 1.7.10",
        "schema",
        [{"role": "user", "content": "Paris"}],
        SCHEMA,
        output_config=FORM,
    ),
    sent(
        "litellm 1.110.2",
        "schema by a function",
        [{"role": "user", "content": [text("Paris")]}],
        tool_choice={"name": "weather", "type": "tool"},
        tools=[tool(type="custom")],
    ),
    sent(
        "instructor 1.17.0",
        "one function",
        [{"role": "user", "content": "Paris"}],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        **FUNCTION,
    ),
    sent(
        "pydantic-ai 2.68.0",
        "any function",
        [{"role": "user", "content": [text("Paris")]}],
        max_tokens=16384,
        stream=False,
        tool_choice={"type": "any"},
        **FUNCTION,
    ),
    sent(
        "ai 6.0.325",
        "picture",
        [{"role": "user", "content": [text("What is this?"), PICTURE]}],
        system=[text("Be brief.")],
        stream=True,
    ),
    sent(
        "ai 6.0.325",
        "thinking",
        [{"role": "user", "content": [text("hello")]}],
        max_tokens=5120,
        thinking={"type": "enabled", "budget_tokens": 1024},
        tools=[tool(schema=DRAFT)],
        tool_choice={"type": "auto"},
    ),
]

# A conversation that the server would have to hold: without the earlier messages the answer is another one. The client
# reads the reason out of the error and goes on without.
THREADS = [
    sent(
        "anthropic 2.14.0",
        "tool runner",
        [{"role": "user", "content": "Weather?"}],
        beta="message-threads-2026-08-12",
        thread={"type": "create"},
        **FUNCTION,
    ),
    sent(
        "anthropic 2.14.0",
        "tool runner goes on",
        [result()],
        beta="message-threads-2026-08-12",
        thread={"type": "continue", "previous_message_id": "msg_1"},
    ),
]
