"""What Ollama's clients ask about the model and the server, and errors of that interface."""

from __future__ import annotations

import ollama
import pytest
from server.kit import Running, Script, running
from server.ollama_kit import GO_CHAT, GO_GENERATE, GO_SHOW, lines, post, refused


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
        assert other.context.builder.digest != server.context.builder.digest


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
