"""Ollama's interface as its clients use it: bodies of the Go client byte for byte, and the Python client."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import ollama
import pytest
from server.kit import EXAMPLES, Running, Script, picture, running

DOG = base64.b64encode((EXAMPLES / "dog.png").read_bytes()).decode()
NOTHING: dict[str, Any] = {}
CALL = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>\n"
    "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"
)
# As Go writes a tool whose type, description and required names nobody set.
GO_TOOL = {
    "type": "",
    "function": {
        "name": "weather",
        "description": "",
        "parameters": {
            "type": "object",
            "required": None,
            "items": None,
            "properties": {"city": {"type": "string", "description": ""}},
        },
    },
}
GO_SHOW = {"model": "nano", "system": "", "template": "", "verbose": False, "options": None, "name": ""}
GO_GENERATE = {
    "model": "nano", "prompt": "hello", "suffix": "", "system": "", "template": "", "options": None,
    "_debug_render_only": False,
}  # fmt: skip
GO_CHAT = {
    "model": "nano", "messages": [{"role": "user", "content": "hello"}], "options": None, "_debug_render_only": False
}  # fmt: skip


@pytest.fixture(scope="module")
def scripted() -> Iterator[Running]:
    """A server whose model calls a function twice, whatever it is asked."""
    script = Script([f"One moment.\n\n{CALL}"])
    with running(prepare=script.install) as found:
        yield found


def post(server: Running, path: str, body: Mapping[str, Any] = NOTHING, **more: Any) -> dict[str, Any]:
    """The answer as one object; it must be one, without ignored fields."""
    answer = server.client.post(path, json={"stream": False, **body, **more})
    assert answer.status_code == 200, answer.text
    assert "x-ignored-fields" not in answer.headers
    found: dict[str, Any] = answer.json()
    return found


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    """The objects of a stream."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def refused(server: Running, path: str, status: int = 400, **body: Any) -> str:
    """The error of a request, which must have Ollama's form."""
    answer = server.client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    return str(answer.json()["error"])


def test_the_command_line_runs_a_model(server: Running) -> None:
    client = server.client
    assert client.head("/").status_code == 200
    shown = client.post("/api/show", json=GO_SHOW)
    assert "vision" in shown.json()["capabilities"]
    loading = client.post("/api/generate", json={**GO_GENERATE, "prompt": "", "keep_alive": "5m0s", "think": None})
    assert loading.json()["done_reason"] == "load"
    chatting = client.post("/api/chat", json={**GO_CHAT, "keep_alive": "5m0s", "think": False})
    *parts, last = lines(chatting)
    assert "".join(part["message"]["content"] for part in parts)
    assert not any(part["done"] for part in parts)
    assert last["done"]
    assert last["done_reason"] == "stop"
    assert last["message"] == {"role": "assistant", "content": ""}
    for answer in (shown, loading, chatting):
        assert "x-ignored-fields" not in answer.headers


def test_the_root_and_head(server: Running) -> None:
    answer = server.client.get("/")
    assert answer.text == "Ollama is running"
    assert answer.headers["content-type"].startswith("text/plain")
    for path in ("/", "/api/tags", "/api/version", "/api/ps", "/v1/models", "/health"):
        head = server.client.head(path)
        assert head.status_code == 200
        assert not head.content
        assert head.headers["content-type"] == server.client.get(path).headers["content-type"]
    assert server.client.head("/api/nothing").status_code == 404


def test_the_root_needs_no_key() -> None:
    with running(api_keys=("a-long-key",)) as locked:
        assert locked.client.head("/").status_code == 200
        assert locked.client.head("/api/tags").status_code == 401
        assert list(locked.client.get("/api/tags").json()) == ["error"]


def test_version() -> None:
    with running(ollama_version="1.2.3") as found:
        assert found.client.get("/api/version").json() == {"version": "1.2.3"}
        assert found.client.get("/version").json()["version"] != "1.2.3"


def test_the_default_version_is_new_enough(server: Running) -> None:
    version = tuple(map(int, server.client.get("/api/version").json()["version"].split(".")))
    assert version >= (0, 13, 4)


def test_a_model_in_lists(server: Running) -> None:
    (model,) = server.client.get("/api/tags").json()["models"]
    assert model["name"] == model["model"] == "nano:latest"
    assert len(bytes.fromhex(model["digest"])) == 32
    assert model["details"]["parameter_size"] == "5.6M"
    assert model["details"]["quantization_level"] == "int8"
    (loaded,) = server.client.get("/api/ps").json()["models"]
    assert loaded["digest"] == model["digest"]
    assert loaded["size_vram"] == 0
    assert loaded["context_length"] == server.context.max_model_len
    assert ollama.Client(server.url).ps().models[0].expires_at.year == 2999  # type: ignore[union-attr]
    with running() as again:
        assert again.client.get("/api/tags").json()["models"] == [model]


def test_other_weights_have_another_digest(server: Running) -> None:
    with running(loading={"weights": "bf16"}) as other:
        assert other.context.digest != server.context.digest


def test_names_with_a_tag_stay_as_they_are() -> None:
    with running(served_model_name=("minicpm-v:8b", "openbmb/MiniCPM-V-4.6")) as found:
        names = [model["name"] for model in found.client.get("/api/tags").json()["models"]]
        assert names == ["minicpm-v:8b", "openbmb/MiniCPM-V-4.6:latest"]
        for name in names:
            assert found.client.post("/api/show", json={"name": name, "model": ""}).status_code == 200


def test_show(server: Running) -> None:
    shown = server.client.post("/api/show", json={"model": "nano"}).json()
    info = shown["model_info"]
    architecture = info["general.architecture"]
    assert info[f"{architecture}.context_length"] == server.context.max_model_len
    assert info["general.parameter_count"] > 5e6
    assert info["tokenizer.ggml.model"] == "gpt2"
    assert {"vision", "tools", "thinking", "completion"} <= set(shown["capabilities"])
    parameters = dict(line.split() for line in shown["parameters"].splitlines())
    assert parameters["num_ctx"] == str(server.context.max_model_len)
    assert "tools" in shown["template"]
    assert "tensors" not in shown
    tensors = server.client.post("/api/show", json={"model": "nano", "verbose": True}).json()["tensors"]
    assert {"name", "type", "shape"} == set(tensors[0])
    assert ollama.Client(server.url).show("nano").modified_at.year > 2020  # type: ignore[union-attr]


def test_pull(server: Running) -> None:
    client = ollama.Client(server.url)
    assert client.pull("nano").status == "success"
    assert [part.status for part in client.pull("nano:latest", stream=True)] == ["success"]
    go = {"model": "nano", "insecure": False, "username": "", "password": "", "name": ""}
    assert post(server, "/api/pull", go) == {"status": "success"}
    assert "model 'other' not found" in refused(server, "/api/pull", 404, model="other")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/embed"), ("POST", "/api/embeddings"), ("POST", "/api/create"), ("POST", "/api/copy"),
        ("DELETE", "/api/delete"), ("POST", "/api/push"), ("POST", "/api/blobs/sha256:00"),
    ],
)  # fmt: skip
def test_what_is_not_done_says_so(server: Running, method: str, path: str) -> None:
    answer = server.client.request(method, path, json={"model": "nano"})
    assert answer.status_code == 501
    assert list(answer.json()) == ["error"]


def test_errors_have_one_form(server: Running) -> None:
    assert server.client.get("/api/nothing").json().keys() == {"error"}
    assert server.client.get("/api").json().keys() == {"error"}
    assert server.client.get("/api/chat").json().keys() == {"error"}
    assert "think" in refused(server, "/api/chat", messages=[], think="much")
    assert "messages[0].role" in refused(server, "/api/chat", messages=[{"role": "x", "content": ""}])
    assert "JSON" in server.client.post("/api/chat", content=b"{").json()["error"]
    for path in ("/api/chat", "/api/generate", "/api/show"):
        assert "model 'other' not found" in refused(server, path, 404, model="other")


def test_errors_inside_a_stream() -> None:
    with running(prepare=Script(["one two three"], end="broken").install) as found:
        last = lines(found.client.post("/api/chat", json=GO_CHAT))[-1]
        assert list(last) == ["error"]
        assert "broken" in last["error"]


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
    text = scripted.context.service.requests[-1].prompt.text  # type: ignore[attr-defined]
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


@pytest.mark.parametrize("most", [0, -1, -2])
def test_num_predict_without_a_limit(scripted: Running, most: int) -> None:
    post(scripted, "/api/generate", GO_GENERATE, options={"num_predict": most})
    request = scripted.context.service.requests[-1]  # type: ignore[attr-defined]
    assert request.params.max_tokens == scripted.context.max_model_len - len(request.prompt.ids)


def test_seed_below_zero_is_none(scripted: Running) -> None:
    for seed, given in ((-1, None), (0, 0), (5, 5)):
        post(scripted, "/api/generate", GO_GENERATE, options={"seed": seed})
        assert scripted.context.service.requests[-1].params.seed == given  # type: ignore[attr-defined]


def test_num_ctx_limits_and_never_refuses_what_is_too_large(scripted: Running) -> None:
    sizes = {10**9: scripted.context.max_model_len, 64: 64, 0: scripted.context.max_model_len}
    for given, holds in sizes.items():
        post(scripted, "/api/generate", GO_GENERATE, options={"num_ctx": given, "num_predict": -1})
        request = scripted.context.service.requests[-1]  # type: ignore[attr-defined]
        assert len(request.prompt.ids) + request.params.max_tokens == holds
    assert refused(scripted, "/api/chat", **GO_CHAT | {"options": {"num_ctx": 4}}).startswith("options.num_ctx=4")


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
    requests = scripted.context.service.requests  # type: ignore[attr-defined]
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
    request = scripted.context.service.requests[-1]  # type: ignore[attr-defined]
    text = scripted.context.tokenizer.decode(request.prompt.ids.tolist(), skip_special_tokens=False)
    assert text.count("<|im_start|>user") == text.count("<|im_end|>\n<|im_start|>assistant") == 2
    assert f"{cut['response']}<|im_end|>\n<|im_start|>user" in text


def test_context_and_images(server: Running) -> None:
    assert "context" not in post(server, "/api/generate", GO_GENERATE, images=[DOG])
    first = post(server, "/api/generate", GO_GENERATE)
    seen = post(
        server, "/api/generate", **GO_GENERATE | {"prompt": "What is this?"}, images=[DOG], context=first["context"]
    )
    assert seen["response"]
    image = server.context.tokenizer.special.image
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
    text = scripted.context.service.requests[-1].prompt.text  # type: ignore[attr-defined]
    assert "I look it up." in text
    assert "<parameter=city>\nParis\n</parameter>" in text
    history[1]["tool_calls"] = [{"function": {"name": "weather", "arguments": '{"city": "Paris"}'}}]
    post(scripted, "/api/chat", model="nano", messages=history, tools=[{**GO_TOOL, "type": None}])
    again = scripted.context.service.requests[-1].prompt.text  # type: ignore[attr-defined]
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
