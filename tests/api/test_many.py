"""Many questions at once, callers with an event loop, closing a model, and cancelled answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import pocketvlm
from pocketvlm import ImageError, InputError, Model, OptionError, PocketVLMError, PromptError
from pocketvlm.engine import TokenEvent

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}
ENDLESS: dict[str, Any] = {"temperature": 1.5, "seed": 1, "ignore_eos": True, "max_tokens": 1500}
MANY = {name: value for name, value in ENDLESS.items() if name != "max_tokens"}


@pytest.fixture(scope="module")
def model() -> Model:
    return pocketvlm.load("nano", max_seqs=3, cache=False)


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (60, 60), "red").save(path)
    return path


def test_a_list_gives_results_in_order_and_each_has_its_own_error(model: Model, red: Path) -> None:
    texts = ["Hello", "What is this?", "What is that?", "one", "two"]
    images = [[], [red], ["missing.png"], [], []]
    results = model.ask(texts, images, **GREEDY)
    assert [result.error is None for result in results] == [True, True, False, True, True]
    assert results[2].finish_reason == "error"
    assert isinstance(results[2].error, ImageError)
    assert "missing.png" in results[2].to_dict()["error"]
    for text, its, result in zip(texts, images, results, strict=True):
        if result.error is None:
            assert result.token_ids == model.ask(text, its, **GREEDY).token_ids


def test_questions_of_a_list_have_options_of_their_own(model: Model, red: Path) -> None:
    questions = [{"text": "Hello", "max_tokens": 2}, {"text": "What is this?", "images": [red]}, "Hello"]
    first, second, third = model.ask(questions, temperature=0, max_tokens=4, ignore_eos=True)
    assert [len(result.token_ids) for result in (first, second, third)] == [2, 4, 4]
    assert second.usage.image_tokens > 0
    assert first.token_ids == third.token_ids[:2]
    wrong, right = model.ask([{"text": "a", "temprature": 1}, "b"], **GREEDY)
    assert isinstance(wrong.error, OptionError)
    assert right.error is None


@pytest.fixture
def slowly(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between the engine's steps, so that an answer does not end before it is cancelled."""
    step = model.engine.step

    def slow() -> list[TokenEvent]:
        time.sleep(0.005)
        return step()

    monkeypatch.setattr(model.engine, "step", slow)


def test_an_iterator_is_read_as_answers_are(model: Model) -> None:
    taken = []

    def questions() -> Iterator[str]:
        for number in range(100):
            taken.append(number)
            yield f"question {number}"

    answers = model.ask(questions(), temperature=0, max_tokens=2)
    assert not taken
    assert next(answers).error is None
    assert len(taken) <= 7
    answers.close()  # type: ignore[attr-defined]
    assert not model.engine.sequences
    assert len(taken) <= 7


def test_closing_an_iterator_cancels_what_runs(model: Model, slowly: None) -> None:
    answers = model.ask(
        ({"text": "Hello", "max_tokens": 1 if first else 1500} for first in (True, *[False] * 9)), **MANY
    )
    next(answers)
    before = model.engine.stats().generated_tokens
    answers.close()  # type: ignore[attr-defined]
    assert not model.engine.sequences
    assert model.engine.stats().generated_tokens < before + 1000


def test_what_cannot_be_questions(model: Model) -> None:
    for wrong, message in (
        (3, "text must be a string"),
        ([3], "a question must be a text or a mapping"),
        ([{"question": "a"}], "needs 'text'.*question"),
    ):
        with pytest.raises(InputError, match=message):
            model.ask(wrong)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="2 questions but 1 lists of images"):
        model.ask(["a", "b"], [[]])
    with pytest.raises(InputError, match="put media into them"):
        model.ask(iter(["a"]), [[]])
    with pytest.raises(OptionError, match="did you mean 'temperature'"):
        model.ask(["a"], temprature=1)
    assert model.ask([]) == []


def test_cancelling_ends_an_answer_and_frees_its_memory(model: Model) -> None:
    stream = model.stream("Hello", **ENDLESS)
    text = next(stream).text + next(stream).text
    stream.cancel()
    last = list(stream)[-1]
    assert last.finish_reason == "abort"
    assert last.usage is not None
    assert last.usage.completion_tokens == 2
    assert len(text) > 0
    assert not model.engine.sequences
    early = model.stream("Hello", **ENDLESS)
    early.cancel()
    assert [chunk.finish_reason for chunk in early] == ["abort"]


def test_a_dropped_stream_is_freed_at_once(model: Model) -> None:
    stream = model.stream("Hello", **ENDLESS)
    next(stream)
    assert model.engine.sequences
    del stream
    assert not model.engine.sequences


def test_async_calls_share_the_engine_and_give_the_same(model: Model, red: Path) -> None:
    async def all_at_once() -> list[pocketvlm.Result]:
        calls = [model.aask("What is this?", [red], **GREEDY) for _ in range(5)]
        talk = [{"role": "user", "content": "Hello"}]
        return await asyncio.gather(*calls, model.achat(talk, **GREEDY))

    *asked, said = asyncio.run(all_at_once())
    assert {result.token_ids for result in asked} == {model.ask("What is this?", [red], **GREEDY).token_ids}
    assert said.token_ids == model.ask("Hello", **GREEDY).token_ids


def test_async_streams_do_not_block_the_loop_and_can_be_left(model: Model, slowly: None) -> None:
    before = model.engine.stats().generated_tokens

    async def some() -> tuple[int, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticker = asyncio.create_task(tick())
        seen = 0
        chunks = model.astream("Hello", **ENDLESS)
        async for _ in chunks:
            seen += 1
            if seen == 5:
                break
        await chunks.aclose()
        assert not model.engine.sequences
        ticker.cancel()
        return seen, ticks

    seen, ticks = asyncio.run(some())
    assert seen == 5
    assert ticks > 5
    assert model.engine.stats().generated_tokens < before + 1000


def test_a_cancelled_task_ends_its_request(model: Model) -> None:
    async def give_up() -> None:
        task = asyncio.create_task(model.aask("Hello", **ENDLESS))
        while not model.engine.sequences:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not model.engine.sequences

    asyncio.run(give_up())


def test_async_errors_are_raised(model: Model) -> None:
    with pytest.raises(PromptError):
        asyncio.run(model.achat([]))


def test_a_closed_model_says_so() -> None:
    with pocketvlm.load("nano", cache=False) as model:
        stream = model.stream("Hello", **ENDLESS)
        next(stream)
        reader = threading.Thread(target=lambda: list(stream))
        reader.start()
    reader.join(20)
    assert not reader.is_alive()
    for call in (lambda: model.ask("Hello"), lambda: model.engine, model.info, lambda: model.ask(["a"])):
        with pytest.raises(PocketVLMError, match="nano is closed: load it again"):
            call()
    model.close()
