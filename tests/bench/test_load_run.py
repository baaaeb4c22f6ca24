"""Whole runs against a server with answers prepared by the test."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from bench.stand_in import Reply, StandIn, answer, chunk, standing_in, stream, whole, words

from pocketvlm.bench.load.plan import Load
from pocketvlm.bench.load.prompts import Sizes
from pocketvlm.bench.load.run import measure
from pocketvlm.errors import AddressError

LEARNING = 2  # requests that come first, to learn what words cost


def run(reply: Reply = answer, **more: Any) -> tuple[list[dict[str, Any]], StandIn]:
    async def both() -> tuple[list[dict[str, Any]], StandIn]:
        async with standing_in(reply) as server:
            return await measure(Load(server.url, **{"num_prompts": 6, **more})), server

    return asyncio.run(both())


def test_a_sweep_sends_what_was_asked_and_counts_what_came() -> None:
    results, server = run(
        max_concurrency=(1, 3), sizes=Sizes(20, 5), num_warmups=1, temperature=0.0, ignore_eos=True,
        extra_body={"top_k": 1},
    )  # fmt: skip
    assert [found["max_concurrency"] for found in results] == [1, 3]
    for found in results:
        assert (found["completed"], found["failed"], found["total_output_tokens"]) == (6, 0, 30)
        assert found["total_input_tokens"] == 6 * 27
        assert found["model_id"] == "stand-in"
        assert len(found["itls"]) == 6
        assert all(len(gaps) == 4 for gaps in found["itls"])
        assert found["generated_texts"] == [" w0 w1 w2 w3 w4"] * 6
    assert server.max_open == 3
    assert results[0]["max_concurrent_requests"] == 1
    assert server.connections == 3
    bodies = server.bodies[LEARNING:]
    assert len(bodies) == 2 * (6 + 1)
    assert len({body["messages"][0]["content"] for body in bodies}) == len(bodies), "prompts that a cache could know"
    assert {words(body) for body in bodies} == {20}
    for body in bodies:
        fields = {name: value for name, value in body.items() if name != "messages"}
        assert fields == {
            "model": "stand-in", "temperature": 0.0, "ignore_eos": True, "top_k": 1, "max_tokens": 5, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip


def test_completions_with_a_rate() -> None:
    (found,), server = run(endpoint="completions", request_rate=500.0, model="other")
    assert (found["completed"], found["request_rate"], found["model_id"]) == (6, 500.0, "other")
    assert all("prompt" in body and "messages" not in body for body in server.bodies)
    assert all(head.startswith("POST /v1/completions ") for head in server.heads)


def test_failures_are_counted_and_the_run_goes_on() -> None:
    def reply(body: dict[str, Any], number: int) -> bytes:
        kind = number - LEARNING
        if kind == 0:
            return whole(429, {"error": {"message": "the queue is full"}})
        if kind == 1:
            return stream(chunk("half"), end=False)
        if kind == 2:
            return stream(chunk("half"), b'data: {"error": {"message": "the engine failed"}}', b"data: [DONE]")
        return answer(body, number)

    (found,), _ = run(reply, max_concurrency=(1,), sizes=Sizes(8, 2))
    assert (found["completed"], found["failed"], found["total_output_tokens"]) == (3, 3, 6)
    assert found["first_errors"] == [
        "status 429: the queue is full",
        "the connection was closed before the answer was whole",
        "in the stream: the engine failed",
    ]
    assert [bool(error) for error in found["errors"]] == [True] * 3 + [False] * 3
    assert found["output_lens"] == [0, 0, 0, 2, 2, 2]


def test_a_server_that_refuses_to_be_asked_for_usage_is_not_asked_again() -> None:
    def reply(body: dict[str, Any], number: int) -> bytes:
        if "stream_options" in body:
            return whole(422, {"detail": "Unsupported fields: {'stream_options'}"})
        return answer(body, number)

    (found,), server = run(reply)
    assert (found["completed"], found["output_tokens_counted_by"]) == (6, "usage")
    assert ["stream_options" in body for body in server.bodies] == [True] + [False] * 8


def test_without_usage_the_usual_cost_is_assumed() -> None:
    (found,), _ = run(lambda body, number: stream(chunk("a"), chunk("b"), chunk(None, "stop"), b"data: [DONE]"))
    assert (found["completed"], found["total_output_tokens"], found["total_input_tokens"]) == (6, 12, 0)
    assert found["output_tokens_counted_by"] == "chunks"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (lambda body, number: whole(401, {"error": {"message": "a key is needed"}}), "status 401: a key is needed"),
        (lambda body, number: stream(chunk("a"), end=False), "is the server running"),
    ],
)
def test_a_server_that_cannot_be_measured_is_one_error(reply: Reply, words: str) -> None:
    with pytest.raises(AddressError, match=words):
        run(reply)


def test_an_address_where_nobody_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for model in (None, "named"):
        with pytest.raises(AddressError, match=rf"cannot connect to 127\.0\.0\.1:{port}: .*is the server running"):
            asyncio.run(measure(Load(f"http://127.0.0.1:{port}/v1", model=model)))
