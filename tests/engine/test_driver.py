"""The engine on its own thread: submit, deliver, cancel and close from anywhere, and failures that stay alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from engine_kit import alone, ask, check_idle, engine_of, network, pictured, text
from oracle import Oracle

from pocketvlm.engine import Engine, EngineDriver, Request, Ticket, TokenEvent
from pocketvlm.errors import PocketVLMError, PromptError
from pocketvlm.model import MiniCPMV

PATIENCE = 60.0  # seconds until a test gives up waiting


@pytest.fixture(scope="module")
def model(oracle: Oracle) -> MiniCPMV:
    return network(oracle)


@pytest.fixture
def driver(model: MiniCPMV) -> Iterator[EngineDriver]:
    driver = EngineDriver(engine_of(model))
    driver.start()
    yield driver
    driver.close()
    assert not driver._thread.is_alive()
    check_idle(driver.engine)


class Receiver:
    """Takes events; `ended` is set with the last one."""

    def __init__(self, listen: Callable[[TokenEvent], None] = lambda event: None) -> None:
        self.events: list[TokenEvent] = []
        self.began, self.ended = threading.Event(), threading.Event()
        self.listen = listen

    def __call__(self, event: TokenEvent) -> None:
        assert not self.ended.is_set()
        assert threading.current_thread().name == "pocketvlm-engine"
        self.events.append(event)
        self.began.set()
        self.listen(event)
        if event.finish_reason is not None:
            self.ended.set()

    def tokens(self) -> list[int]:
        assert self.ended.wait(PATIENCE)
        return [event.token_id for event in self.events]


def eventually(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < until:
        time.sleep(0.001)
    return holds()


def test_many_threads_get_the_answers_of_requests_alone(oracle: Oracle, model: MiniCPMV, driver: EngineDriver) -> None:
    requests = [ask(text(n % 5, 10 + 3 * n, [5]), 6, n) for n in range(12)] + [
        ask(pictured(oracle, 1, words=80), 6, 3)
    ] * 3
    wanted = [alone(model, request)[0] for request in requests]  # the backend records for one engine at a time
    receivers = [Receiver() for _ in requests]
    tickets: dict[int, Ticket] = {}

    def submit(index: int) -> None:
        tickets[index] = driver.submit(requests[index], receivers[index])

    threads = [threading.Thread(target=submit, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(len(requests)):
        assert receivers[index].tokens() == wanted[index]
        ticket = tickets[index]
        assert {event.request_id for event in receivers[index].events} == {ticket.number}
        assert ticket.queue_seconds >= 0
        assert ticket.seconds.prefill > 0
        assert ticket.seconds.decode > 0
    assert len({ticket.number for ticket in tickets.values()}) == len(requests)
    assert sorted(tickets[index].cached_tokens > 0 for index in (12, 13, 14)) in ([False, True, True], [True] * 3)
    stats = driver.stats()
    assert stats.generated_tokens == 6 * len(requests)
    assert stats.prompt_tokens == sum(len(request.prompt.ids) for request in requests)
    assert stats.running == stats.waiting == 0


def test_impossible_requests_are_refused_at_once(driver: EngineDriver) -> None:
    with pytest.raises(PromptError, match="no tokens"):
        driver.submit(ask(text(0, 0)), Receiver())


def test_cancelling_at_any_stage(oracle: Oracle, driver: EngineDriver) -> None:
    driver.engine.scheduler.max_seqs = 1
    first, second, third = Receiver(), Receiver(), Receiver()
    running = driver.submit(ask(text(1, 10), 3000), first)
    waiting = driver.submit(ask(pictured(oracle, 1), 3), second)
    last = driver.submit(ask(pictured(oracle, 2), 3), third)
    assert first.began.wait(PATIENCE)
    driver.cancel(waiting)
    assert second.tokens() == [-1]
    assert second.events[0].finish_reason == "abort"
    driver.cancel(running)
    driver.cancel(running)
    assert first.tokens()[-1] == -1
    assert -1 not in first.tokens()[:-1]
    assert len(third.tokens()) == 3
    driver.cancel(last)
    driver.cancel(Ticket(123456))
    again = Receiver()
    driver.submit(ask(text(3, 5), 2), again)
    assert len(again.tokens()) == 2
    assert len(third.events) == 3


def test_a_receiver_that_fails_loses_its_request_alone(model: MiniCPMV, driver: EngineDriver) -> None:
    def fail(event: TokenEvent) -> None:
        raise OSError("gone")

    good, bad = Receiver(), Receiver(fail)
    driver.submit(ask(text(1, 10), 50), bad)
    driver.submit(ask(text(2, 10), 10), good)
    assert good.tokens() == alone(model, ask(text(2, 10), 10))[0]
    assert len(bad.events) == 1
    assert eventually(lambda: not driver.engine.sequences)


def test_a_receiver_may_submit_and_cancel(driver: EngineDriver) -> None:
    after, tickets = Receiver(), []

    def follow(event: TokenEvent) -> None:
        if not tickets:
            tickets.append(driver.submit(ask(text(2, 10), 3), after))
            driver.cancel(Ticket(event.request_id))

    before = Receiver(follow)
    driver.submit(ask(text(1, 10), 1000), before)
    assert before.tokens()[-1] == -1
    assert len(after.tokens()) == 3


def test_a_receiver_may_end_and_call_without_waiting_for_itself(driver: EngineDriver) -> None:
    other, found = Receiver(), []

    def follow(event: TokenEvent) -> None:
        if not found:
            driver.end(ticket)
            found.append(driver.call(lambda: len(driver.engine.sequences)))

    ticket = driver.submit(ask(text(2, 10), 3000), other)
    last = Receiver(follow)
    driver.submit(ask(text(1, 10), 5), last)
    assert len(last.tokens()) == 5
    assert other.tokens()[-1] == -1
    assert found[0] >= 1


def test_closing_waits_for_answers_or_ends_them(model: MiniCPMV) -> None:
    patient = EngineDriver(engine_of(model))
    patient.start()
    receiver = Receiver()
    patient.submit(ask(text(1, 10), 30), receiver)
    patient.close(drain_seconds=PATIENCE)
    assert receiver.ended.is_set()
    assert len(receiver.events) == 30
    with pytest.raises(PocketVLMError, match="closed"):
        patient.submit(ask(text(1, 10)), Receiver())
    hasty = EngineDriver(engine_of(model))
    hasty.start()
    receivers = [Receiver() for _ in range(3)]
    for receiver in receivers:
        hasty.submit(ask(text(1, 10), 3000), receiver)
    hasty.close()
    hasty.close()
    assert [receiver.events[-1].finish_reason for receiver in receivers] == ["abort"] * 3
    check_idle(hasty.engine)
    EngineDriver(engine_of(model)).close()


def test_a_step_that_fails_ends_what_there_is_and_the_thread_goes_on(
    model: MiniCPMV, driver: EngineDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Engine.step
    failing = threading.Event()

    def fail(self: Engine) -> Any:
        if failing.is_set():
            failing.clear()
            raise SystemError("bug")
        return step(self)

    monkeypatch.setattr(Engine, "step", fail)
    receiver = Receiver(lambda event: failing.set() if event.finish_reason is None else None)
    driver.submit(ask(text(1, 10), 100), receiver)
    receiver.tokens()
    assert receiver.events[-1].finish_reason == "error"
    assert "SystemError: bug" in str(receiver.events[-1].error)
    request: Request = ask(text(2, 10), 5)
    good = Receiver()
    driver.submit(request, good)
    assert good.tokens() == alone(model, request)[0]


def test_memory_of_views_goes_back_when_nobody_asks_any_more(
    oracle: Oracle, driver: EngineDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []
    monkeypatch.setattr("pocketvlm.engine.driver._IDLE_SECONDS", 0.05)
    monkeypatch.setattr(driver.engine.model.backend, "return_memory", lambda: given.append(True))
    for prompt in (text(1, 20), pictured(oracle, 3)):
        receiver = Receiver(lambda event: given.append(False) if event.finish_reason else None)
        driver.submit(ask(prompt), receiver)
        assert receiver.tokens()
    assert eventually(lambda: not driver.engine.can_trim)
    assert given == [False, False, True]


def test_room_for_checkpoints_is_made_when_nobody_asks(
    model: MiniCPMV, driver: EngineDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketvlm.engine.driver._IDLE_SECONDS", 0.05)
    engine = driver.engine
    receiver = Receiver()
    driver.submit(ask(text(1, 40, [10, 30])), receiver)
    assert receiver.tokens()
    assert eventually(lambda: not engine.can_preallocate)
    ready = engine.memory.allocated
    assert ready >= engine.memory.used + 2 * engine.memory.slot_bytes
    other = Receiver()
    driver.submit(ask(text(2, 40, [10, 30])), other)
    assert other.tokens() == alone(model, ask(text(2, 40, [10, 30])))[0]
    assert len(engine.prefix) == 4


def test_requests_run_where_no_room_can_be_made(
    model: MiniCPMV, driver: EngineDriver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[bool] = []

    def fail(limit: int) -> None:
        tries.append(True)
        raise MemoryError

    monkeypatch.setattr("pocketvlm.engine.driver._IDLE_SECONDS", 0.02)
    monkeypatch.setattr(driver.engine.memory, "preallocate", fail)
    for seed in (1, 2):
        receiver = Receiver()
        driver.submit(ask(text(seed, 40, [10, 30])), receiver)
        assert receiver.tokens() == alone(model, ask(text(seed, 40, [10, 30])))[0]
        assert eventually(lambda: bool(tries))
    time.sleep(0.1)  # long enough for another try
    assert tries == [True]
    assert "requests allocate it from now on" in caplog.text


def test_who_submits_does_not_wait_for_room_being_made(
    model: MiniCPMV, driver: EngineDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resting, submitted, in_time = threading.Event(), threading.Event(), []

    def slow(limit: int) -> None:
        resting.set()
        in_time.append(submitted.wait(20))
        raise MemoryError

    monkeypatch.setattr("pocketvlm.engine.driver._IDLE_SECONDS", 0.02)
    monkeypatch.setattr(driver.engine.memory, "preallocate", slow)
    first, second = Receiver(), Receiver()
    driver.submit(ask(text(1, 20)), first)
    assert first.tokens()
    assert resting.wait(20)
    driver.submit(ask(text(2, 20)), second)
    submitted.set()
    assert second.tokens() == alone(model, ask(text(2, 20)))[0]
    assert in_time == [True]
