"""MiniCPM-V 4.7 in the engine: positions on canvases with caches, chunks, preemption, batches and captured steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine_kit import Run, alone, ask, check_idle, check_memory, engine_of, network, text
from oracle import Layout, Oracle, canvas_prompt, config_dict, make_oracle, placed
from test_videos import filmed

from pocketvlm.engine.prefix import chunk_boundaries, entry_keys
from pocketvlm.errors import PromptError
from pocketvlm.families import MINICPMV4_7
from pocketvlm.model import MiniCPMV
from pocketvlm.types import Prompt, RotaryPositions

SLICED = Layout((8, 12), (2, 2), (8, 8), words=9, breaks=1)
FRAME = Layout((8, 8), video=True)


@pytest.fixture(scope="module")
def canvas_oracle() -> Oracle:
    return make_oracle(config_dict(family=MINICPMV4_7), seed=9)


@pytest.fixture(scope="module")
def model(canvas_oracle: Oracle) -> MiniCPMV:
    return network(canvas_oracle)


def pictures(layouts: list[Layout], seed: int = 1, lead: int = 12) -> Prompt:
    return placed(canvas_prompt(layouts, seed=seed, lead=lead, patch_dim=588), MINICPMV4_7)


def extended(prompt: Prompt, seed: int, length: int) -> Prompt:
    """The same prompt with `length` more ids."""
    ids = np.concatenate([prompt.ids, text(seed, length).ids])
    return placed(replace(prompt, ids=ids), MINICPMV4_7)


def requests() -> list[Prompt]:
    """Prompts whose tokens after the prompt have different deltas."""
    prompts = [
        pictures([SLICED, Layout((12, 8), words=4)], 1),
        text(4, 30),
        pictures([FRAME] * 4 + [replace(FRAME, words=5)], 2),
        pictures([Layout((8, 12), words=3)], 3),
    ]
    deltas = [0 if prompt.positions is None else prompt.positions.delta for prompt in prompts]
    assert len(set(deltas)) == 4
    assert min(deltas) < deltas[1] == 0
    return prompts


def test_each_request_of_a_batch_has_the_bits_of_the_request_alone(model: MiniCPMV) -> None:
    run = Run(engine_of(model))
    asked = [ask(prompt, 8 + 5 * number, number) for number, prompt in enumerate(requests())]
    numbers = [run.add(request) for request in asked]
    run.finish()
    for number, request in zip(numbers, asked, strict=True):
        tokens, rows = alone(model, request)
        assert run.tokens(number) == tokens
        np.testing.assert_array_equal(run.rows(number), rows)
    check_idle(run.engine)


def test_captured_decode_steps_have_the_positions_of_new_ones(model: MiniCPMV, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, steps = pictures([SLICED]), 10
    run = Run(engine_of(model))
    number = run.add(ask(prompt, steps))
    run.finish()
    monkeypatch.setattr(type(run.engine.runner.decoding), "fits", lambda *_: False)
    tokens, rows = alone(model, ask(prompt, steps))
    assert run.tokens(number) == tokens
    np.testing.assert_array_equal(run.rows(number), rows)
    assert prompt.positions is not None
    indices = replace(prompt, positions=replace(prompt.positions, delta=0))
    assert not np.array_equal(alone(model, ask(indices, steps))[1][1], rows[1])  # the delta matters


@pytest.mark.parametrize("weights", ["int8", "bf16"])
def test_a_hit_of_the_prefix_cache_has_the_bits_of_a_miss(canvas_oracle: Oracle, weights: str) -> None:
    model = network(canvas_oracle, weights)
    first = pictures([SLICED, replace(SLICED, words=20)])
    run = Run(engine_of(model))
    for prompt in (first, extended(first, 5, 12), first):
        request = ask(prompt)
        number = run.add(request)
        run.finish()
        tokens, rows = alone(model, request)
        assert run.tokens(number) == tokens
        np.testing.assert_array_equal(run.rows(number), rows)
    assert run.engine.prefix.hits == 2
    check_idle(run.engine)


def test_keys_depend_on_positions() -> None:
    prompt = pictures([SLICED, replace(SLICED, words=20)])
    assert prompt.positions is not None
    ends = chunk_boundaries(len(prompt.ids), prompt.marks, 16)[1]
    keys = entry_keys(prompt, ends)
    assert len(ends) == 2
    values = prompt.positions.values.copy()
    values[2, ends[0] + 3] += 1
    moved = entry_keys(replace(prompt, positions=RotaryPositions(values, prompt.positions.delta)), ends)
    assert [moved[end] == keys[end] for end in ends] == [True, False]
    # The same ids and digests, but the overview's grid is turned: the canvas differs from the first picture on.
    turned = tuple(replace(view, rows=view.cols, cols=view.rows) for view in prompt.views)
    other = entry_keys(placed(replace(prompt, views=turned), MINICPMV4_7), ends)
    assert [other[end] == keys[end] for end in ends] == [False, False]
    # What follows an entry changes nothing in it.
    follow = extended(prompt, 3, 40)
    assert [entry_keys(follow, ends)[end] == keys[end] for end in ends] == [True, True]


def test_preempted_equals_not_preempted_bit_for_bit(model: MiniCPMV) -> None:
    asked = [ask(prompt, count, count) for prompt, count in zip(requests()[:3], (70, 60, 80), strict=True)]
    run = Run(engine_of(model, tokens=170))
    numbers = [run.add(request) for request in asked]
    while run.engine.busy:
        run.step()
        check_memory(run.engine)
    assert run.engine.scheduler.preemptions >= 2
    for number, request in zip(numbers, asked, strict=True):
        tokens, rows = alone(model, request)
        assert run.tokens(number) == tokens
        np.testing.assert_array_equal(run.rows(number), rows)
    check_idle(run.engine)


def test_views_that_are_made_later_have_the_same_positions(model: MiniCPMV) -> None:
    prompt = pictures([replace(SLICED, video=True, words=0, breaks=0)] * 2 + [replace(FRAME, words=6)])
    pending, slow = filmed(prompt)
    again = placed(replace(pending, positions=None), MINICPMV4_7)
    assert prompt.positions is not None
    assert again.positions is not None
    np.testing.assert_array_equal(again.positions.values, prompt.positions.values)
    assert not slow.loaded
    slow.let()
    tokens, rows = alone(model, ask(prompt))
    run = Run(engine_of(model))
    number = run.add(ask(again))
    run.finish()
    assert run.tokens(number) == tokens
    np.testing.assert_array_equal(run.rows(number), rows)


def test_positions_of_another_family_are_refused(oracle: Oracle, model: MiniCPMV) -> None:
    prompt = pictures([SLICED])
    assert prompt.positions is not None
    short = RotaryPositions(prompt.positions.values[:, 1:], prompt.positions.delta)
    for wrong, its in (
        (replace(prompt, positions=None), model),
        (replace(prompt, positions=short), model),
        (prompt, network(oracle)),
    ):
        with pytest.raises(PromptError, match=r"no positions for MiniCPM-V 4\.[67], but .*: make it with this model's"):
            engine_of(its).check(ask(wrong))
    engine_of(model).check(ask(text(1, 20)))
