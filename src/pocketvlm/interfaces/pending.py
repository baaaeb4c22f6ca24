"""A `PendingAnswer` runs the choices of one request and calls back when all have ended; no thread waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from pocketvlm.answers.answer import Answer
from pocketvlm.answers.choice import Choice
from pocketvlm.engine.driver import EngineDriver, Ticket
from pocketvlm.engine.request import TokenEvent
from pocketvlm.interfaces.errors import ApiError, from_delta


class PendingAnswer:
    """One request in the engine. `answered` or `refused` is called once, on the thread that steps the engine."""

    def __init__(
        self,
        driver: EngineDriver,
        choices: Sequence[Choice],
        answered: Callable[[Sequence[Answer]], None],
        refused: Callable[[ApiError], None],
    ) -> None:
        """Submit the choices. Raises PromptError where one can never run, PocketVLMError after the driver's `close`."""
        self._driver = driver
        self._answered, self._refused = answered, refused
        self._answers = [Answer() for _ in choices]
        self._left = len(choices)
        self._tickets: list[Ticket] = []
        # The engine may deliver events of the first choice while later ones are being submitted.
        self._lock = threading.Lock()
        if not choices:
            answered(self._answers)
        try:
            with self._lock:
                for choice in choices:
                    ticket = driver.submit(choice.request, partial(self._deliver, choice))
                    self._tickets.append(ticket)
                    choice.begin(ticket)
        except BaseException:
            self._left = 0
            self.cancel()
            raise

    @property
    def ended(self) -> bool:
        """Whether `answered` or `refused` was called."""
        return self._left == 0

    def cancel(self) -> None:
        """End the choices that run; unless all have ended, `refused` gets an error with status 503."""
        for ticket in self._tickets:
            self._driver.cancel(ticket)

    def _deliver(self, choice: Choice, event: TokenEvent) -> None:
        with self._lock:
            if self._left == 0 or choice.finish_reason is not None:
                return
            try:
                self._read(choice, event)
            except Exception as error:
                self._left = 0
                self.cancel()
                failure = error if isinstance(error, ApiError) else None
                self._refused(failure or ApiError(500, f"the answer cannot be read: {error}", code="internal_error"))

    def _read(self, choice: Choice, event: TokenEvent) -> None:
        delta = choice.feed((event,))
        if (failed := from_delta(delta)) is not None:
            raise failed
        self._answers[choice.index].add(delta)
        if delta.finish_reason is None:
            return
        if event.finish_reason is None:  # a stop string ended the answer, and the engine does not know it yet
            self._driver.cancel(self._tickets[choice.index])
        self._left -= 1
        if self._left == 0:
            self._answered(self._answers)
