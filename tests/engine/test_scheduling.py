"""Scheduling: order, priorities, alternation with vision, preemption without a trace, isolated failures."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from engine_kit import KV_CACHES, Run, alone, ask, check_idle, check_memory, engine_of, longer, network, pictured, text
from oracle import Oracle, make_prompt

from pocketvlm.engine import Request
from pocketvlm.engine.request import BACKGROUND
from pocketvlm.engine.runner import sub_batches
from pocketvlm.engine.scheduler import FEW_ROWS
from pocketvlm.errors import OptionError, PromptError
from pocketvlm.model import MiniCPMV
from pocketvlm.types import SamplingParams


@pytest.fixture(scope="module")
def model(oracle: Oracle) -> MiniCPMV:
    return network(oracle)


def running(run: Run) -> list[int]:
    return [sequence.id for sequence in run.engine.scheduler.running]


def test_no_more_than_max_seqs_run_and_they_come_in_order(model: MiniCPMV) -> None:
    run = Run(engine_of(model, max_seqs=2))
    numbers = [run.add(ask(text(seed, 5), 3, priority=priority)) for seed, priority in enumerate([1, 1, 0, 1, -5])]
    run.step()
    assert running(run) == [numbers[4], numbers[2]]
    ended: list[int] = []
    while run.engine.busy:
        ended += [event.request_id for event in run.step() if event.finish_reason]
        assert len(run.engine.scheduler.running) <= 2
    assert ended == [numbers[i] for i in (4, 2, 0, 1, 3)]


def test_a_request_of_higher_precedence_takes_a_slot_and_the_other_loses_nothing(model: MiniCPMV) -> None:
    run = Run(engine_of(model, max_seqs=2))
    requests = [ask(text(seed, 20), 20, seed, priority=1) for seed in range(2)]
    low = [run.add(request) for request in requests]
    for _ in range(8):
        run.step()
    high = run.add(ask(text(9, 20), 5))
    run.step()
    assert running(run) == [high, low[0]]
    assert run.engine.stats().preemptions == 1
    run.finish()
    for number, request in zip(low, requests, strict=True):
        tokens, rows = alone(model, request)
        assert run.tokens(number) == tokens
        np.testing.assert_array_equal(run.rows(number), rows)


def test_background_sequences_rest_while_others_run_and_lose_nothing(model: MiniCPMV, oracle: Oracle) -> None:
    """Decoding, prefilling and waiting ones; a prompt that shares a prefix with one of them does not wait for it."""
    run = Run(engine_of(model, max_seqs=4))
    requests = [
        ask(text(1, 20), 20, 1, priority=BACKGROUND),
        ask(text(2, 90, [64]), 6, 2, priority=BACKGROUND),
        ask(pictured(oracle, 3), 6, 3, priority=BACKGROUND + 1),
    ]
    low = [run.add(request) for request in requests]
    for _ in range(4):
        run.step()
    assert run.engine.sequences[low[1]].prefilling
    late = ask(text(4, 20), 5, 4, priority=BACKGROUND)
    requests.append(late)
    low.append(run.add(late))
    live = [run.add(ask(longer(text(2, 90, [64]), 5, 3), 8)), run.add(ask(pictured(oracle, 6), 8, 6))]
    before = {number: len(run.events[number]) for number in low}
    while not all(run.events[number] and run.events[number][-1].finish_reason for number in live):
        run.step()
        assert {number: len(run.events[number]) for number in low} == before
    assert run.engine.sequences[low[3]].admitted is None
    run.finish()
    for number, request in zip(low, requests, strict=True):
        tokens, rows = alone(model, request)
        assert run.tokens(number) == tokens
        np.testing.assert_array_equal(run.rows(number), rows)
    check_idle(run.engine)


@pytest.mark.parametrize(
    ("weights", "kv_cache"), [("int8", "bf16"), ("int4", "bf16"), ("int8", "int8"), ("int8", "f32")]
)
def test_preempted_equals_not_preempted_bit_for_bit(oracle: Oracle, weights: str, kv_cache: str) -> None:
    model = network(oracle, weights, kv_cache)
    requests = [
        ask(pictured(oracle, 3, words=12), 70, 1, repetition_penalty=1.1),
        ask(text(4, 80, [66]), 60, 2),
        ask(text(5, 8), 90, 3),
    ]
    run = Run(engine_of(model, tokens=190))
    numbers = [run.add(request) for request in requests]
    while run.engine.busy:
        run.step()
        check_memory(run.engine)
    assert run.engine.scheduler.preemptions >= 2
    for number, request in zip(numbers, requests, strict=True):
        tokens, rows = alone(model, request)
        assert run.tokens(number) == tokens
        assert len(tokens) == request.params.max_tokens
        np.testing.assert_array_equal(run.rows(number), rows)
    check_idle(run.engine)


@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_rows_prefilled_after_preemption_have_the_bits_of_single_rows(oracle: Oracle, kv_cache: str) -> None:
    model = network(oracle, "int8", kv_cache)
    request = ask(text(5, 30), 4 * FEW_ROWS + 2)
    run = Run(engine_of(model))
    number = run.add(request)
    for _ in range(2 + 3 * FEW_ROWS):
        run.step()
    run.engine.scheduler._preempt(run.engine.scheduler.running[0])
    run.finish()
    np.testing.assert_array_equal(run.rows(number), alone(model, request)[1])


def test_a_short_prompt_does_not_wait_for_long_ones_before_it(model: MiniCPMV) -> None:
    run = Run(engine_of(model, chunk=16))
    for seed in range(4):
        run.add(ask(text(seed, 320), 2))
    run.step()
    short = run.add(ask(text(9, 10), 2))
    for _ in range(2):
        run.step()
    assert run.events[short]
    oldest = run.engine.scheduler.running[0]
    before = oldest.computed
    for _ in range(4):
        run.step()
    assert oldest.computed >= before + 2 * 16  # nor does the oldest wait for ever


def test_views_and_steps_alternate(oracle: Oracle, model: MiniCPMV, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model.backend), "patches_at_once", 32)  # one view
    engine = engine_of(model, chunk=64)
    run = Run(engine)
    writer = run.add(ask(text(1, 10), 40))
    run.step()
    for seed in range(2):
        run.add(ask(pictured(oracle, seed, views=4), 2))
    made: list[tuple[int, int]] = []
    while len(run.events[writer]) < 20:
        run.step()
        made.append((engine.vision.misses, len(run.events[writer])))
    for (views, tokens), (more_views, more_tokens) in pairwise(made):
        assert (more_views - views) + (more_tokens - tokens) == 1
    assert engine.vision.misses == 8
    run.finish()


def test_a_short_text_in_two_parts_waits_for_one_view(
    oracle: Oracle, model: MiniCPMV, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(model.backend), "patches_at_once", 32)  # one view
    engine = engine_of(model, chunk=160)
    run = Run(engine)
    for seed in range(4):
        run.add(ask(pictured(oracle, seed, views=6), 2))
    for turn in range(6):
        run.step()
        before = engine.vision.misses
        short = run.add(ask(text(20 + turn, 75, [66]), 1))
        while not run.events[short]:
            run.step()
        assert engine.vision.misses <= before + 1
    steps = views = 0
    while engine.busy:
        at = engine.vision.misses
        run.step()
        views += engine.vision.misses - at
        steps += engine.vision.misses == at
    assert views > 0
    assert steps < 3 * views + 10  # nor do views wait for long


def test_new_views_of_all_requests_are_encoded_together(
    oracle: Oracle, model: MiniCPMV, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(model.backend), "patches_at_once", 5 * 64)
    passes: list[list[str]] = []
    encode = MiniCPMV.encode

    def listening(self: MiniCPMV, views: Any, *more: Any) -> Any:
        passes.append([view.digest for view in views])
        return encode(self, views, *more)

    monkeypatch.setattr(MiniCPMV, "encode", listening)
    engine = engine_of(model, chunk=64, prefix_cache=0)
    run = Run(engine)
    prompts = [make_prompt(oracle.config, [(8, 8)] * 2, "16x", 12, seed) for seed in (1, 2, 1, 3)]
    few = pictured(oracle, 9, views=1)
    asked = [ask(prompt, 5, seed) for seed, prompt in enumerate([*prompts[:3], few, prompts[3]])]
    numbers = [run.add(request) for request in asked]
    run.finish()
    one, two, three = ([view.digest for view in asked[i].prompt.views] for i in (0, 1, 4))
    assert passes == [[*one, *two], [few.views[0].digest], three]
    assert (engine.vision.misses, engine.vision.hits) == (7, 2)
    whole = [features if features.base is None else features.base for features in engine.vision._cached.values()]
    assert engine.vision.nbytes == sum(array.nbytes for array in whole)
    passes.clear()
    for number, request in zip(numbers, asked, strict=True):
        tokens, rows = alone(model, request, chunk=64)
        assert run.tokens(number) == tokens
        np.testing.assert_array_equal(run.rows(number), rows)
    check_idle(engine)


def test_views_are_not_encoded_before_their_chunk_is_due(oracle: Oracle, model: MiniCPMV) -> None:
    engine = engine_of(model, chunk=16)
    run = Run(engine)
    prompt = pictured(oracle, 5, views=3, words=40)
    run.add(ask(prompt))
    while engine.busy:
        run.step()
        for sequence in engine.scheduler.running:
            end = max((end for end in sequence.boundaries if end <= sequence.computed + 16), default=0)
            assert engine.vision.misses <= sum(view.start < end for view in prompt.views)
            assert len(sequence.features) <= 1


def test_the_length_of_the_context_can_be_limited(model: MiniCPMV) -> None:
    engine = engine_of(model, max_model_len=30)
    with pytest.raises(PromptError, match="30"):
        engine.add(ask(text(1, 30)))
    run = Run(engine)
    number = run.add(ask(text(1, 25), 50))
    run.finish()
    assert len(run.events[number]) == 5
    for options in ({"max_model_len": 1}, {"max_model_len": 5000}, {"max_seqs": 0}, {"prefix_cache": -1}):
        with pytest.raises(OptionError, match=next(iter(options))):
            engine_of(model, **options)


class Broken:
    """A constraint that fails at one of its calls."""

    def __init__(self, where: str) -> None:
        if where == "making":
            raise RuntimeError("no grammar")
        self.where = where

    def mask(self) -> Any:
        if self.where == "mask":
            raise RuntimeError("no mask")
        return np.zeros(5, np.uint32) if self.where == "nothing" else None

    def accept(self, token_id: int) -> None:
        if self.where == "accept":
            raise ValueError("not allowed")

    @property
    def finished(self) -> bool:
        raise RuntimeError("no idea")


@pytest.mark.parametrize("where", ["making", "mask", "nothing", "accept", "finished"])
def test_a_failing_constraint_ends_its_request_alone(model: MiniCPMV, where: str) -> None:
    run = Run(engine_of(model))
    good = [run.add(ask(text(seed, 20), 6, seed)) for seed in range(2)]
    params = SamplingParams(max_tokens=5)
    bad = run.add(Request(text(3, 20), params, constraint=lambda: Broken(where)))
    run.finish()
    (event,) = run.events[bad]
    assert (event.token_id, event.finish_reason) == (-1, "error")
    assert event.error is not None
    words = {"nothing": "allows no token", "making": "no grammar", "accept": "not allowed", "finished": "no idea"}
    assert words.get(where, "no mask") in event.error
    assert [run.tokens(n) for n in good] == [alone(model, ask(text(s, 20), 6, s))[0] for s in range(2)]
    check_idle(run.engine)


def test_a_view_that_cannot_be_encoded_ends_its_request_alone(
    oracle: Oracle, model: MiniCPMV, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(engine_of(model))
    good, bad = ask(pictured(oracle, 1), 5), ask(pictured(oracle, 2), 5)
    broken = bad.prompt.views[1].digest
    encode = MiniCPMV.encode

    def failing(self: MiniCPMV, views: Any, *more: Any) -> Any:
        if any(view.digest == broken for view in views):
            raise FloatingPointError("broken view")
        return encode(self, views, *more)

    monkeypatch.setattr(MiniCPMV, "encode", failing)
    numbers = [run.add(good), run.add(bad), run.add(good)]
    run.finish()
    assert run.events[numbers[1]][-1].error == "FloatingPointError: broken view"
    assert [len(run.events[number]) for number in numbers] == [5, 1, 5]
    monkeypatch.undo()
    for number in (numbers[0], numbers[2]):
        assert run.tokens(number) == alone(model, good)[0]
    check_idle(run.engine)


def test_the_engine_goes_on_after_a_step_that_failed(model: MiniCPMV, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(engine_of(model))
    numbers = [run.add(ask(text(seed, 20))) for seed in range(2)]
    run.step()

    def failing(*_: Any) -> Any:
        raise MemoryError("none left")

    with monkeypatch.context() as patch:
        patch.setattr(MiniCPMV, "forward", failing)
        run.finish()
    assert [run.events[n][-1].error for n in numbers] == ["MemoryError: none left"] * 2
    again = run.add(ask(text(0, 20)))
    run.finish()
    assert run.tokens(again) == alone(model, ask(text(0, 20)))[0]
    check_idle(run.engine)


def test_views_that_do_not_fit_are_refused(oracle: Oracle, model: MiniCPMV) -> None:
    prompt = pictured(oracle, 1)
    for change in ({"tokens": 3}, {"start": 1000}, {"rows": 5}):
        views = (replace(prompt.views[0], **change), prompt.views[1])
        with pytest.raises(PromptError, match="view 0"):
            engine_of(model).add(ask(replace(prompt, views=views)))


def test_sub_batches_split_what_shares_a_slot() -> None:
    offsets, context_lens = np.array([0, 3, 4, 9, 11, 12], np.int32), np.array([0, 7, 8, 0, 2], np.int32)
    slots, copies = np.array([4, 2, 2, 0, 0], np.int32), np.array([-1, 5, -1, 6, -1], np.int32)
    found = [
        (
            part.rows,
            part.offsets.tolist(),
            part.context_lens.tolist(),
            part.read_slots.tolist(),
            part.write_slots.tolist(),
            None if part.copy_slots is None else part.copy_slots.tolist(),
        )
        for part in sub_batches(offsets, context_lens, slots, copies)
    ]
    assert found == [
        (slice(0, 4), [0, 3, 4], [0, 7], [4, 2], [4, 2], [-1, 5]),
        (slice(4, 11), [0, 5, 7], [8, 0], [2, 0], [2, 0], [-1, 6]),
        (slice(11, 12), [0, 1], [2], [0], [0], None),
    ]
    (whole,) = sub_batches(offsets, context_lens, np.arange(5, dtype=np.int32), np.full(5, -1, np.int32))
    assert whole.rows == slice(None)
    assert whole.copy_slots is None
