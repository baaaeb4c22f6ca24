"""Bodies of /v1/responses as clients send them."""

from __future__ import annotations

from typing import Any

from server.bodies.parts import ARGUMENTS_TEXT, DRAFT, ID, SCHEMA, URI, Sent, flat

PICTURE = [
    {"type": "input_text", "text": "What is this?"},
    {"type": "input_image", "image_url": URI, "detail": "auto"},
]
CALLED = {"type": "function_call", "call_id": ID, "name": "weather", "arguments": ARGUMENTS_TEXT}
RESULT = {"type": "function_call_output", "call_id": ID, "output": "rain"}
ENCRYPTED = ["reasoning.encrypted_content"]


def sent(client: str, about: str, given: Any, answer_schema: dict[str, Any] | None = None, /, **fields: Any) -> Sent:
    """A conversation; answer_schema: the schema that its answer must match."""
    return Sent(client, about, "/v1/responses", {"model": "nano", "input": given, **fields}, {}, answer_schema)


def form(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The text setting for a schema."""
    return {"format": {"type": "json_schema", "name": "place", "strict": True, "schema": schema, **more}}


def codex_message(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    """A message with an id, which Codex gives to all of them."""
    return {"type": "message", "id": f"msg_{role}", "role": role, "content": list(parts)}


def text(said: str) -> dict[str, Any]:
    """A part with text."""
    return {"type": "input_text", "text": said}


CODEX: dict[str, Any] = {
    "stream": True,
    "tools": [
        flat("exec_command", strict=False),
        flat("view_image", strict=False),
        {
            "type": "namespace",
            "name": "helpers",
            "description": "More functions.",
            "tools": [flat("ask", strict=False)],
        },
        {"type": "web_search", "external_web_access": True},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ENCRYPTED,
    "prompt_cache_key": "01a22b71",
    "client_metadata": {"session_id": "01a22b71", "turn_id": "01a22b72"},
}
CODEX_TASK = [
    codex_message("developer", text("Be brief.")),
    codex_message("developer", text("You may do all."), text("Here is more.")),
    codex_message("user", text("A folder.")),
]
CODEX_CALL = {**CALLED, "id": "fc_1", "status": "completed", "name": "exec_command"}

RESPONSES = [
    sent(
        "codex 0.171.0",
        "picture",
        [*CODEX_TASK, codex_message("user", text("<image>"), {**PICTURE[1], "detail": "high"}, text("</image>"))],
        **CODEX,
    ),
    sent(
        "codex 0.171.0",
        "result of a function",
        [*CODEX_TASK, codex_message("user", text("hello")), CODEX_CALL, {**RESULT, "id": "fco_1"}],
        **CODEX,
    ),
    sent(
        "codex 0.171.0",
        "a picture as the result of a function",
        [
            *CODEX_TASK,
            codex_message("user", text("Look.")),
            {**CODEX_CALL, "name": "view_image"},
            {**RESULT, "id": "fco_1", "output": [{**PICTURE[1], "detail": "high"}]},
        ],
        **CODEX,
    ),
    sent(
        "codex 0.171.0",
        "schema",
        [*CODEX_TASK, codex_message("user", text("Paris"))],
        SCHEMA,
        **{**CODEX, "tools": []},
        text=form(SCHEMA, name="codex_output_schema"),
    ),
    sent(
        "codex 0.171.0",
        "settings for effort and length",
        [codex_message("user", text("hello"))],
        **{**CODEX, "tools": [], "reasoning": {"effort": "low", "summary": "detailed"}},
        text={"verbosity": "low"},
        service_tier="auto",
    ),
    sent(
        "pi 0.73.1",
        "thinking and the result of a function",
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": PICTURE},
            {
                "id": "rs_1",
                "type": "reasoning",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "I look."}],
                "status": "completed",
            },
            {**CALLED, "id": "fc_1"},
            RESULT,
        ],
        stream=True,
        prompt_cache_key="01a22b71",
        store=False,
        max_output_tokens=300,
        tools=[flat(strict=False)],
        reasoning={"effort": "low", "summary": "auto"},
        include=ENCRYPTED,
    ),
    sent(
        "openai 3.57.0",
        "parse",
        "Paris",
        SCHEMA,
        max_output_tokens=200,
        text=form(SCHEMA),
    ),
    sent(
        "openai 3.57.0",
        "an answer goes back as it is",
        [
            {"role": "user", "content": "Weather?"},
            {
                "id": "rs_1",
                "summary": [],
                "type": "reasoning",
                "content": [{"text": "I look.", "type": "reasoning_text"}],
                "encrypted_content": None,
                "status": "completed",
            },
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "phase": None,
                "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}],
            },
            {**CALLED, "id": "fc_1", "status": "completed"},
            RESULT,
        ],
        tools=[flat(strict=False)],
    ),
    sent(
        "openai 3.57.0",
        "all fields that change no answer",
        "hello",
        background=False,
        include=["message.output_text.logprobs"],
        metadata={"a": "b"},
        prompt_cache_key="k",
        prompt_cache_retention="in_memory",
        safety_identifier="s",
        service_tier="auto",
        store=True,
        stream=True,
        stream_options={"include_obfuscation": False},
        text={"format": {"type": "text"}, "verbosity": "medium"},
        truncation="auto",
        top_logprobs=0,
        user="u",
        max_tool_calls=4,
        previous_response_id=None,
        conversation=None,
    ),
    sent(
        "openai 7.59.0 (npm)",
        "parse",
        "Paris",
        SCHEMA,
        text=form(DRAFT),
    ),
    sent(
        "ai 6.0.325",
        "result of a function",
        [{"role": "user", "content": [text("Weather?")]}, CALLED, RESULT],
        max_output_tokens=300,
        tools=[flat(parameters=DRAFT)],
        tool_choice="auto",
    ),
    sent(
        "ai 6.0.325",
        "thinking",
        [{"role": "user", "content": [text("hello")]}],
        store=False,
        include=ENCRYPTED,
        reasoning={"effort": "low", "summary": "auto"},
    ),
    sent(
        "langchain-openai 1.7.4",
        "picture",
        [
            {"content": "Be brief.", "role": "system", "type": "message"},
            {"content": [PICTURE[0], {"type": "input_image", "image_url": URI}], "role": "user", "type": "message"},
        ],
        max_output_tokens=300,
        stream=False,
    ),
    sent(
        "langchain-openai 1.7.4",
        "function_calling",
        [{"content": "Paris", "role": "user", "type": "message"}],
        max_output_tokens=300,
        parallel_tool_calls=False,
        stream=False,
        tool_choice={"type": "function", "name": "weather"},
        tools=[flat()],
    ),
    sent(
        "openai-agents 0.24.0",
        "result of a function",
        [{"content": "Weather?", "role": "user"}, {**CALLED, "id": "fc_1", "status": "completed"}, RESULT],
        include=[],
        instructions="Be brief.",
        stream=True,
        tools=[flat(strict=True)],
    ),
    sent(
        "pydantic-ai 2.68.0",
        "a function must be called",
        [{"role": "user", "content": "Paris"}],
        max_output_tokens=300,
        stream=False,
        tool_choice="required",
        tools=[flat(strict=True)],
    ),
    sent(
        "llm-comply 0.5.0",
        "phases of answers",
        [
            {"type": "message", "role": "assistant", "phase": "commentary", "content": "I look."},
            {"type": "message", "role": "assistant", "phase": "final_answer", "content": "Four."},
            {"type": "message", "role": "user", "content": "Again."},
        ],
    ),
]
