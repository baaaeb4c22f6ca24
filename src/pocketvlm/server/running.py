"""A `Run` holds the sequences of one HTTP request and brings their events to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from pocketvlm.answers.choice import AnswerOptions, Choice, Delta
from pocketvlm.engine.driver import Ticket
from pocketvlm.engine.request import Request, TokenEvent
from pocketvlm.interfaces.errors import ApiError, from_delta


class Driver(Protocol):
    """What runs requests: the engine's driver, or a script that stands in for it in tests."""

    def submit(self, request: Request, deliver: Callable[[TokenEvent], None]) -> Ticket:
        """Queue a request; `deliver` is called on another thread."""
        ...

    def cancel(self, ticket: Ticket) -> None:
        """End a request."""
        ...

    def begun(self, ticket: Ticket) -> bool:
        """Whether a request has left the queue."""
        ...


class Mailbox:
    """Carries events from the engine's thread to the event loop: one wake-up for all that one step made."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: deque[tuple[Run, int, TokenEvent]] = deque()
        self._awake = False

    def post(self, run: Run, index: int, event: TokenEvent) -> None:
        """Called on the engine's thread."""
        self._events.append((run, index, event))
        if not self._awake:
            self._awake = True
            self._loop.call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        self._awake = False  # first: what is posted from here on wakes the loop again
        reached: dict[Run, None] = {}
        while self._events:
            run, index, event = self._events.popleft()
            run.take(index, event)
            reached[run] = None
        for run in reached:
            run.arrived()


class Run:
    """The sequences that answer one HTTP request. Everything but `Mailbox.post` happens on the event loop."""

    def __init__(self, driver: Driver, mailbox: Mailbox, requests: Sequence[Request], how: AnswerOptions) -> None:
        """Queue the requests, one a choice. Raises PromptError where they can never run."""
        self.choices = [Choice(index, request, how) for index, request in enumerate(requests)]
        self.gaps: list[float] = []
        self.failure: ApiError | None = None
        self.tickets: list[Ticket] = []
        self._driver = driver
        self._events: list[list[TokenEvent]] = [[] for _ in requests]
        self._live = len(requests)  # in the engine
        self._open = len(requests)  # not yet read to their end
        self._fresh = False  # whether there are events to read
        self._last: list[float | None] = [None] * len(requests)
        self._wake: asyncio.Future[None] | None = None
        self._listener: Callable[[list[Delta]], None] | None = None
        self._trouble: Exception | None = None  # of what was read for the listener
        self._ended: list[Callable[[Run], None]] = []
        try:
            for choice in self.choices:
                ticket = driver.submit(choice.request, partial(mailbox.post, self, choice.index))
                self.tickets.append(ticket)
                choice.begin(ticket)
        except BaseException:
            self.cancel()
            raise

    @property
    def done(self) -> bool:
        """Whether every choice has ended, and all of it was read."""
        return self._open == 0

    @property
    def released(self) -> bool:
        """Whether the engine is done with all sequences."""
        return self._live == 0

    def when_released(self, call: Callable[[Run], None]) -> None:
        """Have `call(run)` called when the engine is done with all sequences."""
        if self.released:
            call(self)
        else:
            self._ended.append(call)

    def take(self, index: int, event: TokenEvent) -> None:
        """One event of a choice, on the loop."""
        self._events[index].append(event)
        self._fresh = True
        if event.finish_reason is not None:
            self._live -= 1
            if self._live == 0:
                for call in self._ended:
                    call(self)
        if event.token_id >= 0:
            now, last = time.perf_counter(), self._last[index]
            if last is not None:
                self.gaps.append(now - last)
            self._last[index] = now

    def listen(self, listener: Callable[[list[Delta]], None]) -> None:
        """Give deltas to `listener` at once, without waking a task, if they come while `next` waits for some.

        `next` returns when all is read; what goes wrong in reading or in the listener is raised there.
        """
        self._listener = listener

    def arrived(self) -> None:
        """All that one step made has been taken."""
        if self._listener is not None and self._wake is not None and self.failure is None:
            try:
                self._listener(self._read())
            except Exception as error:
                self._trouble = error
            else:
                if not self.done:
                    return
        self.wake()

    def wake(self) -> None:
        """Let `next` return, if only with nothing."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def fail(self, error: ApiError) -> None:
        """End all choices; `next` raises this error."""
        if self.failure is None and not self.done:
            self.failure = error
            self.cancel()
            self.wake()

    async def next(self) -> list[Delta]:
        """What came since the last call; waits if there is nothing yet. Raises the error of `fail`.

        `wake` ends the wait, so the list may be empty.
        """
        if not self._fresh and self.failure is None and self._open:
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        if self.failure is not None:
            raise self.failure
        if self._trouble is not None:
            raise self._trouble
        return self._read()

    def _read(self) -> list[Delta]:
        """What the choices make of the events that came. Raises ApiError where a choice failed."""
        self._fresh = False
        deltas = []
        for choice, events in zip(self.choices, self._events, strict=True):
            if events and choice.finish_reason is None:
                delta = choice.feed(events)
                if (failed := from_delta(delta)) is not None:
                    self.cancel()
                    raise failed
                if delta.finish_reason is not None:
                    self._open -= 1
                    if events[-1].finish_reason is None:
                        self._driver.cancel(self.tickets[choice.index])
                deltas.append(delta)
            events.clear()
        return deltas

    def cancel(self) -> None:
        """End what still runs in the engine."""
        for choice, ticket in zip(self.choices, self.tickets, strict=False):
            if choice.finish_reason is None:
                self._driver.cancel(ticket)
