"""Random requests: a valid body of some route, changed in a few places."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from server.kit import image, picture

TEXT = {"type": "text", "text": "What is this?"}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a"]}
FUNCTION = {"name": "f", "description": "Does something.", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": "x"}'}}
SAMPLING = {
    "temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "seed": 3, "stop": ["x"], "presence_penalty": 0.1,
    "frequency_penalty": 0.1, "repetition_penalty": 1.1, "logit_bias": {"5": 1}, "min_tokens": 1,
}  # fmt: skip
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS, "strict": True}}
BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": picture().split(",")[1]}}
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {
        "model": "nano", "max_tokens": 4, "n": 1, "stream": False, **SAMPLING, "logprobs": True, "top_logprobs": 2,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [image(detail="low", max_slice_nums=1), TEXT]},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "hm"},
            {"role": "tool", "tool_call_id": "c1", "content": [TEXT]},
            {"role": "developer", "content": "Go on."},
            {"role": "user", "content": "And now?"},
        ],
        "tools": [TOOL, {"type": "custom", "custom": {"name": "g"}}], "tool_choice": "auto",
        "parallel_tool_calls": True, "reasoning_effort": "none", "mm_processor_kwargs": {"downsample_mode": "16x"},
        "chat_template_kwargs": {"enable_thinking": False}, "metadata": {"a": "b"}, "store": False,
    }),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 20,
                              "response_format": FORM, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 30, "tools": [TOOL],
                              "tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9,
                              "structured_outputs": {"regex": "[ab]{1,4}"}}),
    ("/v1/completions", {"model": "nano", "prompt": ["a", "b"], "max_tokens": 4, "logprobs": 1, "echo": False,
                         **SAMPLING, "stream": False, "suffix": None, "best_of": 1}),
    ("/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 4, "n": 2, "guided_choice": ["a", "bc"]}),
    ("/v1/responses", {
        "model": "nano", "instructions": "Be brief.", "max_output_tokens": 4, "temperature": 0, "stream": False,
        "input": [
            {"type": "message", "role": "user", "content": [
                {"type": "input_image", "image_url": picture(), "detail": "auto"},
                {"type": "input_text", "text": "What?"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "content": None},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": "x"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
        ],
        "tools": [{"type": "function", **FUNCTION}, {"type": "web_search"}], "tool_choice": "auto",
        "text": {"format": {"type": "text"}, "verbosity": "low"}, "reasoning": {"effort": "none", "summary": "auto"},
        "include": ["message.output_text.logprobs"], "top_logprobs": 1, "metadata": {}, "truncation": "auto",
    }),
    ("/v1/responses", {"input": "x", "max_output_tokens": 30,
                       "text": {"format": {"type": "json_schema", "name": "x", "schema": PARAMETERS}}}),
    ("/v1/messages", {
        "model": "nano", "max_tokens": 4, "stop_sequences": ["x"], "temperature": 0.5, "top_k": 5, "stream": False,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [BLOCK, TEXT]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""}, TEXT,
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": "x"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [TEXT, BLOCK], "is_error": False}, TEXT]},
        ],
        "tools": [{"name": "f", "description": "x", "input_schema": PARAMETERS}], "tool_choice": {"type": "auto"},
        "thinking": {"type": "enabled", "budget_tokens": 5}, "metadata": {"user_id": "me"},
    }),
    ("/v1/messages", {
        "max_tokens": 9, "thinking": {"type": "adaptive", "display": "omitted"}, "stream": True,
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": PARAMETERS}},
        "tools": [{"type": "bash_20250124", "name": "bash"}], "context_management": {"edits": []},
        "messages": [
            {"role": "user", "content": [
                {"type": "document", "title": "x", "source": {"type": "content", "content": [TEXT, BLOCK]}},
                {"type": "search_result", "title": "x", "source": "y", "content": [TEXT]}]},
            {"role": "system", "content": [TEXT]},
            {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, TEXT]},
        ],
    }),
    ("/v1/messages/count_tokens", {"model": "nano", "messages": [{"role": "user", "content": "x"}]}),
    ("/api/chat", {
        "model": "nano", "stream": False, "keep_alive": "5m", "think": False, "format": "",
        "options": {"num_predict": 4, "temperature": 0.5, "top_k": 5, "num_ctx": 200, "stop": ["x"], "seed": 3},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "x", "images": [picture().split(",")[1]]},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": "x"}}}]},
            {"role": "tool", "content": "1", "tool_name": "f"},
        ],
        "tools": [TOOL],
    }),
    ("/api/generate", {"model": "nano", "prompt": "x", "system": "", "images": [], "raw": False, "stream": False,
                       "format": PARAMETERS, "options": {"num_predict": 30}, "suffix": "", "template": ""}),
    ("/api/show", {"model": "nano", "verbose": False}),
    ("/tokenize", {"messages": [{"role": "user", "content": [image(), TEXT]}], "tools": [TOOL],
                   "return_token_strs": True}),
    ("/tokenize", {"prompt": "x"}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 17, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.5, 1e300, 1e-300, "", " ", "x", "auto",
    "none", "\x00", "\ud800", "\U0001f600", "<|im_end|>", "<think>", "</think>", "<tool_call>", "x" * 3000, [], {},
    [[]], [{}], [None], {"": None}, {"type": "text"}, {"type": "object"}, {"$ref": "#"}, "data:,",
    "data:image/png;base64,AAAA",
    "http://127.0.0.1/x.png", "file:///etc/passwd", "video:x", ["x"] * 40,
]  # fmt: skip
NAMES = [
    "type", "role", "content", "text", "image", "image_url", "video", "url", "name", "tools", "function", "input",
    "properties", "required", "enum", "anyOf", "$ref", "pattern", "format", "detail", "stop", "n", "stream",
    "file_id", "base64", "path", "fps", "output", "id", "", "\u00fc", "a b", "x" * 300, "__proto__", "x-guidance",
]  # fmt: skip


def request(draw: random.Random) -> tuple[str, bytes]:
    """A path and a body, which need not be valid in any way."""
    path, body = draw.choice(BODIES)
    if draw.random() < 0.1:
        path = draw.choice(BODIES)[0]
    changed: Any = {"": copy.deepcopy(body)}
    for _ in range(draw.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
        _change(changed, draw)
    text = json.dumps(changed[""], ensure_ascii=draw.random() < 0.9)
    data = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.03:
        data = data[: draw.randrange(len(data) + 1)]
    if draw.random() < 0.02:
        data = data.replace(b"0", b"1E309", 1)
    return path, data


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every container with each of its keys or indices."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        _places(value[key], found)
    return found


def _change(root: Any, draw: random.Random) -> None:
    places = _places(root, [])
    inside, key = draw.choice(places)
    match draw.randrange(8):
        case 0 | 1 | 2:
            inside[key] = copy.deepcopy(draw.choice(VALUES))
        case 3 if inside is not root:
            del inside[key]
        case 4:
            inside[key] = copy.deepcopy(draw.choice(places)[0])
        case 5 if isinstance(inside, dict) and inside is not root:
            inside[draw.choice(NAMES)] = inside.pop(key)
        case 6 if isinstance(inside[key], dict):
            inside[key][draw.choice(NAMES)] = copy.deepcopy(draw.choice(VALUES))
        case 7 if isinstance(inside, list):
            inside.extend(copy.deepcopy([inside[key]] * draw.choice((1, 1, 2, 20))))
        case _:
            inside[key] = draw.choice(([inside[key]], {draw.choice(NAMES): inside[key]}))
