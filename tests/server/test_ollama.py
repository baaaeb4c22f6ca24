"""Answers of Ollama's interface: bodies of the Go client, and the Python client."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import ollama
import pytest
from server.kit import EXAMPLES, Running, Script, picture, running
from server.ollama_kit import GO_CHAT, GO_GENERATE, GO_SHOW, GO_TOOL, lines, post, refused

DOG = base64.b64encode((EXAMPLES / "dog.png").read_bytes()).decode()
CALL = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>\n"
    "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"
)


@pytest.fixture(scope="module")
def scripted() -> Iterator[Running]:
    """A server whose model calls a function twice, whatever it is asked."""
    script = Script([f"One moment.\n\n{CALL}"])
    with running(prepare=script.install) as found:
        yield found


@pytest.mark.parametrize("keep_alive", [None, "5m", "-1", 300, 0.5, -1, "24h0m0s"])
def test_without_a_prompt_the_model_is_loaded(server: Running, keep_alive: Any) -> None:
    for stream in (True, False, None):
        said = server.client.post(
            "/api/generate", json={**GO_GENERATE, "prompt": "", "keep_alive": keep_alive, "stream": stream}
        )
        assert said.json()["done_reason"] == "load"
        assert said.json()["response"] == ""
        said = server.client.post(
            "/api/chat", json={**GO_CHAT, "messages": None, "keep_alive": keep_alive, "stream": stream}
        )
        assert said.json()["done_reason"] == "load"
        assert said.json()["message"] == {"role": "assistant", "content": ""}
        assert said.json()["done"]


@pytest.mark.parametrize("keep_alive", [0, 0.0, "0", "0s", "0m0s"])
def test_keep_alive_of_nothing_is_told_as_unloading(server: Running, keep_alive: Any) -> None:
    assert post(server, "/api/generate", model="nano", keep_alive=keep_alive)["done_reason"] == "unload"
    assert post(server, "/api/chat", model="nano", messages=[], keep_alive=keep_alive)["done_reason"] == "unload"
    assert post(server, "/api/generate", GO_GENERATE, keep_alive=keep_alive)["done_reason"] == "stop"


@pytest.mark.parametrize("think", [None, False, "none", True, "low", "medium", "high", "max"])
def test_think(scripted: Running, think: Any) -> None:
    said = post(scripted, "/api/chat", GO_CHAT, think=think)
    text = scripted.context.driver.requests[-1].prompt.text  # type: ignore[attr-defined]
    assert text.endswith("<think>\n") is (think not in (None, False, "none"))
    assert ("thinking" in said["message"]) is (think not in (None, False, "none"))


@pytest.mark.parametrize("format_", [None, "", "json", {"type": "object", "properties": {"a": {"type": "integer"}}}])
def test_format(server: Running, format_: Any) -> None:
    said = post(server, "/api/chat", GO_CHAT, format=format_, tools=None, options={"num_predict": 40})
    if format_:
        assert said["message"]["content"].startswith("{")


def test_options_of_the_engine_are_ignored_and_reported(server: Running) -> None:
    names = ("num_thread", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_keep", "repeat_last_n", "typical_p")
    names += ("mirostat", "mirostat_tau", "mirostat_eta", "tfs_z")
    answer = server.client.post(
        "/api/generate", json={**GO_GENERATE, "options": dict.fromkeys(names, 2), "shift": True}
    )
    assert set(answer.headers["x-ignored-fields"].split(", ")) == {*(f"options.{name}" for name in names), "shift"}
    off = {"mirostat": 0, "typical_p": 1.0, "tfs_z": 1, "num_thread": None}
    post(server, "/api/generate", GO_GENERATE, options=off, truncate=False, shift=False)


def test_options_as_floats(server: Running) -> None:
    options = {"top_k": 40.0, "seed": 7.0, "num_predict": 3.0, "num_ctx": 512.0, "temperature": 1, "top_p": 1}
    assert post(server, "/api/generate", GO_GENERATE, options=options)["eval_count"] == 3
    assert "top_k" in refused(server, "/api/generate", prompt="x", options={"top_k": 40.5})
    wrong = refused(server, "/api/generate", prompt="x", options={"repeat_penalty": -1})
    assert wrong.startswith("options.repeat_penalty=-1")
    assert refused(server, "/api/chat", **GO_CHAT | {"options": {"top_p": 2}}).startswith("options.top_p=2")


@pytest.mark.parametrize("maximum", [0, -1, -2])
def test_num_predict_without_a_limit(scripted: Running, maximum: int) -> None:
    post(scripted, "/api/generate", GO_GENERATE, options={"num_predict": maximum})
    request = scripted.context.driver.requests[-1]  # type: ignore[attr-defined]
    assert request.params.max_tokens == scripted.context.max_model_len - len(request.prompt.ids)


def test_seed_below_zero_is_none(scripted: Running) -> None:
    for seed, given in ((-1, None), (0, 0), (5, 5)):
        post(scripted, "/api/generate", GO_GENERATE, options={"seed": seed})
        assert scripted.context.driver.requests[-1].params.seed == given  # type: ignore[attr-defined]


def test_num_ctx_limits_and_never_refuses_what_is_too_large(scripted: Running) -> None:
    longest = scripted.context.max_model_len
    sizes = {10**9: longest, 64: 64, 0: longest, 4: longest}  # a prompt that is longer than num_ctx is read whole
    for given, holds in sizes.items():
        post(scripted, "/api/generate", GO_GENERATE, options={"num_ctx": given, "num_predict": -1})
        request = scripted.context.driver.requests[-1]  # type: ignore[attr-defined]
        assert len(request.prompt.ids) + request.params.max_tokens == holds


def test_logprobs(server: Running) -> None:
    client = ollama.Client(server.url)
    for said in (
        client.chat("nano", GO_CHAT["messages"], logprobs=True, top_logprobs=2),  # type: ignore[arg-type]
        client.generate("nano", "hello", logprobs=True, top_logprobs=2),
    ):
        assert said.logprobs is not None
        assert len(said.logprobs) == said.eval_count - 1  # type: ignore[operator]
        assert all(len(token.top_logprobs or ()) == 2 for token in said.logprobs)
        assert "".join(token.token for token in said.logprobs).strip()
    plain = post(server, "/api/generate", GO_GENERATE, logprobs=True)
    assert plain["logprobs"][0].keys() >= {"token", "logprob", "bytes"}
    streamed = lines(server.client.post("/api/generate", json={**GO_GENERATE, "logprobs": True}))
    assert [token for line in streamed for token in line.get("logprobs", ())] == plain["logprobs"]
    assert "logprobs" not in post(server, "/api/generate", GO_GENERATE)
    answer = server.client.post("/api/generate", json={**GO_GENERATE, "top_logprobs": 2})
    assert answer.headers["x-ignored-fields"] == "top_logprobs"
    assert "top_logprobs" in refused(server, "/api/generate", prompt="x", top_logprobs=21)


def test_context_continues_a_conversation(server: Running, scripted: Running) -> None:
    first = post(server, "/api/generate", GO_GENERATE)
    *_, last = lines(server.client.post("/api/generate", json=GO_GENERATE))
    assert last["context"] == first["context"]
    assert post(server, "/api/generate", GO_GENERATE, context=[])["context"] == first["context"]
    requests = scripted.context.driver.requests  # type: ignore[attr-defined]
    asked = {"model": "nano", "prompt": "What is this?"}
    post(scripted, "/api/generate", asked)
    alone = requests[-1].prompt.ids.tolist()
    post(scripted, "/api/generate", asked, context=first["context"])
    newline = scripted.context.tokenizer.encode_plain("\n")
    assert requests[-1].prompt.ids.tolist() == [*first["context"], *newline, *alone]
    second = post(server, "/api/generate", asked, context=first["context"])
    assert second["context"][: len(first["context"])] == first["context"]
    assert second["prompt_eval_count"] == len(requests[-1].prompt.ids)


def test_context_of_an_answer_that_was_cut_off(scripted: Running, server: Running) -> None:
    cut = post(server, "/api/generate", GO_GENERATE, options={"num_predict": 2})
    post(scripted, "/api/generate", GO_GENERATE, context=cut["context"])
    request = scripted.context.driver.requests[-1]  # type: ignore[attr-defined]
    text = scripted.context.tokenizer.decode(request.prompt.ids.tolist(), skip_special_tokens=False)
    assert text.count("<|im_start|>user") == text.count("<|im_end|>\n<|im_start|>assistant") == 2
    assert f"{cut['response']}<|im_end|>\n<|im_start|>user" in text


def test_context_and_images(server: Running, scripted: Running) -> None:
    assert "context" not in post(server, "/api/generate", GO_GENERATE, images=[DOG])
    first = post(server, "/api/generate", GO_GENERATE)
    image = server.context.tokenizer.special.image
    post(scripted, "/api/generate", GO_GENERATE, images=[DOG], context=first["context"])
    prompt = scripted.context.driver.requests[-1].prompt  # type: ignore[attr-defined]
    starts = {view.start for view in prompt.views}
    assert starts
    assert all(prompt.ids[start] == image != prompt.ids[start - 1] for start in starts)
    assert prompt.ids[prompt.marks[-1]] == scripted.context.tokenizer.token_id("<|im_start|>")
    assert post(server, "/api/generate", GO_GENERATE, images=[DOG], context=first["context"])["response"]
    assert refused(server, "/api/generate", prompt="x", context=[1, image, 2]).startswith("context: placeholders")
    assert refused(server, "/api/generate", prompt="x", context=[10**6]).startswith("context: a token id")
    assert "2049 tokens" in refused(server, "/api/generate", prompt="x", context=[1] * 2049)


def test_raw_template_and_suffix(server: Running) -> None:
    raw = post(server, "/api/generate", GO_GENERATE, raw=True, options={"num_predict": 2})
    assert "context" not in raw
    for field, value in (("system", "Be kind."), ("images", [DOG]), ("context", [1])):
        assert refused(server, "/api/generate", prompt="x", raw=True, **{field: value}).startswith(f"{field}: ")
    assert refused(server, "/api/generate", prompt="x", suffix="end").startswith("suffix: ")
    assert refused(server, "/api/generate", prompt="x", template="{{ .Prompt }}").startswith("template: ")
    template = server.client.post("/api/show", json={"model": "nano"}).json()["template"]
    post(server, "/api/generate", GO_GENERATE | {"template": template})
    for field, value in (("width", 512), ("_debug_render_only", True)):
        assert refused(server, "/api/generate", prompt="x", **{field: value}).startswith(f"{field}: ")


def test_images_are_called_what_the_request_calls_them(server: Running) -> None:
    for wrong in ("bm90IGFuIGltYWdl", "data:image/png;base64,bm90IGFuIGltYWdl", "https://example.com/a.png"):
        said = refused(server, "/api/generate", prompt="x", images=[DOG, wrong])
        assert said.startswith("images[1]: "), said
        said = refused(server, "/api/generate", prompt="x", system="Be kind.", images=[wrong])
        assert said.startswith("images[0]: "), said
        messages = [{"role": "user", "content": "x"}, {"role": "user", "content": "x", "images": [DOG, wrong]}]
        said = refused(server, "/api/chat", messages=messages)
        assert said.startswith("messages[1].images[1]: "), said
    message = {"role": "user", "content": "x", "images": [3]}
    assert refused(server, "/api/chat", messages=[message]).startswith("messages[0].images[0]: ")


def test_images_as_data_uris_and_null(server: Running) -> None:
    asked = {"model": "nano", "prompt": "What is this?"}
    said = post(server, "/api/generate", asked, images=[DOG])["response"]
    assert post(server, "/api/generate", asked, images=[picture("dog.png")])["response"] == said
    message = {"role": "user", "content": "What is this?", "images": [picture("dog.png")]}
    assert post(server, "/api/chat", model="nano", messages=[message])["message"]["content"] == said
    post(server, "/api/generate", asked, images=None)
    assert post(server, "/api/generate", model="nano", prompt="", images=[DOG])["response"]


def test_tools_as_go_writes_them(scripted: Running) -> None:
    said = post(scripted, "/api/chat", GO_CHAT, tools=[GO_TOOL])
    calls = said["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [
        {"index": 0, "name": "weather", "arguments": {"city": "Paris"}},
        {"index": 1, "name": "weather", "arguments": {"city": "Rome"}},
    ]
    assert len({call["id"] for call in calls}) == 2
    assert said["done_reason"] == "stop"
    streamed = lines(scripted.client.post("/api/chat", json={**GO_CHAT, "tools": [GO_TOOL]}))
    found = [call["function"] for line in streamed for call in line["message"].get("tool_calls", ())]
    assert found == [call["function"] for call in calls]
    history = [
        *GO_CHAT["messages"],  # type: ignore[misc]
        {**said["message"], "thinking": "I look it up."},
        {"role": "tool", "content": "rain", "tool_name": "weather", "tool_call_id": calls[0]["id"]},
        {"role": "tool", "content": "sun", "tool_name": "weather"},
    ]
    post(scripted, "/api/chat", model="nano", messages=history, tools=[GO_TOOL])
    text = scripted.context.driver.requests[-1].prompt.text  # type: ignore[attr-defined]
    assert "I look it up." in text
    assert "null" not in text
    assert "<parameter=city>\nParis\n</parameter>" in text
    history[1]["tool_calls"] = [{"function": {"name": "weather", "arguments": '{"city": "Paris"}'}}]
    post(scripted, "/api/chat", model="nano", messages=history, tools=[{**GO_TOOL, "type": None}])
    again = scripted.context.driver.requests[-1].prompt.text  # type: ignore[attr-defined]
    assert "<parameter=city>\nParis\n</parameter>" in again


def test_times(server: Running) -> None:
    said = post(server, "/api/generate", GO_GENERATE)
    assert 0 < said["load_duration"] < said["total_duration"]
    parts = ("load_duration", "prompt_eval_duration", "eval_duration")
    assert sum(said[name] for name in parts) <= said["total_duration"]


def test_strict_takes_what_go_writes() -> None:
    with running(strict=True) as found:
        post(found, "/api/chat", GO_CHAT)
        post(found, "/api/generate", GO_GENERATE)
        assert found.client.post("/api/show", json=GO_SHOW).status_code == 200
        assert "options.num_thread" in refused(found, "/api/chat", **GO_CHAT | {"options": {"num_thread": 2}})
