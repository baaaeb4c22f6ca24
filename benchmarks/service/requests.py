"""Sends the requests of a row to a server and returns seconds and token counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pocketvlm.bench.load.http import Client, Connection
from pocketvlm.bench.load.outcomes import Outcome, events, read
from pocketvlm.bench.load.prompts import Sizes
from pocketvlm.bench.load.run import Sent, send_all
from service.servers import ROUTE, Server

QUESTION, ANSWER = 12, 24  # tokens
THOUGHT = 2.0  # seconds that a person reads and types


class FailedError(Exception):
    """A request that a server did not answer."""


def good(outcomes: list[Outcome]) -> list[Outcome]:
    """The same; raises FailedError where one failed."""
    for outcome in outcomes:
        if not outcome.ok:
            raise FailedError(outcome.error)
    return outcomes


async def together(server: Server, count: int, sizes: Sizes) -> Sent:
    """So many requests at the same time. Raises FailedError."""
    client = server.client()
    try:
        made = [client.request("POST", ROUTE, server.prompts.asked(sizes, server.cost).encode()) for _ in range(count)]
        sent = await send_all(client, made)
    finally:
        client.close()
    good(sent.outcomes)
    return sent


async def throughput(server: Server, clients: int, input_len: int, output_len: int) -> float:
    """Output tokens a second of all clients, each with one request: from the first to the last byte."""
    sent = await together(server, clients, Sizes(input_len, output_len))
    return sum(outcome.output_tokens for outcome in sent.outcomes) / sent.seconds


async def first_token(server: Server, body: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Seconds to the end of an answer of one token, and the server's own timings where it states them."""
    client = server.client()
    try:
        received = await client.ask(server.request({**body, "max_tokens": 1}, client))
    finally:
        client.close()
    outcome = good([read(received)])[0]
    timings: dict[str, Any] = {}
    for _, data in events(received):
        if data != b"[DONE]":
            timings = json.loads(data).get("timings") or timings
    return outcome.latency, timings


async def image_question(server: Server, side: int) -> dict[str, Any]:
    """A request about a new image."""
    return server.prompts.body(text(server, QUESTION), 1, [server.prompts.image(side, side)])


def text(server: Server, tokens: int) -> str:
    """Words that are so many tokens for this server: vocabularies differ."""
    return server.prompts.words(server.cost.words(tokens))


async def turns(server: Server, side: int) -> tuple[float, float, dict[str, Any]]:
    """Seconds to the first token of a question about a new image, and of the next about the same.

    After them the stages of the second answer, if the server reports them. A pause before each question stands for a
    person who reads and types.
    """
    body = await image_question(server, side)
    await asyncio.sleep(THOUGHT)
    first, _ = await first_token(server, body)
    answer = {"role": "assistant", "content": text(server, ANSWER)}
    more = [answer, {"role": "user", "content": text(server, QUESTION)}]
    await asyncio.sleep(THOUGHT)
    second, timings = await first_token(server, {**body, "messages": [*body["messages"], *more]})
    return first, second, timings


@asynccontextmanager
async def images_in_flight(server: Server, count: int, side: int, answer: int) -> AsyncIterator[list[Outcome]]:
    """Keeps `count` requests about new images in flight inside the block; yields the list of ended requests."""
    ended: list[Outcome] = []
    client = server.client()

    async def ask_on() -> None:
        while True:
            body = {**await image_question(server, side), "max_tokens": answer}
            ended.append(read(await client.ask(server.request(body, client))))

    tasks = [asyncio.create_task(ask_on()) for _ in range(count)]
    try:
        await asyncio.sleep(1.0)
        yield ended
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        client.close()


async def images_a_second(server: Server, clients: int, side: int, answer: int, seconds: float) -> float:
    """Answers a second about new images: each client asks again when it has its answer, until `seconds` are over."""
    client, ended = server.client(), []
    began = time.perf_counter()

    async def ask_on() -> None:
        while time.perf_counter() - began < seconds:
            body = {**await image_question(server, side), "max_tokens": answer}
            ended.append(read(await client.ask(server.request(body, client))))

    try:
        await asyncio.gather(*(ask_on() for _ in range(clients)))
        spent = time.perf_counter() - began
    finally:
        client.close()
    return len(good(ended)) / spent


async def short_texts(server: Server, count: int, input_len: int) -> list[float]:
    """Seconds to the first token of short texts, one after the other, with irregular pauses."""
    client = server.client()
    found = []
    try:
        for number in range(count):
            await asyncio.sleep(0.05 + 0.037 * (number % 7))
            body = server.prompts.asked(Sizes(input_len, 1), server.cost)
            found.append(good([read(await client.ask(client.request("POST", ROUTE, body.encode())))])[0].latency)
    finally:
        client.close()
    return found


def quiet_per_token(server: Server, bodies: list[dict[str, Any]]) -> float:
    """Mean seconds a token after the first, by the server's own timings, for a client that takes little processor time.

    The client reads its connections four times a second; until then the system buffers what the server sends.
    """
    client = server.client()
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in bodies]
    answers = [b""] * len(bodies)
    for connection, body in zip(sockets, bodies, strict=True):
        connection.sendall(server.request(body, client))
        connection.setblocking(False)
    while not all(answer.endswith(b"0\r\n\r\n") for answer in answers):
        time.sleep(0.25)
        for number, connection in enumerate(sockets):
            with contextlib.suppress(BlockingIOError):
                answers[number] += connection.recv(1 << 20)
    spent = []
    for connection, answer in zip(sockets, answers, strict=True):
        connection.close()
        last = [line for line in answer.split(b"\n") if line.startswith(b"data: {")][-1]
        found = json.loads(last.removeprefix(b"data: "))
        if "usage" not in found:
            raise FailedError(last.decode())
        timings, tokens = found["timings"], found["usage"]["completion_tokens"]
        spent.append((timings["total"] - timings["ttft"]) / (tokens - 1))
    return sum(spent) / len(spent)


@asynccontextmanager
async def idle_connections(server: Server, count: int) -> AsyncIterator[int]:
    """Opens `count` connections, uses each once and leaves them idle inside the block; yields their number."""
    client: Client = server.client()
    health = client.request("GET", "/models")
    idle: list[Connection] = []
    for _ in range(count):
        connection = await client.connect()
        good_status((await connection.ask(health)).status)
        idle.append(connection)
    try:
        yield len(idle)
    finally:
        left = sum(connection.reusable for connection in idle)
        for connection in idle:
            connection.close()
        await asyncio.sleep(0.2)
    if left != count:
        raise FailedError(f"only {left} of {count} idle connections were still open at the end")


def good_status(status: int) -> None:
    """Raises FailedError unless it is 200."""
    if status != 200:
        raise FailedError(f"status {status}")


def percentile(values: list[float], percent: int) -> float:
    """By linear interpolation between the nearest two."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]
