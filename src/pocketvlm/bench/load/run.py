"""A run warms the server up, sends the planned requests at each concurrency, and collects the results."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pocketvlm.bench.load.figures import result
from pocketvlm.bench.load.http import Address, Client, Received
from pocketvlm.bench.load.outcomes import Outcome, error_text, read
from pocketvlm.bench.load.plan import Load
from pocketvlm.bench.load.prompts import Cost, Prompts, Sizes
from pocketvlm.errors import AddressError

Progress = Callable[[str, int, int], None]
ROUTES = {"chat": "/chat/completions", "completions": "/completions"}
_FEW, _MANY = 16, 144  # words of the two prompts that measure the cost of words


@dataclass(frozen=True, slots=True)
class Sent:
    """One run. seconds: from the first request to the last answer; cpu_seconds: processor time of this client."""

    outcomes: list[Outcome]
    seconds: float
    cpu_seconds: float


async def send_all(
    client: Client,
    requests: Sequence[bytes],
    arrivals: Sequence[float] = (),
    limit: int | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> Sent:
    """Send requests when they are due, never more than `limit` at a time; parse the answers after the last one.

    arrivals: seconds from now; none for all at once. done: called with the number of answers so far.
    """
    semaphore = contextlib.nullcontext() if limit is None else asyncio.Semaphore(limit)
    count = 0
    clock = client.clock

    async def one(request: bytes, due: float) -> tuple[Received, float]:
        nonlocal count
        if due > 0:
            await asyncio.sleep(began + due - clock())
        arrived = clock()
        async with semaphore:
            received = await client.ask(request)
        count += 1
        done(count)
        return received, received.sent - arrived

    began, used = clock(), time.process_time()
    dues = arrivals or [0.0] * len(requests)
    answers = await asyncio.gather(*(one(request, due) for request, due in zip(requests, dues, strict=True)))
    seconds, used = clock() - began, time.process_time() - used
    outcomes = []
    for received, queued in answers:
        outcome = read(received)
        outcome.queued = max(0.0, queued)
        outcomes.append(outcome)
    return Sent(outcomes, seconds, used)


async def first_model(client: Client) -> str:
    """The first name that the server lists. Raises AddressError."""
    received = await client.ask(client.request("GET", "/models"))
    _check(client, received, "/models")
    try:
        name = json.loads(received.body)["data"][0]["id"]
    except (ValueError, LookupError, TypeError):
        name = None
    if not isinstance(name, str):
        raise AddressError(f"{client.address}/models names no model: give one with --model")
    return name


async def learn_cost(client: Client, prompts: Prompts, route: str) -> Cost:
    """Measure the token cost with two prompts. Raises AddressError if the server does not answer them.

    A server that states no usage gets the usual cost. A server that refuses the usage field is not sent it again.
    """
    counts = []
    for words in (_FEW, _MANY):
        text = prompts.words(words)
        received = await _ask(client, prompts, route, text)
        if received.status in (400, 422) and b"stream_options" in received.body:
            prompts.ask_usage = False
            received = await _ask(client, prompts, route, text)
        _check(client, received, route)
        outcome = read(received)
        if not outcome.ok:
            raise AddressError(f"{client.address}{route}: {outcome.error}")
        if not outcome.prompt_tokens:
            return Cost()
        counts.append((words, outcome.prompt_tokens))
    return Cost.of(*counts)


async def measure(load: Load, progress: Progress = lambda what, done, total: None) -> list[dict[str, Any]]:
    """Run a plan: one result for each concurrency. Raises AddressError if the server cannot be measured at all."""
    client = Client(Address.parse(load.url), load.api_key)
    route = ROUTES[load.endpoint]
    results = []
    try:
        progress(f"asking {client.address}", 0, 0)
        model = load.model or await first_model(client)
        prompts = Prompts(load.endpoint, load.fields(model), load.seed)
        cost = await learn_cost(client, prompts, route)

        def requests(count: int, sizes: Sizes) -> list[bytes]:
            return [client.request("POST", route, prompts.asked(sizes, cost).encode()) for _ in range(count)]

        for number, limit in enumerate(load.max_concurrency):
            if load.num_warmups:
                progress("warming up", 0, 0)
                await send_all(client, requests(load.num_warmups, load.sizes), limit=limit)
            made = requests(load.num_prompts, load.sizes)
            label = "sending" if limit is None else f"sending, {limit} at a time"
            progress(label, 0, load.num_prompts)
            arrivals = load.arrivals(load.seed + number)
            sent = await send_all(
                client,
                made,
                arrivals,
                limit,
                lambda done, label=label: progress(label, done, load.num_prompts),  # type: ignore[misc]
            )
            results.append(result(load, model, limit, sent.outcomes, sent.seconds, sent.cpu_seconds))
    finally:
        client.close()
    return results


async def _ask(client: Client, prompts: Prompts, route: str, text: str) -> Received:
    return await client.ask(client.request("POST", route, json.dumps(prompts.body(text, 1)).encode()))


def _check(client: Client, received: Received, route: str) -> None:
    if received.error:
        where = "" if received.error.startswith("cannot connect") else f"{client.address}{route}: "
        raise AddressError(f"{where}{received.error}: is the server running, and is --url right?")
    if received.status != 200:
        raise AddressError(f"{client.address}{route}: status {received.status}: {error_text(received.body)}")
