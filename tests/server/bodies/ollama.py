"""Bodies of Ollama's interface as clients send them."""

from __future__ import annotations

from typing import Any

from server.bodies.parts import ARGUMENTS, DATA, ID, SCHEMA, Sent, function

USER = {"role": "user", "content": "hello"}
PICTURE = {"role": "user", "content": "What is this?", "images": [DATA]}
ASKED = {"role": "user", "content": "Weather?"}
CALL = {"function": {"name": "weather", "arguments": ARGUMENTS}}
# The types of the ollama command have no "omitempty" on these.
EMPTY = {"suffix": "", "system": "", "template": ""}


def chat(
    client: str, about: str, messages: list[Any], answer_schema: dict[str, Any] | None = None, /, **fields: Any
) -> Sent:
    """A conversation; answer_schema: the schema that its answer must match."""
    return Sent(client, about, "/api/chat", {"model": "nano", "messages": messages, **fields}, {}, answer_schema)


def generate(client: str, about: str, prompt: str, **fields: Any) -> Sent:
    """A single question."""
    return Sent(client, about, "/api/generate", {"model": "nano", "prompt": prompt, **fields})


def show(client: str, about: str, **fields: Any) -> Sent:
    """What a model is."""
    return Sent(client, about, "/api/show", fields)


COMMAND = "ollama (command)"
OLLAMA = [
    show(COMMAND, "show", model="nano", system="", template="", verbose=False, options=None, name=""),
    show(COMMAND, "show by name", model="", system="", template="", verbose=True, options=None, name="nano"),
    generate(COMMAND, "load", "", **EMPTY, options=None),
    generate(COMMAND, "load with thinking", "", **EMPTY, options=None, think=True, keep_alive="5m0s"),
    generate(COMMAND, "stop", "", **EMPTY, options=None, keep_alive="0s"),
    generate(COMMAND, "question", "hello", **EMPTY, options={}, think=False),
    generate(COMMAND, "question with a picture", "What is this?", **EMPTY, options={}, images=[DATA], keep_alive=-1),
    generate(COMMAND, "JSON", "hello", **EMPTY, options={"num_predict": 20}, format="json", truncate=True, shift=True),
    chat(COMMAND, "conversation", [USER, {"role": "assistant", "content": "Hello!"}, USER], options={}),
    chat(COMMAND, "set parameters", [USER], options={"num_ctx": 2048, "seed": 1, "stop": ["x"], "num_gpu": 1}),
    chat(COMMAND, "load by a conversation without messages", [], options=None),
    chat("ollama 0.6.3", "picture", [PICTURE], stream=True, options={"temperature": 0}, keep_alive=-1.0, tools=[]),
    chat(
        "ollama 0.6.3",
        "result of a function",
        [
            ASKED,
            {"role": "assistant", "thinking": "I look.", "tool_calls": [CALL]},
            {"role": "tool", "content": "rain", "tool_name": "weather"},
        ],
        stream=False,
        tools=[function()],
        think=True,
    ),
    chat("ollama 0.6.3", "schema", [USER], SCHEMA, stream=False, format=SCHEMA, tools=[]),
    chat("ollama 0.6.3", "log-probabilities", [USER], stream=False, tools=[], logprobs=True, top_logprobs=2),
    generate(
        "ollama 0.6.3",
        "all fields",
        "hello",
        **EMPTY,
        stream=False,
        context=[],
        raw=False,
        images=[DATA],
        options={
            "numa": False,
            "num_batch": 512,
            "num_gpu": 0,
            "main_gpu": 0,
            "low_vram": False,
            "f16_kv": True,
            "logits_all": False,
            "vocab_only": False,
            "use_mmap": True,
            "use_mlock": False,
            "num_thread": 2,
            "num_keep": 4,
            "embedding_only": False,
            "num_predict": 20,
            "temperature": 0.0,
        },
    ),
    chat("ollama 0.6.4 (npm)", "picture", [PICTURE], stream=True, keep_alive="5m"),
    chat(
        "ollama 0.6.4 (npm)",
        "result of a function",
        [
            ASKED,
            {"role": "assistant", "content": "", "thinking": "I look.", "tool_calls": [CALL]},
            {"role": "tool", "tool_name": "weather", "content": "rain"},
        ],
        stream=False,
        tools=[function()],
    ),
    chat(
        "langchain-ollama 1.1.0",
        "result of a function",
        [ASKED, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "rain"}],
        stream=True,
        options={"num_predict": 300, "temperature": 0.0},
        tools=[function()],
    ),
    chat(
        "litellm 1.110.2",
        "result of a function",
        [
            {**ASKED, "images": []},
            {"role": "assistant", "content": "", "images": [], "tool_calls": [{"id": ID, **CALL}]},
            {"role": "tool", "content": "rain", "images": [], "tool_call_id": ID},
        ],
        stream=False,
        options={"num_predict": 300},
        tools=[function()],
    ),
    show("litellm 1.110.2", "show", name="nano"),
    chat(
        "Open WebUI",
        "picture, sampling",
        [{"role": "system", "content": "Be brief."}, {**PICTURE}],
        stream=True,
        keep_alive="5m",
        options={
            "temperature": 0.8,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.0,
            "seed": 1,
            "num_ctx": 2048,
            "num_batch": 512,
            "num_keep": 24,
            "num_predict": 100,
            "repeat_penalty": 1.1,
            "stop": ["\n\n"],
            "num_gpu": 0,
            "use_mmap": True,
            "use_mlock": False,
            "num_thread": 2,
        },
    ),
    chat(
        "Open WebUI",
        "result of a function",
        [
            ASKED,
            {"role": "assistant", "content": "", "tool_calls": [{"index": 0, "id": ID, **CALL}]},
            {"role": "tool", "content": "rain", "tool_call_id": ID},
        ],
        stream=True,
        options={},
        tools=[function()],
    ),
    chat("Open WebUI", "title", [USER], stream=False, num_predict=100, options={}),
]

# Requests without a body: method and path.
PLAIN = [("HEAD", "/"), ("GET", "/"), ("GET", "/api/version"), ("GET", "/api/tags"), ("GET", "/api/ps")]
