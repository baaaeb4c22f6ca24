"""Ray Serve on a cluster of several nodes: the server's answers, one replica for each image, a node that dies."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from nano_adapters import write_adapter

pytestmark = pytest.mark.scale

EXAMPLES = Path(__file__).parents[2] / "examples"
PLACES = {"resources": {"worker": 1}, "ingress_resources": {"head": 0.1}}
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
URL = f"http://127.0.0.1:{PORT}"
TIMEOUT = 600  # of requests: a machine may be busy


def image(name: str) -> str:
    return "data:image/png;base64," + base64.b64encode((EXAMPLES / name).read_bytes()).decode()


def question(name: str, text: str = "What is this?", **more: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": image(name)}}, {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 12, **more}


@pytest.fixture(scope="module")
def app(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two replicas, one on each node, and two adapters of which a replica holds one at a time."""
    from ray import serve

    from pocketvlm.ray.serve import build_app

    serve.start(proxy_location="HeadOnly", http_options={"port": PORT})
    folder = tmp_path_factory.mktemp("adapters")
    adapters = {name: str(write_adapter(folder / name, seed)) for name, seed in (("one", 1), ("two", 2))}
    places = {"resources": {"worker": 1}, "ingress_resources": {"head": 0.1}}
    serve.run(
        build_app({"model": "nano", "replicas": 2, "num_cpus": 1, "adapters": adapters, "max_adapters": 1, **places})
    )
    cluster.adapters = adapters
    try:
        yield cluster
    finally:
        serve.shutdown()


def test_the_routes_answer_as_the_server_does_and_one_image_stays_on_one_replica(app: Any) -> None:
    import openai

    import pocketvlm

    with pocketvlm.load("nano", threads=1) as model:
        expected = model.ask("What is this?", [EXAMPLES / "penguin.png"], temperature=0, max_tokens=12).text
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none")
    assert [model.id for model in client.models.list()] == ["nano"]
    answer = client.chat.completions.create(model="nano", **question("penguin.png"))
    assert answer.choices[0].message.content == expected
    stream = client.chat.completions.create(model="nano", stream=True, **question("penguin.png"))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == expected
    texts = ("Describe this image.", "Which animal?", "Which colour?", "Is it a cat?")
    assert len({replica(question("penguin.png", text)) for text in texts}) == 1
    others = [{"messages": [{"role": "user", "content": f"Number {n}"}], "max_tokens": 1} for n in range(20)]
    assert len({replica(body) for body in others}) == 2, "conversations without images spread over both"


def replica(body: dict[str, Any]) -> str:
    """The replica that answers a request."""
    response = httpx.post(f"{URL}/v1/chat/completions", json=body, timeout=TIMEOUT)
    assert response.status_code == 200, response.text
    return response.headers["x-replica"]


def test_a_wrong_setting_is_refused_before_anything_starts() -> None:
    from pocketvlm.errors import OptionError
    from pocketvlm.ray.serve import build_app

    with pytest.raises(OptionError, match="max_qeue=3"):
        build_app({"settings": {"max_qeue": 3}})
    with pytest.raises(OptionError, match=r"max.queue"):
        build_app({"settings": {"max_queue": -1}})


def test_wrong_requests_get_the_servers_errors(app: Any) -> None:
    refused = httpx.post(f"{URL}/v1/chat/completions", json={"model": "other", "messages": []}, timeout=TIMEOUT)
    assert refused.status_code in (400, 404)
    assert "error" in refused.json()
    files = httpx.post(f"{URL}/v1/files", files={"file": b"x"}, data={"purpose": "vision"}, timeout=TIMEOUT)
    assert files.status_code == 404
    assert "replicas share no files" in files.json()["error"]["message"]
    broken = httpx.post(f"{URL}/v1/messages", content=b"{", timeout=TIMEOUT)
    assert broken.status_code == 400
    assert broken.json()["type"] == "error"


def test_an_adapter_that_is_not_there_is_named_when_the_application_starts() -> None:
    from pocketvlm.ray.engine import load_model
    from pocketvlm.ray.options import AppOptions

    with pytest.raises(RuntimeError, match="cannot load model='nano': adapter '/no/such': there is no such folder"):
        load_model(AppOptions.of({"adapters": {"one": "/no/such"}}))


def test_requests_that_name_adapters_get_their_answers_though_a_replica_holds_one(app: Any) -> None:
    import pocketvlm

    with pocketvlm.load("nano", threads=1, adapters=app.adapters) as model:
        expected = {
            name: model.ask("Hello", adapter=name, temperature=0, max_tokens=8).text for name in (None, "one", "two")
        }
    assert len(set(expected.values())) == 3
    for name in (None, "one", "two", "one", None, "two"):
        body = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 8}
        response = httpx.post(
            f"{URL}/v1/chat/completions", json=body | ({"model": name} if name else {}), timeout=TIMEOUT
        )
        assert response.status_code == 200, response.text
        assert response.json()["choices"][0]["message"]["content"] == expected[name]


def engines_of(nodes: list[Any]) -> list[int]:
    """Processes of the replicas on nodes."""
    raylets = {each.process.pid for node in nodes for each in node.all_processes["raylet"]}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in raylets and "ServeReplica:default:engine" in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def stream_until_its_node_dies(app: Any) -> list[str]:
    """Events of a stream whose node was removed after the first one."""
    body = question("dog.png", max_tokens=1900, n=4, ignore_eos=True, stream=True)
    engines = engines_of(app.workers)
    assert engines
    said: list[str] = []
    with httpx.stream("POST", f"{URL}/v1/chat/completions", json=body, timeout=TIMEOUT) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if not line.startswith("data: "):
                continue
            said.append(line.removeprefix("data: "))
            if len(said) == 1:
                for each in engines:  # at once, since nano ends an answer before a node is removed
                    os.kill(each, signal.SIGSTOP)
                for node in app.workers:  # whichever has the stream
                    app.remove_node(node, allow_graceful=False)
                for each in engines:
                    os.kill(each, signal.SIGKILL)
                app.workers = [app.add_node(num_cpus=1, resources={"worker": 1})]
    return said


def test_a_node_that_dies_in_a_stream_gives_an_error_event_and_another_request_works(app: Any) -> None:
    for _ in range(5):
        last = stream_until_its_node_dies(app)[-1]
        again = httpx.post(f"{URL}/v1/chat/completions", json=question("dog.png"), timeout=TIMEOUT)
        assert again.status_code == 200
        assert again.json()["choices"][0]["message"]["content"]
        if last != "[DONE]":  # else the whole answer was sent before the replica was stopped
            break
    error = json.loads(last)["error"]
    assert error["code"] == "replica_lost"
    assert "ask again" in error["message"]


def test_a_second_replica_starts_when_prompt_tokens_wait(app: Any) -> None:
    """Last: it replaces the application."""
    from ray import serve

    from pocketvlm.ray.serve import build_app

    app.add_node(num_cpus=1, resources={"worker": 1})
    settings = {"engine_kwargs": {"max_seqs": 1}, "replicas": (1, 2), "target_queued_tokens": 100}
    serve.run(build_app({"model": "nano", "num_cpus": 1, **settings, **PLACES}))
    seen: set[str] = set()
    with ThreadPoolExecutor(24) as pool:
        number = 0
        while len(seen) < 2:
            bodies = [long_question(number + index) for index in range(24)]
            number += 24
            seen.update(pool.map(replica, bodies))
            assert number < 20_000, "no second replica"
    assert len(seen) == 2


def long_question(number: int) -> dict[str, Any]:
    """A prompt of some hundred tokens, and a long answer."""
    text = f"{number} " + "word " * 300
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 60, "ignore_eos": True}
