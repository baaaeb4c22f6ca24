"""Random traffic on little memory: every answer is the one of an engine with a single request."""

from __future__ import annotations

from functools import cache
from typing import Any

import hypothesis.strategies as st
import pytest
from engine_kit import Run, alone, ask, check_idle, check_memory, engine_of, longer, network, pictured, text
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from oracle import config_dict, make_oracle

from pocketvlm.engine import Request
from pocketvlm.model import MiniCPMV
from pocketvlm.types import Prompt, SamplingParams

LONGEST = 260  # tokens; no prompt and its answer have more


@cache
def model() -> MiniCPMV:
    return network(make_oracle(config_dict(), seed=9))


@cache
def prompts() -> list[Prompt]:
    oracle = make_oracle(config_dict(), seed=9)
    chat = text(1, 80, [66])
    picture = pictured(oracle, 2, views=2, words=70)
    return [
        text(3, 1),
        text(4, 20),
        chat,
        longer(chat, 5, 65, [132]),
        longer(chat, 6, 30),
        picture,
        longer(picture, 7, 20),
        pictured(oracle, 8, views=1, words=5),
    ]


@cache
def answer(prompt: int, count: int, seed: int) -> list[int]:
    return alone(model(), ask(prompts()[prompt], count, seed))[0]


class Refuses:
    """A constraint that takes two tokens and fails at the third."""

    def __init__(self) -> None:
        self.taken = 0

    def mask(self) -> None:
        return None

    def accept(self, token_id: int) -> None:
        self.taken += 1
        if self.taken == 3:
            raise ValueError("no third token")

    @property
    def finished(self) -> bool:
        return False


class Traffic(RuleBasedStateMachine):
    """Requests arrive, are cancelled, fail; prefix-cache entries are evicted; steps run."""

    @initialize(
        tokens=st.integers(LONGEST, 3 * LONGEST),
        max_seqs=st.integers(1, 6),
        cached=st.sampled_from([0.0, 0.3, 1.0]),
        features=st.sampled_from([0, 600, 1 << 20]),
    )
    def begin(self, tokens: int, max_seqs: int, cached: float, features: int) -> None:
        engine = engine_of(model(), tokens, max_seqs=max_seqs, vision_cache=features)
        engine.prefix.limit = int(engine.memory.limit * cached)
        self.run = Run(engine)
        self.wanted: dict[int, list[int]] = {}
        self.bad: set[int] = set()
        self.cancelled: set[int] = set()

    @rule(
        prompt=st.integers(0, 7),
        count=st.sampled_from([1, 2, 9, 30]),
        seed=st.integers(0, 1),
        priority=st.integers(-1, 1),
        copies=st.integers(1, 3),
    )
    def come(self, prompt: int, count: int, seed: int, priority: int, copies: int) -> None:
        for _ in range(copies):
            number = self.run.add(ask(prompts()[prompt], count, seed, priority))
            self.wanted[number] = answer(prompt, count, seed)

    @rule(prompt=st.integers(0, 7))
    def come_with_a_fault(self, prompt: int) -> None:
        params = SamplingParams(max_tokens=9, seed=1)
        self.bad.add(self.run.add(Request(prompts()[prompt], params, constraint=Refuses)))

    @rule(count=st.integers(1, 12))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.run.step()
            check_memory(self.run.engine)

    @precondition(lambda self: self.run.engine.sequences)
    @rule(choice=st.randoms(use_true_random=False))
    def cancel(self, choice: Any) -> None:
        number = choice.choice(sorted(self.run.engine.sequences))
        self.run.engine.release(number)
        self.cancelled.add(number)

    @rule()
    def evict_an_entry(self) -> None:
        self.run.engine.prefix.evict()

    @invariant()
    def memory_is_exact(self) -> None:
        if hasattr(self, "run"):
            check_memory(self.run.engine)

    def teardown(self) -> None:
        if not hasattr(self, "run"):
            return
        left = sum(len(s.request.prompt.ids) + 2 * s.max_tokens for s in self.run.engine.sequences.values())
        self.run.finish(most=20 * left + 20)
        assert not self.run.engine.sequences
        for number, tokens in self.wanted.items():
            if number not in self.cancelled:
                assert self.run.tokens(number) == tokens
                assert self.run.events[number][-1].finish_reason == "length"
        for number in self.bad - self.cancelled:
            assert [event.finish_reason for event in self.run.events[number]] == [None, None, "error"]
        check_idle(self.run.engine)


Traffic.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestRandomTraffic = Traffic.TestCase


class MuchTraffic(Traffic):
    """The same at length."""


MuchTraffic.TestCase.settings = settings(max_examples=1000, stateful_step_count=50, deadline=None)
TestMuchRandomTraffic = pytest.mark.long(MuchTraffic.TestCase)
