"""Measures the rows of the comparison in turns."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pocketvlm.bench.load.prompts import Sizes
from pocketvlm.options.load import DEFAULT_PREFILL_CHUNK
from service import requests
from service.bare import Bare
from service.requests import FailedError, percentile
from service.servers import Server

CLIENTS = (1, 4, 8, 16)
INPUT = 32
SIDE = 448  # pixels of an image: one view
IN_FLIGHT = 4
IMAGE_CLIENTS, IMAGE_ANSWER = 8, 16  # answers in tokens
IDLE = 500


@dataclass
class Figures:
    """The results of a row: by column, one value for each turn. code: the commit that was measured."""

    name: str
    unit: str
    values: dict[str, list[float]] = field(default_factory=dict)
    code: str = ""

    def add(self, column: str, value: float) -> None:
        """One more turn."""
        self.values.setdefault(column, []).append(value)

    def median(self, column: str) -> float:
        """Of all turns."""
        return statistics.median(self.values[column])


@dataclass
class Bench:
    """The servers and settings of a run. servers: ours first. window: seconds in which clients ask about images."""

    servers: Sequence[Server]
    bare: Callable[[], Bare]
    runs: int
    complain: Callable[[str], None]
    output: int = 128
    samples: int = 40
    window: float = 20.0

    @property
    def ours(self) -> Server:
        """Our server."""
        return self.servers[0]

    def alone(self, server: Server, work: Callable[[], Any]) -> Any:
        """Run `work` while all other servers are stopped."""
        server.resume()
        try:
            return asyncio.run(work())
        finally:
            server.pause()


def throughput(bench: Bench, clients: int) -> Figures:
    """Output tokens a second of so many clients; ratios are of neighbours in time."""
    figures = Figures(f"throughput, {clients} client{'s' if clients > 1 else ''}", "tok/s")
    _in_turns(
        bench,
        figures,
        lambda server: requests.throughput(server, clients, INPUT, min(server.output, bench.output)),
    )
    return figures


def _in_turns(bench: Bench, figures: Figures, rate: Callable[[Server], Any]) -> None:
    """Rates of every server, one after the other, and ratios of neighbours; a peer that fails is left out."""
    left = list(bench.servers)
    for turn in range(bench.runs + 1):  # the first does not count
        rates: dict[str, float] = {}
        for server in list(left):
            try:
                rates[server.name] = bench.alone(server, partial(rate, server))
            except FailedError as error:
                if server is bench.ours:
                    raise
                bench.complain(f"{figures.name}, {server.name}: left out, it failed: {error}")
                left.remove(server)
        for name, value in rates.items() if turn else ():
            figures.add(name, value)
            if name != bench.ours.name:
                figures.add(f"ratio to {name}", rates[bench.ours.name] / value)


def images(bench: Bench) -> Figures:
    """Answers a second about new images, with many clients."""
    figures = Figures(f"images a second, {IMAGE_CLIENTS} clients", "images/s")
    _in_turns(
        bench, figures, lambda server: requests.images_a_second(server, IMAGE_CLIENTS, SIDE, IMAGE_ANSWER, bench.window)
    )
    return figures


def text_with_images(bench: Bench) -> Figures:
    """First token of short texts while images are in flight, compared with one chunk and one view alone."""
    figures = Figures("first token of short text, 4 images in flight", "ms")
    server = bench.ours

    async def run() -> list[float]:
        async with requests.images_in_flight(server, IN_FLIGHT, SIDE, 16) as ended:
            found = await requests.short_texts(server, bench.samples, INPUT)
            requests.good(list(ended))
        return found

    async def alone() -> tuple[float, float]:
        _, text = await requests.first_token(
            server, server.prompts.asked(Sizes(DEFAULT_PREFILL_CHUNK - 16, 1), server.cost).body
        )
        _, image = await requests.first_token(server, await requests.image_question(server, SIDE))
        short = await requests.short_texts(server, 5, INPUT)
        figures.add("idle, median", statistics.median(short) * 1e3)
        return text["prefill"], image["vision"]

    for turn in range(bench.runs + 1):
        chunk, view = bench.alone(server, alone)
        figures.add("one chunk and one view", (chunk + view) * 1e3)
        if not turn:
            figures.values.clear()
            continue
        found = bench.alone(server, run)
        figures.add("p95", percentile(found, 95) * 1e3)
        figures.add("median", statistics.median(found) * 1e3)
    return figures


def second_question(bench: Bench) -> Figures:
    """First token of the second question about an image, as a part of the first's."""
    figures = Figures("second turn about an image", "ms")
    for turn in range(bench.runs + 1):
        for server in bench.servers:
            if server.output < bench.ours.output:
                continue  # without a prefix cache there is nothing to see
            try:
                first, second, timings = bench.alone(server, lambda s=server: requests.turns(s, SIDE))
            except FailedError as error:
                if server is bench.ours:
                    raise
                if not turn:
                    bench.complain(f"{figures.name}, {server.name}: left out, it failed: {error}")
                continue
            if turn:
                figures.add(f"{server.name}, first turn", first * 1e3)
                figures.add(f"{server.name}, second turn", second * 1e3)
                figures.add(f"{server.name}, second over first, %", 100 * second / first)
                for stage in ("media", "preprocess", "vision", "prefill") if server is bench.ours else ():
                    figures.add(f"of the second: {stage}", timings[stage] * 1e3)
    return figures


def overhead(bench: Bench) -> Figures:
    """Time a token over HTTP, compared with the same prompts straight through the engine, at 1 and 8 sequences.

    HTTP is measured twice: with a client that takes little processor time, which shows the server alone, and with a
    client that reads each token at once, on the same cores. Turns are short and many, because neighbours differ least.
    """
    figures = Figures("server over bare engine", "ms")
    server, bare = bench.ours, bench.bare()
    try:
        for sequences in (1, 8):
            for turn in range(4 * bench.runs + 1):
                texts = [server.prompts.words(server.cost.words(INPUT)) for _ in range(sequences)]
                ways: dict[str, Callable[[], float]] = {
                    "engine": partial(bare.per_token, texts, bench.output // 2),
                    "server": partial(_quietly, bench, texts),
                    "server and client": partial(_over_http, bench, texts),
                }
                first = turn % len(ways)
                order = [*ways][first:] + [*ways][:first]
                spent = {way: ways[way]() for way in order}
                for way in ways if turn else ():
                    figures.add(f"{way}, {sequences} at a time", spent[way] * 1e3)
                    if way != "engine":
                        share = 100 * (spent[way] / spent["engine"] - 1)
                        figures.add(f"{way} over engine, {sequences} at a time, %", share)
    finally:
        bare.close()
    return figures


def _quietly(bench: Bench, texts: Sequence[str]) -> float:
    server = bench.ours
    server.resume()
    try:
        return requests.quiet_per_token(server, [server.prompts.body(text, bench.output // 2) for text in texts])
    finally:
        server.pause()


def _over_http(bench: Bench, texts: Sequence[str]) -> float:
    server = bench.ours

    async def run() -> float:
        client = server.client()
        try:
            bodies = [server.prompts.body(text, bench.output // 2) for text in texts]
            sent = await requests.send_all(client, [server.request(body, client) for body in bodies])
        finally:
            client.close()
        spent = [(o.latency - o.ttft) / (o.output_tokens - 1) for o in requests.good(sent.outcomes)]
        return sum(spent) / len(spent)

    return float(bench.alone(server, run))


def idle_connections(bench: Bench) -> Figures:
    """Throughput at 8 clients with and without many idle connections."""
    figures = Figures(f"{IDLE} idle connections", "tok/s")
    server = bench.ours

    async def crowded() -> float:
        async with requests.idle_connections(server, IDLE):
            return await requests.throughput(server, 8, INPUT, bench.output)

    async def empty() -> float:
        return await requests.throughput(server, 8, INPUT, bench.output)

    for turn in range(2 * bench.runs + 1):
        order = (empty, crowded) if turn % 2 else (crowded, empty)
        found = {work: bench.alone(server, work) for work in order}
        if turn:
            figures.add("with them", found[crowded])
            figures.add("without", found[empty])
            figures.add("ratio", found[crowded] / found[empty])
    return figures


ROWS: dict[str, Callable[[Bench], Figures]] = {
    **{f"throughput-{count}": partial(throughput, clients=count) for count in CLIENTS},
    "images": images,
    "text-beside-images": text_with_images,
    "second-turn": second_question,
    "overhead": overhead,
    "idle-connections": idle_connections,
}
