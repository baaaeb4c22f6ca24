"""Adapters are loaded and unloaded while a server runs: vLLM's bodies, paths, limits, and requests that use them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from nano_adapters import write_adapter
from server.kit import Running, running, until

from pocketvlm.errors import OptionError
from pocketvlm.server.settings import Settings

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of adapters, and beside it one that is none of them."""
    found = tmp_path_factory.mktemp("served") / "adapters"
    write_adapter(found / "first", 1)
    write_adapter(found / "deep" / "second", 2)
    write_adapter(found.parent / "outside", 3)
    (found / "link-in").symlink_to(found / "first")
    (found / "link-out").symlink_to(found.parent / "outside")
    (found / "loop").symlink_to(found / "loop")
    (found / "empty").mkdir()
    (found / "file-out").mkdir()
    (found / "file-out" / "adapter_config.json").symlink_to(found.parent / "outside" / "adapter_config.json")
    (found / "damaged").mkdir()
    (found / "damaged" / "adapter_config.json").write_text("{")
    return found


@pytest.fixture(scope="module")
def open_server(folder: Path) -> Iterator[Running]:
    with running(allow_adapter_loading=True, adapter_dir=str(folder), max_adapters=2) as found:
        yield found


@pytest.fixture
def loading(open_server: Running) -> Iterator[Running]:
    """A server that may load adapters, without any before and after."""
    yield open_server
    open_server.idle()
    for name in list(open_server.context.model.adapters):
        assert unload(open_server, name).status_code == 200


def load(server: Running, name: str, path: str, **fields: Any) -> httpx.Response:
    return server.client.post(LOAD, json={"lora_name": name, "lora_path": path, **fields})


def unload(server: Running, name: str) -> httpx.Response:
    return server.client.post(UNLOAD, json={"lora_name": name})


def names(server: Running) -> list[str]:
    return [each["id"] for each in server.client.get("/v1/models").json()["data"]]


def said(server: Running, **fields: Any) -> str:
    response = server.chat("hello", max_tokens=8, temperature=0, **fields)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def test_the_routes_are_off_unless_they_are_allowed(folder: Path) -> None:
    with running() as closed:
        for path in (LOAD, UNLOAD):
            refused = closed.client.post(path, json={"lora_name": "first", "lora_path": str(folder / "first")})
            assert refused.status_code == 403
            assert "--allow-adapter-loading" in refused.json()["error"]["message"]
    with pytest.raises(OptionError, match="--allow-adapter-loading: name the directory"):
        Settings(allow_adapter_loading=True)
    with pytest.raises(OptionError, match=r"--adapter-dir=.*: add --allow-adapter-loading"):
        Settings(adapter_dir=str(folder))
    with pytest.raises(OptionError, match="no such directory"):
        Settings(adapter_dir=str(folder / "nothing"), allow_adapter_loading=True)


def test_vllms_bodies_load_and_unload(loading: Running, folder: Path) -> None:
    plain = said(loading)
    body = {"lora_name": "first", "lora_path": str(folder / "first"), "load_inplace": False, "is_3d_lora_weight": False}
    loaded = loading.client.post(LOAD, json=body)
    assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'first' added successfully.")
    assert "x-ignored-fields" not in loaded.headers
    assert names(loading) == ["nano", "first"]
    assert loading.client.get("/v1/models/first").json()["root"] == str(folder / "first")
    assert said(loading, model="first") != plain
    removed = loading.client.post(UNLOAD, json={"lora_name": "first", "lora_int_id": 1})
    assert (removed.status_code, removed.text) == (200, "Success: LoRA adapter 'first' removed successfully.")
    assert removed.headers["x-ignored-fields"] == "lora_int_id"
    assert names(loading) == ["nano"]
    assert loading.chat("hello", model="first").status_code == 404
    again = unload(loading, "first")
    assert again.status_code == 404
    assert "no such adapter is loaded: loaded are none" in again.json()["error"]["message"]


@pytest.mark.parametrize("path", ["first", "./first", "deep/second", "deep/../first", "link-in"])
def test_paths_may_be_relative_to_the_directory(loading: Running, folder: Path, path: str) -> None:
    assert load(loading, "x", path).status_code == 200
    assert loading.client.get("/v1/models/x").json()["root"] == str((folder / path).resolve())


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("../outside", 403, "from below --adapter-dir only"),
        ("{outside}", 403, "from below --adapter-dir only"),
        ("link-out", 403, "from below --adapter-dir only"),
        (".", 403, "from below --adapter-dir only"),
        ("/etc", 403, "from below --adapter-dir only"),
        ("~", 404, "no such directory below --adapter-dir"),
        ("file-out", 403, "adapter_config.json is a link to outside --adapter-dir"),
        ("nothing", 404, "no such directory below --adapter-dir"),
        ("org/name", 404, "no such directory below --adapter-dir"),
        ("first/adapter_config.json", 404, "no such directory below --adapter-dir"),
        ("loop", 400, "cannot be read"),
        ("x\0y", 400, "cannot be read"),
        ("x" * 4000, 400, "cannot be read"),
        ("empty", 400, "adapter_config.json"),
        ("deep", 400, "the adapters are in its folders second"),
        ("damaged", 400, "adapter_config.json"),
    ],
)
def test_other_paths_are_refused_in_plain_words(
    loading: Running, folder: Path, path: str, status: int, message: str
) -> None:
    path = path.format(outside=folder.parent / "outside")
    refused = load(loading, "x", path)
    assert refused.status_code == status, refused.text
    error = refused.json()["error"]
    assert message in error["message"]
    assert error["param"] == "lora_path"
    # Where the directory is on the server is nothing that a client has to know.
    assert str(folder.parent) not in error["message"] or str(folder.parent) in path
    assert names(loading) == ["nano"]


def test_names_and_bodies_that_are_wrong(loading: Running) -> None:
    assert load(loading, "first", "first").status_code == 200
    twice = load(loading, "first", "deep/second")
    assert twice.status_code == 400
    assert "load_inplace: true" in twice.json()["error"]["message"]
    for name, message in {
        "nano": "lora_name='nano' has the name of the model",
        "nano:latest": "has the name of the model",
        "first": "an adapter of this name is loaded",
        "  ": "lora_name='  ': give a name of 1 to 200 printable characters",
        "a\nb": "lora_name='a\\\\nb': give a name",
        "x" * 201: "give a name of 1 to 200 printable characters",
    }.items():
        taken = load(loading, name, "first").json()["error"]
        assert taken["param"] == "lora_name"
        assert taken["code"] in ("invalid_adapter_name", "adapter_loaded")
        assert message.replace("\\\\", "\\") in taken["message"]
    assert "did you mean 'first'?" in unload(loading, "frist").json()["error"]["message"]
    for body in ({}, {"lora_name": "x"}, {"lora_name": "", "lora_path": "first"}, {"lora_name": "x", "lora_path": ""},
                 {"lora_name": "x", "lora_path": "first", "is_3d_lora_weight": True},
                 {"lora_name": "x", "lora_path": "first", "load_inplace": "yes"},
                 {"lora_name": "a\nb", "lora_path": "first"},
                 {"lora_name": "x" * 300, "lora_path": "first"}):  # fmt: skip
        refused = loading.client.post(LOAD, json=body)
        assert refused.status_code == 400, body
    assert loading.client.post(UNLOAD, json={}).status_code == 400
    assert load(loading, "second", "deep/second").status_code == 200
    full = load(loading, "third", "first")
    assert full.status_code == 429
    assert "--max-adapters" in full.json()["error"]["message"]
    assert names(loading) == ["nano", "first", "second"]
    assert load(loading, "second", "first", load_inplace=True).status_code == 200


def test_fields_that_have_no_effect_are_named(loading: Running) -> None:
    loaded = load(loading, "x", "first", never_heard_of=1, is_3d_lora_weight=None)
    assert loaded.status_code == 200
    assert loaded.headers["x-ignored-fields"] == "never_heard_of"
    assert loading.line(loaded.headers["x-request-id"])["adapter"] == "x"
    refused = load(loading, "x", "first", load_inplace=True, is_3d_lora_weight=True)
    assert refused.status_code == 400
    assert "is_3d_lora_weight: this field is not supported" in refused.json()["error"]["message"]


def test_load_inplace_replaces_an_adapter_or_changes_nothing(loading: Running) -> None:
    assert load(loading, "x", "first", load_inplace=True).status_code == 200
    first = said(loading, model="x")
    assert load(loading, "x", "empty", load_inplace=True).status_code == 400
    assert said(loading, model="x") == first
    assert load(loading, "x", "deep/second", load_inplace=True).status_code == 200
    second = said(loading, model="x")
    assert second != first
    assert load(loading, "x", "first", load_inplace=True).status_code == 200
    assert said(loading, model="x") == first


@contextmanager
def held(server: Running) -> Iterator[None]:
    """A block in which the engine does not step; orders wait in its inbox."""
    stopped, release = threading.Event(), threading.Event()

    def wait() -> None:
        stopped.set()
        release.wait(60)

    thread = threading.Thread(target=server.context.model.driver.call, args=(wait,))
    thread.start()
    assert stopped.wait(60)
    try:
        yield
    finally:
        release.set()
        thread.join()


@pytest.mark.parametrize("change", ["unload", "replace"])
def test_requests_end_with_the_adapter_that_they_began_with(loading: Running, change: str) -> None:
    assert load(loading, "x", "first").status_code == 200
    expected = said(loading, model="x")
    inbox = loading.context.model.driver._inbox
    with ThreadPoolExecutor(2) as pool:
        with held(loading):
            body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0, "model": "x"}
            asked = pool.submit(loading.client.post, "/v1/chat/completions", json=body)
            until(lambda: len(inbox) == 1)
            if change == "unload":
                changed = pool.submit(unload, loading, "x")
            else:
                changed = pool.submit(load, loading, "x", "deep/second", load_inplace=True)
            until(lambda: len(inbox) == 2)
        assert changed.result().status_code == 200
        answer = asked.result().json()
    assert answer["choices"][0]["message"]["content"] == expected
    if change == "unload":
        refused = loading.chat("hello", model="x")
        assert refused.status_code == 404
        assert "model 'x' not found" in refused.json()["error"]["message"]
    else:
        assert said(loading, model="x") != expected


def test_a_request_whose_adapter_goes_while_it_is_prepared_is_refused(loading: Running) -> None:
    assert load(loading, "x", "first").status_code == 200
    context = loading.context
    original = context.builder.prompt

    def prompt(*arguments: Any) -> Any:
        made = original(*arguments)
        context.model.remove_adapter("x")
        return made

    context.builder.prompt = prompt  # type: ignore[method-assign]
    try:
        refused = loading.chat("hello", model="x")
    finally:
        context.builder.prompt = original  # type: ignore[method-assign]
    assert refused.status_code == 404
    assert "adapter 'x' not found" in refused.json()["error"]["message"]


def test_a_new_adapter_of_an_old_name_does_not_get_its_state(loading: Running) -> None:
    """Prefixes are cached by an adapter's values, not by its name."""
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hello!"}]
    body = {"messages": [*talk, {"role": "user", "content": "Who are you?"}], "max_tokens": 8, "temperature": 0}

    def answer(name: str) -> str:
        found = loading.client.post("/v1/chat/completions", json={**body, "model": name}).json()
        return str(found["choices"][0]["message"]["content"])

    assert load(loading, "y", "deep/second").status_code == 200
    expected = answer("y")
    assert load(loading, "x", "first").status_code == 200
    assert answer("x") != expected
    assert unload(loading, "x").status_code == 200
    assert load(loading, "x", "deep/second").status_code == 200
    assert answer("x") == expected
