"""Decode steps are captured once for each form of the batch, then replayed with the bits of steps that run anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine_kit import Run, ask, engine_of, network, text
from oracle import Oracle

from pocketvlm.model import MiniCPMV


def answers(model: MiniCPMV) -> tuple[Run, list[int]]:
    """Three requests of which the last joins and the first ends while the others decode."""
    run = Run(engine_of(model, page_size=64))
    numbers = [run.add(ask(text(seed, 9), 6 + 9 * seed, seed)) for seed in range(2)]
    for _ in range(4):
        run.step()
    numbers.append(run.add(ask(text(7, 9), 12, 7)))
    run.finish()
    return run, numbers


def test_decode_steps_replay(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(oracle)
    backend, captures, forwards = model.backend, [], []
    capture, forward = backend.capture, model.forward

    def counted(work: Callable[[], Any]) -> tuple[Any, Callable[[], Any]]:
        captures.append(work)
        return capture(work)

    def listening(*arguments: Any) -> Any:
        forwards.append(arguments)
        return forward(*arguments)

    monkeypatch.setattr(backend, "capture", counted)
    monkeypatch.setattr(model, "forward", listening)
    replayed, numbers = answers(model)
    steps = replayed.engine.stats().steps
    assert len(captures) == 3  # batches of two, of three, of one
    assert len(forwards) <= 6 < 14 <= steps  # two prefills and the captures
    monkeypatch.setattr(backend, "capture", lambda work: (work(), work))
    anew, others = answers(model)
    assert len(forwards) > steps
    for number, other in zip(numbers, others, strict=True):
        np.testing.assert_array_equal(replayed.rows(number), anew.rows(other))
