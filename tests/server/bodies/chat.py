"""Bodies of /v1/chat/completions and /v1/completions as clients send them."""

from __future__ import annotations

from typing import Any

from server.bodies.parts import DRAFT, ID, SCHEMA, URI, Sent, call, function

PICTURE = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": URI}}]
ASKED = [{"role": "user", "content": "Weather?"}]
ANSWERED = [
    *ASKED,
    {"role": "assistant", "content": None, "tool_calls": [call()]},
    {"role": "tool", "tool_call_id": ID, "content": "rain"},
]
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def schema(name: str = "place", told: dict[str, Any] = SCHEMA, **more: Any) -> dict[str, Any]:
    """A response format with a JSON schema."""
    return {"type": "json_schema", "json_schema": {"name": name, "schema": told, **more}}


def sent(
    client: str, about: str, messages: list[Any], answer_schema: dict[str, Any] | None = None, /, **fields: Any
) -> Sent:
    """A conversation; answer_schema: the schema that its answer must match."""
    return Sent(
        client, about, "/v1/chat/completions", {"model": "nano", "messages": messages, **fields}, {}, answer_schema
    )


PI = {"store": False, "max_completion_tokens": 300, "tools": [function("bash", strict=False)], **USAGE}
PI_TASK: list[Any] = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": PICTURE}]

AGENTS = [
    sent("pi 0.73.1", "picture, thinking", PI_TASK, **PI, reasoning_effort="low"),
    sent(
        "pi 0.73.1",
        "result of a function, with a picture",
        [
            *PI_TASK,
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "I look.",
                "tool_calls": [call(name="bash")],
            },
            {"role": "tool", "content": "Read a file", "tool_call_id": ID},
            {"role": "user", "content": [{"type": "text", "text": "Its picture:"}, PICTURE[1]]},
        ],
        **PI,
        reasoning_effort="medium",
    ),
    sent(
        "opencode 1.18.33",
        "title",
        [
            {"role": "system", "content": "Write a title."},
            {"role": "user", "content": "Generate a title for this conversation:\n"},
            {"role": "user", "content": [{"type": "text", "text": "A file:"}, {"type": "text", "text": '"hello"'}]},
        ],
        max_tokens=100,
        **USAGE,
    ),
    sent(
        "opencode 1.18.33",
        "result of a function, with a picture",
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Look."},
            {"role": "assistant", "content": "", "tool_calls": [call(name="read")]},
            {"role": "tool", "tool_call_id": ID, "content": "Image read successfully"},
            {"role": "user", "content": [{"type": "text", "text": "Attached:"}, PICTURE[1]]},
        ],
        max_tokens=100,
        tools=[function("read", DRAFT)],
        tool_choice="auto",
        **USAGE,
    ),
    sent(
        "continue 1.5.47",
        "result of a function",
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "", "tool_calls": [call(name="Bash")]},
            {"role": "tool", "content": "hello\n", "tool_call_id": ID},
        ],
        stream=True,
        tools=[function("Bash")],
    ),
    sent(
        "aider 0.86.2",
        "conversation",
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "Ok."},
            {"role": "user", "content": [{"type": "text", "text": "p.png"}, PICTURE[1]]},
            {"role": "assistant", "content": "Ok."},
            {"role": "user", "content": "hello"},
        ],
        stream=True,
        temperature=0,
    ),
]

LIBRARIES = [
    sent(
        "openai 3.57.0",
        "parse",
        [{"role": "user", "content": "Paris"}],
        SCHEMA,
        stream=False,
        max_completion_tokens=200,
        response_format=schema(strict=True),
    ),
    sent(
        "openai 3.57.0",
        "an answer goes back as it was parsed",
        [
            *ASKED,
            {
                "content": None,
                "refusal": None,
                "role": "assistant",
                "annotations": [],
                "audio": None,
                "function_call": None,
                "tool_calls": [{**call(), "function": {**call()["function"], "parsed_arguments": {"city": "Paris"}}}],
                "parsed": None,
            },
            {"role": "tool", "tool_call_id": ID, "content": [{"type": "text", "text": "rain"}]},
        ],
    ),
    sent(
        "openai 3.57.0",
        "all fields that change no answer",
        [{"role": "user", "content": "hello", "name": "anna"}],
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        metadata={"a": "b"},
        modalities=["text"],
        prompt_cache_key="k",
        prompt_cache_retention="in_memory",
        safety_identifier="s",
        service_tier="auto",
        store=False,
        user="u",
        verbosity="medium",
        logit_bias={},
        tools=[],
        stop=None,
    ),
    sent(
        "openai 7.59.0 (npm)",
        "parse",
        [{"role": "user", "content": "Paris"}],
        SCHEMA,
        response_format=schema(told=DRAFT, strict=True),
    ),
    sent(
        "openai 7.59.0 (npm)",
        "runTools",
        ANSWERED,
        tools=[function(parameters=DRAFT, description="", strict=True)],
        tool_choice="auto",
        stream=False,
    ),
    sent(
        "ai 6.0.325",
        "picture",
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PICTURE}],
        max_tokens=300,
        **USAGE,
    ),
    sent(
        "ai 6.0.325",
        "result of a function",
        ANSWERED,
        max_tokens=300,
        tools=[function(parameters=DRAFT)],
        tool_choice="auto",
    ),
    sent(
        "langchain-openai 1.7.4",
        "function_calling",
        [{"content": "Paris", "role": "user"}],
        max_completion_tokens=300,
        parallel_tool_calls=False,
        temperature=0.0,
        tool_choice={"type": "function", "function": {"name": "weather"}},
        tools=[function()],
        stream=False,
    ),
    sent(
        "openai-agents 0.24.0",
        "functions and schema",
        [{"content": "Be brief.", "role": "system"}, *ANSWERED],
        tools=[function(strict=True)],
    ),
    sent(
        "litellm 1.110.2",
        "result of a function",
        [
            *ASKED,
            {"role": "assistant", "tool_calls": [call()]},
            {"role": "tool", "tool_call_id": ID, "name": "weather", "content": "rain"},
        ],
        max_tokens=300,
        tools=[function()],
    ),
    sent("litellm 1.110.2", "thinking", [{"role": "user", "content": "hello"}], max_tokens=300, reasoning_effort="low"),
    sent(
        "instructor 1.17.0",
        "JSON schema",
        [{"role": "user", "content": "Paris"}],
        SCHEMA,
        response_format=schema(),
    ),
    sent(
        "pydantic-ai 2.68.0",
        "schema",
        [{"role": "user", "content": "Paris"}],
        SCHEMA,
        stream=False,
        max_completion_tokens=300,
        response_format=schema(description="A place.", strict=True),
    ),
    sent(
        "guidellm 0.8.1",
        "load",
        [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    ),
    sent(
        "guidellm 0.8.1",
        "load with a given length",
        [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
        max_completion_tokens=8,
        stop=None,
        ignore_eos=True,
    ),
]

OTHERS = [
    sent(
        "Open WebUI",
        "picture, sampling",
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PICTURE}],
        temperature=0.8,
        top_p=0.9,
        min_p=0.0,
        frequency_penalty=0.0,
        presence_penalty=0.0,
        seed=1,
        stop=["\n\n"],
        logit_bias={},
        top_k=40,
        keep_alive="5m",
        num_ctx=2048,
        **USAGE,
    ),
    sent(
        "Open WebUI",
        "result of a function",
        [
            *ASKED,
            {"role": "assistant", "content": "", "tool_calls": [{"index": 0, **call()}]},
            {"role": "tool", "tool_call_id": ID, "content": "rain"},
        ],
        tools=[function()],
        stream=True,
    ),
    sent(
        "Open WebUI",
        "title",
        [{"role": "user", "content": "Write a title."}],
        stream=False,
        max_completion_tokens=100,
    ),
    sent(
        "llama.cpp web page",
        "neutral settings",
        [{"role": "user", "content": "hello"}],
        stream=True,
        cache_prompt=True,
        return_progress=True,
        reasoning_format="auto",
        timings_per_token=True,
        samplers=["top_k", "top_p", "min_p", "temperature"],
        temperature=0.8,
        top_k=40,
        top_p=0.95,
        min_p=0.05,
        typical_p=1.0,
        dynatemp_range=0.0,
        dynatemp_exponent=1.0,
        xtc_probability=0.0,
        xtc_threshold=0.1,
        repeat_last_n=64,
        repeat_penalty=1.0,
        dry_multiplier=0.0,
        max_tokens=-1,
    ),
    sent(
        "vLLM",
        "all defaults written out",
        [{"role": "user", "content": "hello"}],
        use_beam_search=False,
        length_penalty=1.0,
        include_stop_str_in_output=False,
        spaces_between_special_tokens=True,
        truncate_prompt_tokens=None,
        prompt_logprobs=None,
        echo=False,
        add_special_tokens=False,
        documents=None,
        chat_template=None,
        kv_transfer_params=None,
        return_token_ids=False,
        include_reasoning=True,
        min_tokens=0,
        stop=[],
        stop_token_ids=[],
        max_tokens=20,
    ),
    Sent(
        "guidellm 0.8.1",
        "text completion",
        "/v1/completions",
        {
            "model": "nano",
            "prompt": "hello",
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "max_tokens": 8,
            "stop": None,
            "ignore_eos": True,
        },
    ),
    Sent(
        "lm-eval",
        "text completion",
        "/v1/completions",
        {"model": "nano", "prompt": ["hello"], "max_tokens": 8, "temperature": 0, "stop": ["\n"], "seed": 1234},
    ),
    Sent(
        "vLLM",
        "text completion, all defaults written out",
        "/v1/completions",
        {
            "model": "nano",
            "prompt": "hello",
            "best_of": None,
            "suffix": None,
            "n": 1,
            "max_tokens": 8,
            "repetition_penalty": 1.0,
            "use_beam_search": False,
            "add_special_tokens": True,
            "logprobs": None,
        },
    ),
]

CHAT = [*AGENTS, *LIBRARIES, *OTHERS]
