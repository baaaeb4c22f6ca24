"""Views that are made when they are due: the same answers, others go on meanwhile, and what fails fails alone."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from engine_kit import Run, alone, ask, check_idle, engine_of, network, pictured, text
from oracle import Oracle, make_prompt

from pocketvlm.engine.fitting import ways_to_fit
from pocketvlm.errors import PromptError, VideoError
from pocketvlm.model import MiniCPMV
from pocketvlm.types import PendingView, Prompt, VideoInfo, View


@pytest.fixture(scope="module")
def model(oracle: Oracle) -> MiniCPMV:
    return network(oracle)


class Slow:
    """Makes views when a test lets it."""

    def __init__(self, views: tuple[View, ...], broken: int = -1) -> None:
        self.views, self.broken = views, broken
        self.open = [threading.Event() for _ in views]
        self.loaded: list[int] = []

    def ready(self, number: int, timeout: float = 0.0) -> bool:
        return self.open[number].wait(timeout)

    def load(self, number: int, part: int) -> View:
        assert self.open[number].is_set()
        self.loaded.append(number)
        if number == self.broken:
            raise VideoError("clip.mp4: frame 3 of 9 cannot be decoded: the file is damaged")
        return replace(self.views[number], start=0)

    def let(self) -> None:
        for event in self.open:
            event.set()


def filmed(prompt: Prompt, **options: int) -> tuple[Prompt, Slow]:
    """The same prompt with views that are made later."""
    views = tuple(view for view in prompt.views if isinstance(view, View))
    slow = Slow(views, **options)
    pending = tuple(
        PendingView(
            slow, number, 0, view.rows, view.cols, view.downsample_mode, view.start, view.tokens, f"clip {number}"
        )
        for number, view in enumerate(views)
    )
    return replace(prompt, views=pending), slow


def test_answers_are_those_of_views_that_were_there(oracle: Oracle, model: MiniCPMV) -> None:
    prompt = pictured(oracle, 1, views=3)
    pending, slow = filmed(prompt)
    slow.let()
    tokens, rows = alone(model, ask(prompt))
    run = Run(engine_of(model))
    first = run.add(ask(pending))
    run.finish()
    assert run.tokens(first) == tokens
    np.testing.assert_array_equal(run.rows(first), rows)
    assert slow.loaded == [0, 1, 2]
    # Again: checkpoints and features are found by the names of the views, nothing is decoded.
    again = run.add(ask(pending))
    run.finish()
    assert run.tokens(again) == tokens
    assert slow.loaded == [0, 1, 2]
    check_idle(run.engine)


def test_without_checkpoints_features_are_found_by_name(oracle: Oracle, model: MiniCPMV) -> None:
    pending, slow = filmed(pictured(oracle, 1, views=3))
    slow.let()
    run = Run(engine_of(model, prefix_cache=0))
    for _ in range(2):
        run.add(ask(pending))
        run.finish()
    assert slow.loaded == [0, 1, 2]
    assert (run.engine.vision.misses, run.engine.vision.hits) == (3, 3)


def test_equal_frames_are_encoded_once(oracle: Oracle, model: MiniCPMV) -> None:
    prompt = make_prompt(oracle.config, [(8, 8)] * 3, seed=1)
    still = prompt.views[0]
    same = replace(prompt, views=tuple(replace(still, start=view.start) for view in prompt.views))
    pending, slow = filmed(same)
    slow.let()
    for chunk in (16, 400):  # one after the other, and in one pass
        run = Run(engine_of(model, chunk=chunk))
        number = run.add(ask(pending))
        run.finish()
        assert run.tokens(number) == alone(model, ask(same), chunk=chunk)[0]
        assert (run.engine.vision.misses, run.engine.vision.hits) == (1, 2)


def test_others_go_on_while_frames_are_decoded(oracle: Oracle, model: MiniCPMV) -> None:
    pending, slow = filmed(pictured(oracle, 1))
    run = Run(engine_of(model))
    film = run.add(ask(pending))
    other, still = run.add(ask(text(2, 40), 20)), run.add(ask(pictured(oracle, 3)))
    for _ in range(200):
        run.step()
        if len(run.tokens(other)) == 20 and len(run.tokens(still)) == 8:
            break
    assert len(run.tokens(other)) == 20
    assert len(run.tokens(still)) == 8
    assert run.tokens(film) == []
    assert run.step() == []  # a step with nothing to do but to wait ends soon
    slow.let()
    run.finish()
    assert len(run.tokens(film)) == 8
    check_idle(run.engine)


def test_two_answers_about_one_clip_do_not_hinder_each_other(oracle: Oracle, model: MiniCPMV) -> None:
    """Nothing is cached, so both need every view; the clip has only the one that was requested last."""

    class Narrow(Slow):
        at = asks = -1

        def ready(self, number: int, timeout: float = 0.0) -> bool:
            self.asks = self.asks + 1 if number == self.at else 0
            self.at = number
            return self.asks >= 3  # it takes some more looks until it is there

    plain = pictured(oracle, 1, views=3)
    pending, _ = filmed(plain)
    slow = Narrow(tuple(view for view in plain.views if isinstance(view, View)))
    slow.let()
    prompt = replace(pending, views=tuple(replace(view, source=slow) for view in pending.views))
    run = Run(engine_of(model, 8000, prefix_cache=0, vision_cache=0))
    numbers = []
    for seed in range(3):  # each begins when the one before has its first view
        numbers.append(run.add(ask(prompt, seed=seed)))
        for _ in range(50):
            if len(slow.loaded) <= seed:
                run.step()
    run.finish(400)
    for seed, number in enumerate(numbers):
        assert run.tokens(number) == alone(model, ask(plain, seed=seed))[0]


def test_a_clip_that_breaks_ends_its_request_alone(oracle: Oracle, model: MiniCPMV) -> None:
    pending, slow = filmed(pictured(oracle, 1, views=3), broken=1)
    slow.let()
    run = Run(engine_of(model))
    film, other = run.add(ask(pending)), run.add(ask(pictured(oracle, 3)))
    run.finish()
    last = run.events[film][-1]
    assert last.finish_reason == "error"
    assert isinstance(last.cause, VideoError)
    assert last.error == str(last.cause)
    assert run.tokens(other) == alone(model, ask(pictured(oracle, 3)))[0]
    check_idle(run.engine)


def video(frames: int, each: int, **changes: object) -> VideoInfo:
    info = VideoInfo(
        64, 48, frames * 30, 30.0, float(frames), tuple((n,) for n in range(frames)), frames, "16x", None, (448, 448),
        None, frames * (each - 2), frames * each,
    )  # fmt: skip
    return replace(info, **changes)  # type: ignore[arg-type]


def test_what_would_fit_is_said_and_does(oracle: Oracle, model: MiniCPMV) -> None:
    prompt = replace(text(1, 5000), videos=(video(100, 49),))
    assert ways_to_fit(prompt, 3000) == "use max_num_frames=59, or shorten the text"
    assert 5000 - (100 - 59) * 49 <= 3000
    both = replace(prompt, videos=(video(100, 49, downsample_mode="4x", grid=(1, 2)),))
    assert ways_to_fit(both, 3000).endswith("or downsample_mode='16x', or shorten the text")
    assert ways_to_fit(text(1, 5000), 3000) == "shorten the text"
    with pytest.raises(PromptError, match="5000 tokens but the model's context holds 4096: use max_num_frames=81"):
        engine_of(model).check(ask(prompt))
