"""Clients that leave, queues, time that runs out, shutting down: each has an answer, and nothing stays behind."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from server.kit import Running, Script, events, running, until
from server.wire import chat_body, post, wire

from pocketvlm.interfaces.renderers.chat import ChatStream

ENDLESS = {"ignore_eos": True, "max_tokens": 2000}


def slow(server: Running) -> None:
    """The engine takes its time for each step, so that there is something to interrupt."""
    step = server.context.model.engine.step

    def late() -> Any:
        time.sleep(0.005)
        return step()

    server.context.model.engine.step = late  # type: ignore[method-assign]


# --- clients that leave ---


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_request(stream: bool) -> None:
    with running() as server:
        slow(server)
        with wire(server) as connection:
            connection.sendall(post(chat_body(stream=stream, **ENDLESS)))
            until(lambda: server.context.model.engine.sequences)
        until(lambda: not server.context.model.engine.sequences)
        line = until(server.lines)[-1]
        assert line["status"] == 499
        assert line["finish"] == "abort"


def test_a_client_that_leaves_while_its_prompt_is_made() -> None:
    with running() as server:
        began = threading.Event()
        processor = server.context.builder.processor

        def late(*args: Any, **more: Any) -> Any:
            began.set()
            time.sleep(0.3)
            return processor(*args, **more)

        server.context.builder.processor = late  # type: ignore[assignment]
        with wire(server) as connection:
            connection.sendall(post(chat_body(stream=True)))
            assert began.wait(10)
        until(server.lines)
        assert server.lines()[-1]["status"] == 499


def test_a_client_that_does_not_read_holds_nobody_up() -> None:
    with running() as server:
        with wire(server) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(post(chat_body(stream=True, n=4, logprobs=True, top_logprobs=20, **ENDLESS)))
            until(lambda: server.context.model.engine.sequences)
            assert server.chat("hello").status_code == 200
        until(lambda: len(server.lines()) == 2)


# --- queue and times ---


def test_a_full_queue_says_when_to_come_back() -> None:
    with running(max_seqs=2, max_queue=1) as server:
        slow(server)
        with ThreadPoolExecutor(3) as pool:
            busy = [pool.submit(server.chat, "hello", ignore_eos=True, max_tokens=100) for _ in range(3)]
            until(lambda: server.context.admission.inside == 3)
            health = server.client.get("/health").json()
            assert (health["concurrency"], health["max_concurrency"]) == (3, 2)
            refused = server.chat("hello")
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "queue_full"
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert server.chat("hello", n=4).status_code == 400
            assert all(future.result().status_code == 200 for future in busy)
        assert server.chat("hello").status_code == 200
        assert "pocketvlm_refused 1.0" in server.client.get("/metrics").text


def test_waiting_too_long() -> None:
    with running(max_seqs=1, queue_timeout=0.2, loading={"max_seqs": 1}) as server:
        slow(server)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(server.chat, "hello", ignore_eos=True, max_tokens=150)
            until(lambda: server.context.model.engine.sequences)
            late = server.chat("hello")
            assert late.status_code == 503
            assert late.json()["error"]["code"] == "queue_timeout"
            streamed = events(server.chat("hello", stream=True))
            assert streamed[-2]["error"]["code"] == "queue_timeout"
            assert streamed[-1] == "[DONE]"
            assert first.result().status_code == 200


def test_taking_too_long() -> None:
    with running(request_timeout=0.3) as server:
        slow(server)
        assert server.chat("hello", **ENDLESS).status_code == 408
        found = events(server.chat("hello", stream=True, **ENDLESS))
        assert found[1]["choices"]
        assert found[-2]["error"]["type"] == "timeout_error"
        assert found[-1] == "[DONE]"
        body = {"model": "nano", "max_tokens": 2000, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
        script = Script(["word " * 500], pause=0.005)
        script.install(server.context)
        response = server.client.post("/v1/messages", json=body)
        assert "event: error" in response.text
        assert json.loads(response.text.split("data: ")[-1])["error"]["type"] == "timeout_error"
        chat = {"model": "nano", "messages": body["messages"]}
        assert "took longer" in json.loads(server.client.post("/api/chat", json=chat).text.splitlines()[-1])["error"]
        response = server.client.post("/v1/responses", json={"model": "nano", "input": "hello", "stream": True})
        assert json.loads(response.text.split("data: ")[-1])["response"]["status"] == "failed"


def test_preparing_too_long() -> None:
    with running(decode_timeout=0.2, media_workers=1) as server:
        processor = server.context.builder.processor

        def late(*args: Any, **more: Any) -> Any:
            time.sleep(0.5)
            return processor(*args, **more)

        server.context.builder.processor = late  # type: ignore[assignment]
        assert server.chat("hello").status_code == 408
        server.context.builder.processor = processor
        until(lambda: not server.context._free.locked())
        assert server.chat("hello").status_code == 200


def test_silence_is_filled_with_comments() -> None:
    script = Script(["one two"], pause=0.15)
    with running(prepare=script.install, ping=0.03) as server:
        text = server.chat("hello", stream=True).text
        assert text.count(": still at work\n\n") >= 3
        assert text.endswith("data: [DONE]\n\n")
        body = {"model": "nano", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "x"}]}
        assert server.client.post("/v1/messages", json=body).text.count("event: ping") >= 3


def test_a_failure_of_the_engine_reaches_the_client() -> None:
    script = Script(["one two"], end="it broke")
    with running(prepare=script.install) as server:
        whole = server.chat("hello")
        assert whole.status_code == 500
        assert "it broke" in whole.json()["error"]["message"]
        found = events(server.chat("hello", stream=True))
        assert "it broke" in found[-2]["error"]["message"]
        assert found[-1] == "[DONE]"


def test_running_away_is_noticed() -> None:
    text = "I said so. " * 400
    script = Script([text], pause=0.001)
    with running(prepare=script.install) as server:
        choice = server.chat("hello", max_tokens=2000).json()["choices"][0]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "repetition")
        assert len(choice["message"]["content"]) < len(text) / 2
        last = events(server.chat("hello", stream=True))[-2]["choices"][0]
        assert (last["finish_reason"], last["stop_reason"]) == ("length", "repetition")
        assert script.stopped == {0, 1}
    script = Script([text])
    with running(prepare=script.install, runaway_guard=False) as server:
        assert server.chat("hello").json()["choices"][0]["finish_reason"] == "stop"


def test_newlines_are_normalised_when_asked() -> None:
    said = "a\\nb `c\\nd` \\\\n e\\n"
    script = Script([said])
    with running(prepare=script.install) as server:
        plain, made = (
            server.chat("hello", normalize_newlines=choice).json()["choices"][0]["message"]["content"]
            for choice in (False, True)
        )
        assert plain == said
        assert made == "a\nb `c\\nd` \\\\n e\n"
        stream = events(server.chat("hello", normalize_newlines=True, stream=True))
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in stream[:-1]) == made


# --- shutting down ---


def test_running_answers_end_before_the_server_does() -> None:
    with running(drain=20) as server:
        slow(server)
        with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.url) as other:
            assert other.get("/health/ready").status_code == 200
            answer = pool.submit(server.chat, "hello", stream=True, ignore_eos=True, max_tokens=100)
            until(lambda: server.context.model.engine.sequences)
            server.server.should_exit = True
            until(lambda: server.context.draining)
            found = events(answer.result())
            assert found[-1] == "[DONE]"
            assert found[-2]["choices"][0]["finish_reason"] == "length"
        server.thread.join(20)
        assert not server.thread.is_alive()


def test_answers_that_take_too_long_are_ended_with_an_error() -> None:
    with running(drain=0.2) as server:
        slow(server)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.chat, "hello", stream=True, **ENDLESS)
            until(lambda: server.context.model.engine.sequences)
            server.server.should_exit = True
            found = events(answer.result())
        assert found[-2]["error"]["code"] == "shutting_down"
        assert found[-1] == "[DONE]"


def test_new_requests_are_refused_while_it_ends() -> None:
    with running() as server:
        server.context.draining = True
        assert server.client.get("/health/ready").status_code == 503
        assert server.client.get("/health").json()["status"] == "draining"
        refused = server.chat("hello")
        assert refused.status_code == 503
        assert refused.headers["connection"] == "close"


@pytest.mark.parametrize("half_way", [True, False])
def test_a_mistake_of_ours_is_an_answer_and_a_line_with_its_trace(
    half_way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    with running() as server:
        with monkeypatch.context() as patch:
            if half_way:
                patch.setattr(ChatStream, "delta", broken)
            else:
                patch.setattr(server.context, "prompt_for", broken)
            response = server.chat("hello", stream=True)
        error = events(response)[-2]["error"] if half_way else response.json()["error"]
        assert response.status_code == (200 if half_way else 500)
        assert error["code"] == "internal_error"
        line = until(lambda: next((line for line in server.lines() if line.get("event")), None))
        assert "ZeroDivisionError" in line["trace"]
        assert line["id"] in error["message"]
        assert server.chat("hello").status_code == 200
        server.idle()
        server.log.seek(server.log.truncate(0))
