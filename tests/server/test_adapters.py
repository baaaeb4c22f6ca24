"""Adapters of a server: chosen by name in every interface, beside the model in one batch, loaded and unloaded."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from nano_adapters import write_adapter
from server.kit import Running, Script, events, image, running, until

import pocketvlm
from pocketvlm.engine.driver import Ticket
from pocketvlm.engine.request import Request, TokenEvent
from pocketvlm.errors import OptionError
from pocketvlm.interfaces.responder import Responder

USER = [{"role": "user", "content": "hello"}]
SEEN = [{"role": "user", "content": [image("dog.png"), {"type": "text", "text": "What is this?"}]}]
NAMES = (None, "first", "second")
# A body of each interface, and where its answer has the text.
INTERFACES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER, "max_tokens": 8, "temperature": 0},
    "/v1/responses": {"input": "hello", "max_output_tokens": 8, "temperature": 0},
    "/v1/messages": {"messages": USER, "max_tokens": 8, "temperature": 0},
    "/api/chat": {"messages": USER, "stream": False, "options": {"num_predict": 8, "temperature": 0}},
    "/api/generate": {"prompt": "hello", "stream": False, "options": {"num_predict": 8, "temperature": 0}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("adapters")
    write_adapter(found / "first", 1)
    write_adapter(found / "second", 2, options={"max_slice_nums": 1, "downsample_mode": "4x"})
    return found


@pytest.fixture(scope="module")
def texts(folder: Path) -> dict[Any, str]:
    """What the model and each adapter answer alone, without a server."""
    with pocketvlm.load("nano", threads=1, adapters=[folder / "first", folder / "second"]) as model:
        found = {name: model.chat(USER, max_tokens=8, temperature=0, adapter=name).text for name in NAMES}
    assert len(set(found.values())) == 3
    return found


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    with running(loading={"adapters": {"first": folder / "first", "second": folder / "second"}}) as found:
        yield found


def text_of(path: str, body: dict[str, Any]) -> str:
    """The text of a whole answer of any interface."""
    if path == "/v1/chat/completions":
        return str(body["choices"][0]["message"]["content"])
    if path == "/v1/responses":
        return str(body["output"][-1]["content"][0]["text"])
    if path == "/v1/messages":
        return str(body["content"][-1]["text"])
    return str(body["message"]["content"] if path == "/api/chat" else body["response"])


@pytest.mark.parametrize("path", INTERFACES)
def test_every_interface_chooses_an_adapter_by_model_or_by_its_own_field(
    server: Running, texts: dict[Any, str], path: str
) -> None:
    for chosen, name in (
        ({}, None),
        ({"model": "nano"}, None),
        ({"model": "first"}, "first"),
        ({"model": "nano", "adapter": "second"}, "second"),
        ({"adapter": "second"}, "second"),
        ({"model": "second", "adapter": "second"}, "second"),
    ):
        response = server.client.post(path, json={**INTERFACES[path], **chosen})
        assert response.status_code == 200, response.text
        assert text_of(path, response.json()).strip() == texts[name].strip(), chosen
        assert response.json()["model"] == (name or "nano")
        assert "x-ignored-fields" not in response.headers
        assert server.line(response.headers["x-request-id"]).get("adapter") == name


def test_completions_and_tagged_names(server: Running) -> None:
    body = {"prompt": "hello", "max_tokens": 6, "temperature": 0}
    plain, first = (
        server.client.post("/v1/completions", json={**body, "model": name}).json()["choices"][0]["text"]
        for name in ("nano", "first")
    )
    assert plain != first
    tagged = server.client.post("/v1/completions", json={**body, "model": "first:latest"}).json()
    assert (tagged["choices"][0]["text"], tagged["model"]) == (first, "first:latest")


def test_answers_in_one_batch_are_those_of_each_alone(server: Running, texts: dict[Any, str]) -> None:
    def ask(number: int) -> str:
        name = NAMES[number % 3]
        body = {"messages": USER, "max_tokens": 8, "temperature": 0, "model": name or "nano"}
        return str(server.client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == [texts[NAMES[number % 3]] for number in range(12)]


def test_conversations_of_one_prompt_do_not_share_their_state(server: Running) -> None:
    talk = [*SEEN, {"role": "assistant", "content": "A dog."}, {"role": "user", "content": "Which colour is it?"}]

    def answer(name: str) -> dict[str, Any]:
        # One view in 16x for all: the second adapter's own options would make another prompt.
        options = {"downsample_mode": "16x", "max_slice_nums": 1}
        body = {"messages": talk, "model": name, "max_tokens": 6, "temperature": 0, "mm_processor_kwargs": options}
        found: dict[str, Any] = server.client.post("/v1/chat/completions", json=body).json()
        return found

    fresh, again = ([answer(name) for name in ("nano", "first", "second")] for _ in range(2))
    cached = [each["usage"]["prompt_tokens_details"]["cached_tokens"] for each in (*fresh, *again)]
    assert cached[:3] == [0, 0, 0]
    assert min(cached[3:]) > 0
    for one, other in zip(fresh, again, strict=True):
        assert one["choices"][0]["message"] == other["choices"][0]["message"]
    assert len({each["choices"][0]["message"]["content"] for each in fresh}) == 3
    assert len({each["system_fingerprint"] for each in (*fresh, *again)}) == 3


@pytest.mark.parametrize("path", [*INTERFACES, "/v1/completions", "/tokenize", "/v1/messages/count_tokens"])
def test_unknown_names_are_refused_as_unknown_models_are(server: Running, path: str) -> None:
    body = {**INTERFACES.get(path, {"prompt": "hello"}), "model": "third"}
    if path == "/v1/messages/count_tokens":
        body = {"messages": USER, "model": "third"}
    refused = server.client.post(path, json=body)
    assert refused.status_code == 404
    assert "model 'third' not found: it is not served here, use nano, first, second" in refused.text
    refused = server.client.post(path, json={**body, "model": None, "adapter": "nano"})
    assert refused.status_code == 404
    assert "adapter 'nano' not found: it is not served here, use first, second" in refused.text
    refused = server.client.post(path, json={**body, "model": "first", "adapter": "second"})
    assert refused.status_code == 400
    assert "are two adapters: give one of them" in refused.text


def test_an_adapters_options_are_defaults_under_those_of_requests(server: Running) -> None:
    def seen(name: str, part: dict[str, Any] | None = None, **fields: Any) -> int:
        content = [image("unicorn_large.jpg", **(part or {})), {"type": "text", "text": "What is this?"}]
        body = {"messages": [{"role": "user", "content": content}], "model": name, **fields}
        found: dict[str, Any] = server.client.post("/tokenize", json=body).json()
        return int(found["visual_tokens"])

    plain, whole = seen("nano"), seen("second")
    assert seen("first") == plain
    assert whole == seen("nano", mm_processor_kwargs={"max_slice_nums": 1, "downsample_mode": "4x"})
    assert whole != plain
    given = {"max_slice_nums": 1, "downsample_mode": "16x"}
    assert seen("second", mm_processor_kwargs=given) == seen("nano", mm_processor_kwargs=given)
    assert seen("second", mm_processor_kwargs={"max_slice_nums": None, "downsample_mode": None}) == whole
    assert seen("second", part=given) == seen("nano", part=given)

    url = image("unicorn_large.jpg")["image_url"]["url"].partition(",")[2]
    source = {"type": "base64", "media_type": "image/jpeg", "data": url}
    message = {"role": "user", "content": [{"type": "image", "source": source}]}
    counted = {
        name: server.client.post("/v1/messages/count_tokens", json={"messages": [message], "model": name}).json()
        for name in ("nano", "first", "second")
    }
    assert counted["nano"] == counted["first"] != counted["second"]
    item = {"role": "user", "content": [{"type": "input_image", "image_url": f"data:image/jpeg;base64,{url}"}]}
    inputs = [
        server.client.post("/v1/responses/input_tokens", json={"input": [item], "model": name}).json()["input_tokens"]
        for name in ("nano", "second")
    ]
    assert inputs == [counted["nano"]["input_tokens"], counted["second"]["input_tokens"]]


def test_lists_of_models_have_the_adapters(server: Running, folder: Path) -> None:
    found = server.client.get("/v1/models").json()["data"]
    assert [(each["id"], each["parent"]) for each in found] == [("nano", None), ("first", "nano"), ("second", "nano")]
    assert [each["root"] for each in found] == ["nano", str(folder / "first"), str(folder / "second")]
    assert server.client.get("/v1/models/second").json() == found[2]
    assert server.client.get("/v1/models/third").status_code == 404
    claude = server.client.get("/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
    assert [each["id"] for each in claude["data"]] == ["nano", "first", "second"]
    assert (claude["first_id"], claude["last_id"]) == ("nano", "second")
    for path in ("/api/tags", "/api/ps"):
        listed = server.client.get(path).json()["models"]
        assert [each["name"] for each in listed] == ["nano:latest", "first:latest", "second:latest"]
        assert [each["details"]["parent_model"] for each in listed] == ["", "nano", "nano"]
        assert len({each["digest"] for each in listed}) == 3
    shown = server.client.post("/api/show", json={"model": "first:latest"}).json()
    assert f"FROM nano\nADAPTER {folder / 'first'}\n" in shown["modelfile"]
    assert shown["details"]["parent_model"] == "nano"


def test_the_client_of_openai_asks_an_adapter(server: Running, texts: dict[Any, str]) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["nano", "first", "second"]
        ask: Any = client.chat.completions.create
        answer = ask(model="first", messages=USER, max_tokens=8, temperature=0)
        assert (answer.choices[0].message.content, answer.model) == (texts["first"], "first")
        more = {"stream": True, "extra_body": {"adapter": "second"}}
        stream = ask(model="nano", messages=USER, max_tokens=8, temperature=0, **more)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == texts["second"]
        with pytest.raises(openai.NotFoundError, match="third"):
            ask(model="third", messages=USER)


def test_fields_of_other_servers_name_the_way(server: Running) -> None:
    for field in ({"lora_path": "first"}, {"lora": [{"id": 0, "scale": 1.0}]}):
        refused = server.chat("hello", **field)
        assert refused.status_code == 400
        assert "give the name of an adapter as model or adapter" in refused.text
    assert server.chat("hello", lora=[], max_tokens=2).status_code == 200


def test_a_responder_chooses_adapters_too(folder: Path, texts: dict[Any, str]) -> None:
    with pocketvlm.load("nano", threads=1, adapters=[folder / "first", folder / "second"]) as model:
        responder = Responder(model)
        for path, body in INTERFACES.items():
            answer = responder.answer(path, {**body, "model": "first"})
            assert text_of(path, answer.body).strip() == texts["first"].strip()
        streamed = b"".join(responder.stream("/v1/completions", {"prompt": "x", "max_tokens": 2, "adapter": "second"}))
        assert b'"model":"second"' in streamed.replace(b" ", b"")
        assert responder.answer("/v1/messages", {**INTERFACES["/v1/messages"], "model": "third"}).status == 404
        with pytest.raises(OptionError, match="adapter 'second' has the name of the model"):
            Responder(model, names=["second"])
        responder.close()


class Held(Script):
    """Says one token to each request and waits with the rest; every second request is not begun."""

    def __init__(self) -> None:
        super().__init__(["one two three"])
        self.release = threading.Event()

    def _speak(self, ticket: Ticket, ids: list[int], request: Request, deliver: Callable[[TokenEvent], None]) -> None:
        deliver(TokenEvent(ticket.number, ids[0], None))
        self.release.wait(60)
        super()._speak(ticket, ids[1:], request, deliver)

    def begun(self, ticket: Ticket) -> bool:
        return ticket.number % 2 == 0


def test_metrics_count_the_sequences_of_each_adapter(folder: Path) -> None:
    held = Held()
    adapters = {"first": folder / "first", "second": folder / "second"}
    with running(loading={"adapters": adapters}, prepare=held.install) as server, ThreadPoolExecutor(3) as pool:
        none = {f'adapter="{name}",state="{state}"': 0 for name in adapters for state in ("running", "waiting")}
        assert counted(server) == none
        asked = [pool.submit(server.chat, "hello", model=name) for name in ("first", "first", "nano")]
        until(lambda: len(held.requests) == 3)
        found = counted(server)
        held.release.set()
        assert all(each.result().status_code == 200 for each in asked)
        numbers = [number for number, request in enumerate(held.requests) if request.adapter == "first"]
        begun = sum(number % 2 == 0 for number in numbers)
        assert found == {
            **none,
            'adapter="first",state="running"': begun,
            'adapter="first",state="waiting"': len(numbers) - begun,
        }
        server.idle()
        assert counted(server) == none


def counted(server: Running) -> dict[str, float]:
    """The gauge of adapters by its labels."""
    lines = re.findall(r"pocketvlm_adapter_sequences{(.*)} (.*)", server.client.get("/metrics").text)
    return {labels: float(value) for labels, value in lines}


def test_streams_name_the_adapter(server: Running) -> None:
    body = {"messages": USER, "model": "second", "stream": True, "max_tokens": 3}
    chunks = events(server.client.post("/v1/chat/completions", json=body))
    assert {chunk["model"] for chunk in chunks if chunk != "[DONE]"} == {"second"}
