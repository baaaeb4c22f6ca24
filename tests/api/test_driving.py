"""One driver steps the engine of a model: in the callers' threads, or in its own; alone, together and closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

import pocketvlm
from pocketvlm import Model, PocketVLMError
from pocketvlm.engine import Engine, TokenEvent

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
ENDLESS: dict[str, Any] = {"temperature": 1.5, "seed": 1, "ignore_eos": True, "max_tokens": 1500}


@pytest.fixture
def model() -> Iterator[Model]:
    with pocketvlm.load("nano", max_seqs=3, threads=1, cache=False) as model:
        yield model


@pytest.fixture
def started(model: Model) -> Model:
    """A model whose driver has a thread, as in a server."""
    model.driver.start()
    return model


def test_plain_use_starts_no_thread(model: Model) -> None:
    before = set(threading.enumerate())
    steps: set[int] = set()
    step = model.engine.step

    def watched() -> list[TokenEvent]:
        steps.add(threading.get_ident())
        assert set(threading.enumerate()) == before
        return step()

    model.engine.step = watched  # type: ignore[method-assign]
    model.ask("Hello", **GREEDY)
    list(model.stream("Hello", **GREEDY))
    model.chat([{"role": "user", "content": "Hello"}], **GREEDY)
    list(model.deltas(model.processor([{"role": "user", "content": "Hello"}]), **GREEDY))
    model.logits(model.processor([{"role": "user", "content": "Hello"}]))
    assert steps == {threading.get_ident()}
    assert set(threading.enumerate()) == before


def test_memory_of_views_goes_back_with_the_last_request(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(model.ops, "return_memory", lambda: given.append(len(model.engine.sequences)))
    other = model.stream("Hello", **ENDLESS)
    next(other)
    model.ask("What is this?", [Image.new("RGB", (60, 60), "red")], **GREEDY)
    assert not given
    other.close()
    assert given == [0]


def test_a_driver_with_a_thread_gives_the_same_answers(model: Model) -> None:
    prompt = model.processor([{"role": "user", "content": "Hello"}])
    wanted = model.generate(prompt, **GREEDY).token_ids
    logits = model.logits(prompt)
    model.driver.start()
    stepped: set[str] = set()
    step = model.engine.step

    def watched() -> list[TokenEvent]:
        stepped.add(threading.current_thread().name)
        return step()

    model.engine.step = watched  # type: ignore[method-assign]
    assert model.generate(prompt, **GREEDY).token_ids == wanted
    assert (model.logits(prompt) == logits).all()
    stream = model.stream(prompt, **ENDLESS)
    next(stream)
    stream.close()
    assert not model.engine.sequences
    assert stepped == {"pocketvlm-engine"}
    model.close()
    assert "pocketvlm-engine" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("own_thread", [False, True])
def test_two_threads_ask_while_a_third_cancels(model: Model, own_thread: bool) -> None:
    wanted = [model.ask(text, **GREEDY).token_ids for text in ("one", "two two")]
    if own_thread:
        model.driver.start()
    stream = model.stream("three", **ENDLESS)
    next(stream)
    found: dict[int, list[tuple[int, ...]]] = {0: [], 1: []}

    def work(index: int) -> None:
        for _ in range(5):
            found[index].append(model.ask(("one", "two two")[index], **GREEDY).token_ids)

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    stream.cancel()
    assert [chunk.finish_reason for chunk in stream][-1] == "abort"
    for thread in threads:
        thread.join(60)
    assert found == {0: [wanted[0]] * 5, 1: [wanted[1]] * 5}
    assert not model.engine.sequences


@pytest.mark.parametrize("own_thread", [False, True])
def test_a_step_that_fails_ends_its_requests_and_no_later_one(
    model: Model, own_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own_thread:
        model.driver.start()
    wanted = model.ask("Hello", **GREEDY).token_ids
    step, failing = Engine.step, [True]

    def fail(self: Engine) -> list[TokenEvent]:
        if failing.pop() if failing else False:
            raise SystemError("bug")
        return step(self)

    monkeypatch.setattr(Engine, "step", fail)
    with pytest.raises(PocketVLMError, match="SystemError: bug") as caught:
        model.ask("Hello", **GREEDY)
    assert isinstance(caught.value.__cause__, SystemError)
    assert model.ask("Hello", **GREEDY).token_ids == wanted
    assert not model.engine.sequences


def test_an_interrupted_step_leaves_the_driver_usable(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = model.ask("Hello", **GREEDY).token_ids
    other = model.stream("Hello", **GREEDY)
    ids = next(other).token_ids
    step, interrupting = Engine.step, [True]

    def interrupt(self: Engine) -> list[TokenEvent]:
        if interrupting.pop() if interrupting else False:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Engine, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.ask("Hello", **GREEDY)
    assert len(model.engine.sequences) == 1
    assert ids + sum((chunk.token_ids for chunk in other), ()) == wanted
    assert model.ask("Hello", **GREEDY).token_ids == wanted


def ended(read: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread that reads something, and what comes of it."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(read())
        except PocketVLMError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, found


@pytest.mark.parametrize("own_thread", [False, True])
def test_closing_ends_what_runs_in_other_threads(model: Model, own_thread: bool) -> None:
    if own_thread:
        model.driver.start()
    engine = model.engine
    readers = [ended(lambda: list(model.stream("Hello", **ENDLESS))[-1].finish_reason) for _ in range(3)]
    while len(engine.scheduler.running) < 3:
        time.sleep(0.001)
    model.close()
    for thread, found in readers:
        thread.join(20)
        assert found == ["abort"]
    assert not engine.sequences
    assert engine.memory.used == engine.memory.cached


def test_a_stream_of_a_closed_model_ends_with_abort_or_is_refused(model: Model) -> None:
    read, unread = model.stream("Hello", **ENDLESS), model.stream("Hello", **ENDLESS)
    next(read)
    model.close()
    assert [chunk.finish_reason for chunk in read] == ["abort"]
    with pytest.raises(PocketVLMError, match="being closed"):
        next(unread)


def test_nobody_waits_for_what_cannot_come(model: Model) -> None:
    with pytest.raises(PocketVLMError, match="no such request"):
        model.driver.wait(lambda: False)


def test_work_between_steps_waits_for_no_answer(started: Model) -> None:
    stream = started.stream("Hello", **ENDLESS)
    next(stream)
    before = started.engine.stats().generated_tokens
    prompt = started.processor([{"role": "user", "content": "Hello"}])
    assert len(started.logits(prompt)) == len(prompt.ids)
    assert started.engine.stats().generated_tokens < before + 500
    with pytest.raises(ZeroDivisionError):
        started.driver.call(lambda: 1 // 0)
    stream.close()


def test_a_stream_dropped_by_the_thread_that_steps_is_freed_after_the_step(model: Model) -> None:
    held = [model.stream("Hello", **ENDLESS)]
    next(held[0])
    step = model.engine.step

    def dropping() -> list[TokenEvent]:
        held.clear()
        return step()

    model.engine.step = dropping  # type: ignore[method-assign]
    model.ask("one", **GREEDY)
    assert not model.engine.sequences
