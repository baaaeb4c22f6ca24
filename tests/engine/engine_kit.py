"""What the engine's tests share: engines on tiny weights, prompts, and answers as bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oracle import Oracle, make_network, make_prompt

from pocketvlm.backends import native
from pocketvlm.backends.options import choose
from pocketvlm.engine import Engine, Request, TokenEvent
from pocketvlm.engine.memory import Memory
from pocketvlm.model import MiniCPMV
from pocketvlm.types import Prompt, SamplingParams

KV_CACHES = ("bf16", "int8", "f32")


def network(oracle: Oracle, weights: str = "int8", kv_cache: str = "auto") -> MiniCPMV:
    """The tiny model on the native backend, where results are batch-invariant."""
    return make_network(oracle, native.create(2, scheme=choose("native", weights, kv_cache_dtype=kv_cache)))


def engine_of(model: MiniCPMV, tokens: int = 4000, page_size: int = 8, chunk: int = 16, **options: Any) -> Engine:
    """An engine whose memory holds one sequence of `tokens` tokens (or more that are shorter), in small pages."""
    limit = Memory(model, 0, page_size).bytes_for(tokens)
    engine = Engine(model, limit, chunk, **{"prefix_cache": limit, **options})
    memory = Memory(model, limit, page_size, engine.memory.moving)
    for part in (engine, engine.prefix, engine.scheduler, engine.runner, engine.runner.decoding):
        part.memory = memory
    return engine


def text(seed: int, length: int, marks: Sequence[int] = (), start: Sequence[int] = ()) -> Prompt:
    """Random ids after given ones."""
    ids = [*start, *np.random.default_rng(seed).integers(10, 130, length - len(start))]
    return Prompt(np.array(ids, np.int32), (), (), "", marks=tuple(marks))


def pictured(oracle: Oracle, seed: int, views: int = 2, words: int = 12) -> Prompt:
    """Text around views, with a cache breakpoint after each."""
    return make_prompt(oracle.config, [(4, 8)] * views, "16x", words, seed)


def longer(prompt: Prompt, seed: int, length: int, marks: Sequence[int] = ()) -> Prompt:
    """The same prompt with `length` more ids, and more cache breakpoints."""
    ids = np.concatenate([prompt.ids, text(seed, length).ids])
    return replace(prompt, ids=ids, marks=(*prompt.marks, *marks))


def ask(prompt: Prompt, count: int = 8, seed: int = 0, priority: int = 0, **params: Any) -> Request:
    """A request for a sampled answer of `count` tokens."""
    return Request(prompt, SamplingParams(temperature=1.0, seed=seed, max_tokens=count, **params), (), priority)


class Run:
    """Steps an engine and records its events, and the bits of every row of logits that it sampled from."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.events: dict[int, list[TokenEvent]] = {}
        self.logits: dict[int, list[NDArray[np.float32]]] = {}
        inner = engine.runner.run

        def listen(plan: Any) -> Any:
            made = inner(plan)
            for number, row in made.items():
                self.logits.setdefault(number, []).append(row.whole().copy())
            return made

        engine.runner.run = listen  # type: ignore[method-assign]

    def add(self, request: Request) -> int:
        number = self.engine.add(request)
        self.events[number] = []
        return number

    def step(self) -> list[TokenEvent]:
        made = self.engine.step()
        for event in made:
            self.events[event.request_id].append(event)
            if event.finish_reason is not None:
                self.engine.release(event.request_id)
        return made

    def finish(self, maximum: int = 5000) -> None:
        for _ in range(maximum):
            if not self.engine.busy:
                return
            self.step()
        raise AssertionError(f"still busy after {maximum} steps")

    def rows(self, number: int) -> NDArray[np.float32]:
        return np.stack(self.logits[number])

    def tokens(self, number: int) -> list[int]:
        return [event.token_id for event in self.events[number]]


def alone(model: MiniCPMV, request: Request, **options: Any) -> tuple[list[int], NDArray[np.float32]]:
    """Tokens and logits of a request in an engine of its own without caches."""
    run = Run(engine_of(model, **{"prefix_cache": 0, "vision_cache": 0, **options}))
    number = run.add(request)
    run.finish()
    return run.tokens(number), run.rows(number)


def check_memory(engine: Engine) -> None:
    """Every page and slot is counted for each of its users, and all bytes stay below the limit."""
    memory = engine.memory
    running, cached = np.zeros_like(memory._running), np.zeros_like(memory._cached)
    for allocation in memory._allocations:
        running[allocation.pages] += 1
    for entry in memory._entries:
        cached[entry.pages] += 1
    np.testing.assert_array_equal(running, memory._running)
    np.testing.assert_array_equal(cached, memory._cached)
    assert sorted(memory._free_pages) == np.flatnonzero(running + cached == 0).tolist()
    slots = sorted([*memory._free_slots, *(allocation.slot for allocation in memory._allocations)])
    assert slots == list(range(memory._slots))
    assert memory._allocations == {s.allocation for s in engine.scheduler.running}
    assert all(s.allocation is None and not s.features for s in engine.scheduler.waiting)
    assert memory._entries == set(engine.prefix._entries.values())
    assert memory.used <= memory.allocated <= memory.limit
    assert memory.cached <= engine.prefix.limit
    states = memory.states
    sizes = sum(array.nbytes for state in states for array in state.arrays)
    copied = [*(entry.copy for entry in memory._entries), *memory._spare, *memory._reserved]
    assert sorted([*copied, *memory._unallocated]) == list(range(memory._copy_indices))
    copies = sum(array.nbytes for copy in copied for array in memory.copy_arrays(copy))
    assert sizes + copies == memory.allocated


def check_idle(engine: Engine) -> None:
    """Nothing is left but prefix-cache entries."""
    check_memory(engine)
    assert not engine.busy
    assert engine.memory.used == engine.memory.cached
    while engine.prefix.evict():
        pass
    assert engine.memory.used == 0
