"""The engine's invariants: chunked = whole, batched = alone, memory comes back, ends are where they should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracle import Oracle, config_dict, make_oracle, make_prompt

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.engine import Engine, Request, TokenEvent
from pocketvlm.errors import OptionError, PromptError
from pocketvlm.model import MiniCPMV
from pocketvlm.types import Prompt, SamplingParams


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return make_oracle(config_dict(), seed=9)


def make_engine(oracle: Oracle, ops: AnyBackend, **options: Any) -> Engine:
    return Engine(MiniCPMV(oracle.config, ops, oracle.tensors), **options)


def run(engine: Engine, requests: list[Request]) -> list[list[TokenEvent]]:
    """Step until all requests are done; their events in order."""
    numbers = [engine.add(request) for request in requests]
    events: dict[int, list[TokenEvent]] = {number: [] for number in numbers}
    for _ in range(2000):
        for event in engine.step():
            events[event.request_id].append(event)
        if all(e and e[-1].finish_reason for e in events.values()):
            break
    for number in numbers:
        engine.release(number)
    return [events[number] for number in numbers]


def tokens(events: list[TokenEvent]) -> list[int]:
    return [event.token_id for event in events]


def prompts(oracle: Oracle) -> list[Prompt]:
    config = oracle.config
    return [
        make_prompt(config, [(4, 8), (8, 4)], "16x", 20, seed=1),
        make_prompt(config, [], "16x", 70, seed=2),
        make_prompt(config, [(2, 6)], "4x", 1, seed=3),
        make_prompt(config, [], "16x", 1, seed=4),
    ]


def greedy(prompt: Prompt, max_tokens: int = 12, **params: Any) -> Request:
    return Request(prompt, SamplingParams(temperature=0, max_tokens=max_tokens, **params))


def test_batched_and_chunked_equal_alone_and_whole(oracle: Oracle, ops: AnyBackend) -> None:
    requests = [greedy(prompt) for prompt in prompts(oracle)]
    alone = [tokens(run(make_engine(oracle, ops), [request])[0]) for request in requests]
    assert all(len(ids) == 12 for ids in alone)
    for chunk in (1, 5, 33, 512):
        together = run(make_engine(oracle, ops, prefill_chunk=chunk), requests)
        assert [tokens(events) for events in together] == alone


def test_decoding_equals_prefilling_the_same_tokens(oracle: Oracle, ops: AnyBackend) -> None:
    engine = make_engine(oracle, ops)
    prompt = prompts(oracle)[0]
    made = tokens(run(engine, [greedy(prompt, 20)])[0])
    longer = Prompt(np.concatenate([prompt.ids, np.array(made, dtype=np.int32)]), prompt.views, (), "")
    logits = engine.prompt_logits(longer)
    assert list(logits.argmax(-1)[len(prompt.ids) - 1 : -1]) == made


def test_seeded_sampling_is_batch_invariant(oracle: Oracle, ops: AnyBackend) -> None:
    prompt = prompts(oracle)[1]
    request = Request(prompt, SamplingParams(temperature=1.0, seed=17, max_tokens=15))
    alone = tokens(run(make_engine(oracle, ops), [request])[0])
    others = [greedy(p, 30) for p in prompts(oracle)]
    assert tokens(run(make_engine(oracle, ops), [others[0], request, *others[2:]])[1]) == alone


def test_memory_is_exact_and_comes_back(oracle: Oracle, ops: AnyBackend) -> None:
    engine = make_engine(oracle, ops)
    request = greedy(prompts(oracle)[1], 12)
    number = engine.add(request)
    engine.step()
    assert engine.memory.used == engine.memory.bytes_for(len(request.prompt.ids))
    engine.release(number)
    assert engine.memory.used == 0
    for _ in range(3):
        run(engine, [greedy(prompt) for prompt in prompts(oracle)])
        assert engine.memory.used == engine.memory.cached
    while engine.prefix.evict():
        pass
    assert engine.memory.used == 0
    assert not engine.sequences
    assert not engine.scheduler.running


def test_a_reused_slot_starts_clean(oracle: Oracle, ops: AnyBackend) -> None:
    fresh = tokens(run(make_engine(oracle, ops), [greedy(prompts(oracle)[2])])[0])
    used = make_engine(oracle, ops)
    run(used, [greedy(prompt, 40) for prompt in prompts(oracle)])
    assert tokens(run(used, [greedy(prompts(oracle)[2])])[0]) == fresh


def test_requests_wait_for_memory_and_then_run(oracle: Oracle, ops: AnyBackend) -> None:
    requests = [greedy(prompt) for prompt in prompts(oracle)]
    wide = [tokens(events) for events in run(make_engine(oracle, ops), requests)]
    need = make_engine(oracle, ops).memory.bytes_for(len(requests[1].prompt.ids) + 12)
    narrow = make_engine(oracle, ops, memory_limit=need)
    assert [tokens(events) for events in run(narrow, requests)] == wide


def test_ends(oracle: Oracle, ops: AnyBackend) -> None:
    prompt = prompts(oracle)[0]
    made = tokens(run(make_engine(oracle, ops), [greedy(prompt, 10)])[0])
    place = next(i for i in range(1, 10) if made[i] not in made[:i])
    stop = made[place]
    for request in (
        Request(prompt, SamplingParams(temperature=0, max_tokens=10), (stop,)),
        greedy(prompt, 10, stop_token_ids=(stop,)),
        Request(prompt, SamplingParams(temperature=0, max_tokens=10), (999, stop)),
    ):
        events = run(make_engine(oracle, ops), [request])[0]
        assert tokens(events) == made[: place + 1]
        assert events[-1].finish_reason == "stop"
    ignoring = Request(prompt, SamplingParams(temperature=0, max_tokens=10, ignore_eos=True), (stop,))
    events = run(make_engine(oracle, ops), [ignoring])[0]
    assert tokens(events) == made
    assert events[-1].finish_reason == "length"
    late = Request(prompt, SamplingParams(temperature=0, max_tokens=10, min_tokens=10), (stop,))
    events = run(make_engine(oracle, ops), [late])[0]
    assert len(events) == 10
    assert stop not in tokens(events)[:-1]


def test_impossible_requests_are_refused_with_numbers(oracle: Oracle, ops: AnyBackend) -> None:
    engine = make_engine(oracle, ops)
    limit = oracle.config.text.max_position_embeddings
    empty = Prompt(np.array([], dtype=np.int32), (), (), "")
    with pytest.raises(PromptError, match="no tokens"):
        engine.add(greedy(empty))
    long = Prompt(np.full(limit + 1, 11, dtype=np.int32), (), (), "")
    with pytest.raises(PromptError, match=rf"{limit + 1} tokens .* {limit}"):
        engine.add(greedy(long))
    strange = Prompt(np.array([5, 100_000], dtype=np.int32), (), (), "")
    with pytest.raises(PromptError, match="outside"):
        engine.add(greedy(strange))
    with pytest.raises(PromptError, match="MiB"):
        make_engine(oracle, ops, memory_limit=1000).add(greedy(prompts(oracle)[0]))
    with pytest.raises(PromptError, match="MiB"):
        make_engine(oracle, ops, memory_limit=1000).prompt_logits(prompts(oracle)[0])
    with pytest.raises(OptionError, match="prefill_chunk"):
        make_engine(oracle, ops, prefill_chunk=0)
    assert run(engine, [greedy(prompts(oracle)[3])])


def test_answers_end_where_the_context_ends(oracle: Oracle, ops: AnyBackend) -> None:
    limit = oracle.config.text.max_position_embeddings
    prompt = Prompt(np.random.default_rng(0).integers(10, 130, limit - 3).astype(np.int32), (), (), "")
    events = run(make_engine(oracle, ops), [greedy(prompt, 50)])[0]
    assert len(events) == 3
    assert events[-1].finish_reason == "length"
