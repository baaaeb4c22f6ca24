"""The rule of request fields: what would change an answer is refused by name, all else is accepted and reported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from server.kit import Running, Script, events, image, running

USER = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER, "max_tokens": 2},
    "/v1/completions": {"prompt": "hello", "max_tokens": 2},
    "/v1/responses": {"input": "hello", "max_output_tokens": 2},
    "/v1/responses/input_tokens": {"input": "hello"},
    "/v1/messages": {"messages": USER, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": USER},
    "/api/chat": {"messages": USER, "stream": False, "options": {"num_predict": 2}},
    "/api/generate": {"prompt": "hello", "stream": False, "options": {"num_predict": 2}},
    "/api/show": {"model": "nano"},
    "/api/pull": {"model": "nano", "stream": False},
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [1]},
}
CHATS = [path for path in BODIES if "token" not in path and path not in ("/api/show", "/api/pull")]


@pytest.fixture(scope="module")
def strict() -> Iterator[Running]:
    with running(strict=True) as found:
        yield found


def ignored(response: Any) -> list[str]:
    """What an answer says was ignored."""
    assert response.status_code == 200, response.text
    return response.headers.get("x-ignored-fields", "").split(", ") if "x-ignored-fields" in response.headers else []


def message(response: Any) -> str:
    """The sentence of an error in any interface's form."""
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize("path", BODIES)
def test_unknown_fields_are_accepted_and_reported_everywhere(server: Running, strict: Running, path: str) -> None:
    plain = server.client.post(path, json=BODIES[path])
    assert ignored(plain) == []
    body = {**BODIES[path], "never_heard_of": {"a": 1}, "nor_of_this": None}
    response = server.client.post(path, json=body)
    assert ignored(response) == ["never_heard_of"]
    assert server.line(response.headers["x-request-id"])["ignored"] == "never_heard_of"
    refused = strict.client.post(path, json=body)
    assert "never_heard_of: this field is not supported" in message(refused)
    assert strict.client.post(path, json=BODIES[path]).status_code == 200


def test_every_route_with_a_json_body_follows_the_rule(server: Running) -> None:
    described = server.server.app.openapi()["paths"]
    posts = {path for path, methods in described.items() if "requestBody" in methods.get("post", {})}
    # test_page.py and test_adapter_loading.py have the others.
    others = {"/v1/files", "/v1/files/fetch", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
    assert posts - others <= set(BODIES)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"store": True}, ["store"]),
        ({"store": False, "service_tier": "auto", "metadata": {}, "verbosity": "medium"}, []),
        ({"metadata": {"a": "b"}, "safety_identifier": "x", "user": "me"}, ["metadata", "safety_identifier"]),
        ({"service_tier": "flex", "prompt_cache_key": "k", "verbosity": "low"},
         ["prompt_cache_key", "service_tier", "verbosity"]),
        ({"modalities": ["text"], "functions": None, "audio": None, "best_of": 1, "function_call": "auto"}, []),
        ({"prediction": {"type": "content", "content": "x"}}, ["prediction"]),
        ({"stream_options": {"include_usage": True}}, ["stream_options"]),
        ({"typical_p": 0.9, "mirostat": 2, "tfs_z": 1.0, "repeat_last_n": 64, "dry_multiplier": 0.8},
         ["dry_multiplier", "mirostat", "repeat_last_n", "tfs_z", "typical_p"]),
        ({"model": None}, []),
        ({"max_tokens": -1, "stop": "a"}, []),
        ({"tools": [{"type": "web_search"}, {"type": "custom", "custom": {"name": "x"}}]}, ["tools[0]", "tools[1]"]),
        ({"tools": [{"type": "function", "function": {"name": "f", "x": 1}, "y": 2}]},
         ["tools[0].function.x", "tools[0].y"]),
        ({"a b\r\nSet-Cookie: x": 1, "ü": 2}, ["?", "a?b??Set-Cookie:?x"]),
    ],
)  # fmt: skip
def test_fields_of_chat_that_change_nothing(server: Running, fields: dict[str, Any], names: list[str]) -> None:
    response = server.chat("hello", **{"max_tokens": 2, **fields})
    assert sorted(ignored(response)) == names


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max", "default", "auto"])
def test_each_published_word_of_effort_is_taken(server: Running, effort: str) -> None:
    response = server.chat("hello", reasoning_effort=effort, max_tokens=1)
    assert ignored(response) == []
    thinks = effort not in ("none", "minimal", "default", "auto")
    count = server.chat("hello", chat_template_kwargs={"enable_thinking": thinks}, max_tokens=1)
    assert response.json()["usage"]["prompt_tokens"] == count.json()["usage"]["prompt_tokens"]


def test_parts_hold_more_than_we_read(server: Running) -> None:
    url = image()["image_url"]["url"]
    content = [
        {"type": "text", "text": "What is", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": url, "format": "image/png", "detail": "auto"}, "uuid": "u1"},
        {"type": "text", "text": "this?"},
    ]
    plain = server.chat([content[0] | {"cache_control": None}, image(), content[2]])
    response = server.chat(content)
    assert ignored(response) == [
        "messages[0].content[0].cache_control",
        "messages[0].content[1].uuid",
        "messages[0].content[1].image_url.format",
    ]
    assert response.json()["choices"][0]["message"] == plain.json()["choices"][0]["message"]
    assert ignored(server.chat([image(fps=3, zoom=2)], max_tokens=1)) == [
        "messages[0].content[0].fps",
        "messages[0].content[0].zoom",
    ]


def test_messages_hold_more_than_we_read(server: Running, strict: Running) -> None:
    turns = [{"role": "assistant", "content": "hi", "refusal": None, "annotations": []}, *USER]
    assert ignored(server.chat("hello", messages=[*USER, *turns])) == []
    sizes = []
    for said in ({"content": "I will not."}, {"content": None, "refusal": "I will not."}):
        response = server.chat("hello", messages=[*USER, {"role": "assistant", **said}, *USER])
        assert ignored(response) == []
        sizes.append(response.json()["usage"]["prompt_tokens"])
    assert sizes[0] == sizes[1]
    odd = [{**USER[0], "name": "bob", "cache_control": {"type": "ephemeral"}}]
    assert ignored(server.chat("hello", messages=odd)) == ["messages[0].name", "messages[0].cache_control"]
    assert "messages[0].name: " in message(strict.chat("hello", messages=odd))
    called = [*USER, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}]
    assert "give tool_calls" in message(server.chat("hello", messages=called))


def test_strict_takes_an_earlier_answer_as_it_was(strict: Running) -> None:
    body = {"input": "hello", "include": ["message.output_text.logprobs"], "reasoning": {"effort": "high"}}
    output = strict.client.post("/v1/responses", json={**body, "max_output_tokens": 40}).json()["output"]
    assert output[-1]["content"][0]["annotations"] == []
    again = [*USER, *output, *USER]
    assert ignored(strict.client.post("/v1/responses", json={**BODIES["/v1/responses"], "input": again})) == []


def test_parts_of_other_interfaces_are_read(server: Running) -> None:
    url = image("apple.png")["image_url"]["url"]
    same = [
        [image("apple.png"), {"type": "text", "text": "What is this?"}],
        [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": "What is this?"}],
        [{"type": "file", "file": {"file_data": url}}, {"type": "text", "text": "What is this?"}],
    ]
    answers = [server.chat(content).json()["choices"][0]["message"]["content"] for content in same]
    assert "pple" in answers[0]
    assert answers == [answers[0]] * 3
    history = [
        *USER,
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not."}], "refusal": "I will not."},
        *USER,
    ]
    response = server.client.post("/v1/chat/completions", json={"messages": history, "max_tokens": 1})
    assert ignored(response) == []


@pytest.mark.parametrize(
    ("path", "fields", "says"),
    [
        ("/v1/chat/completions", {"audio": {"voice": "x"}}, "audio: this field is not supported: answers have no"),
        ("/v1/chat/completions", {"modalities": ["text", "audio"]}, "modalities: "),
        ("/v1/chat/completions", {"functions": [{"name": "f"}]}, "functions: this field is not supported: give tools"),
        ("/v1/chat/completions", {"best_of": 2}, "best_of: "),
        ("/v1/chat/completions", {"guided_grammar": "x"}, "guided_grammar: "),
        ("/v1/chat/completions", {"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar: "),
        ("/v1/chat/completions", {"use_beam_search": True}, "use_beam_search: "),
        ("/v1/completions", {"suffix": "x"}, "suffix: "),
        ("/v1/completions", {"best_of": True}, "best_of: "),
        ("/v1/responses", {"previous_response_id": "resp_1"}, "previous_response_id: "),
        ("/v1/responses", {"background": True}, "background: "),
        ("/v1/responses", {"conversation": "c"}, "conversation: "),
        ("/v1/responses", {"response_format": {"type": "json_object"}}, "response_format: "),
        ("/v1/responses", {"n": 2}, "n: "),
        ("/v1/responses", {"max_completion_tokens": 2}, "max_completion_tokens: "),
        ("/v1/responses", {"bad_words": ["x"]}, "bad_words: "),
        ("/v1/completions", {"max_completion_tokens": 2}, "max_completion_tokens: "),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused(server: Running, path: str, fields: dict[str, Any], says: str) -> None:
    response = server.client.post(path, json={**BODIES[path], **fields})
    assert message(response).startswith(says)
    assert response.json()["error"]["param"] == says.split(":", maxsplit=1)[0]


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"stop": "x"}, "stop: "), ({"n": 2}, "n: "), ({"seed": 1}, "seed: "), ({"guided_json": {}}, "guided_json: ")],
)
def test_anthropics_interface_has_names_of_its_own(server: Running, fields: dict[str, Any], says: str) -> None:
    response = server.client.post("/v1/messages", json={**BODIES["/v1/messages"], **fields})
    assert message(response).startswith(says)


def test_completions_take_what_clients_leave_empty(server: Running) -> None:
    fields = {"suffix": None, "best_of": 1, "user": "me", "logit_bias": None, "echo": None}
    assert ignored(server.client.post("/v1/completions", json={**BODIES["/v1/completions"], **fields})) == []


def test_no_limit_but_the_context() -> None:
    with running(max_model_len=48, default_max_tokens=4) as server:
        assert server.chat("hello", ignore_eos=True).json()["usage"]["completion_tokens"] == 4
        for fields in ({"max_tokens": -1}, {"max_tokens": None}, {"max_completion_tokens": None}):
            usage = server.chat("hello", ignore_eos=True, **fields).json()["usage"]
            assert usage["total_tokens"] == 48
        both = server.chat("hello", ignore_eos=True, min_tokens=4000, max_tokens=4000).json()
        assert both["usage"]["total_tokens"] == 48
        for name in ("max_output_tokens", "max_tokens"):
            body = {"input": "hello", "ignore_eos": True, name: None}
            assert server.client.post("/v1/responses", json=body).json()["usage"]["total_tokens"] == 48


def test_usage_in_every_chunk() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True, "include_obfuscation": True}
    said = "one two three four five six"
    with running(prepare=Script([said], pause=0.02).install) as server:
        response = server.chat("hello", stream=True, stream_options=options)
        assert ignored(response) == ["stream_options.include_obfuscation"]
        chunks = events(response)[:-1]
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts == sorted(counts)
        assert counts[0] == 0
        assert len(set(counts)) > 3
        assert counts[-1] == server.chat("hello").json()["usage"]["completion_tokens"]
        assert "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]) == said
        body = {"prompt": "hello", "max_tokens": 5, "stream": True, "stream_options": options}
        chunks = events(server.client.post("/v1/completions", json=body))[:-1]
        assert all(chunk["usage"]["prompt_tokens"] > 0 for chunk in chunks)


@pytest.mark.parametrize("path", CHATS)
def test_a_missing_model_is_the_one_that_is_served(server: Running, path: str) -> None:
    for model in ({}, {"model": None}, {"model": ""}, {"model": "nano"}):
        response = server.client.post(path, json={**BODIES[path], **model})
        assert response.status_code == 200, response.text
        assert response.json()["model"] == "nano"
