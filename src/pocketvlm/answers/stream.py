"""`ChoiceStream` streams one choice to the caller's thread; reading the stream steps the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from pocketvlm.answers.choice import Choice, Delta
from pocketvlm.engine.driver import EngineDriver
from pocketvlm.engine.request import TokenEvent
from pocketvlm.errors import PocketVLMError


@dataclass(slots=True, eq=False)
class _Received:
    """Events that were not read yet, and whether the answer was cancelled."""

    events: deque[TokenEvent] = field(default_factory=deque)
    cancelled: bool = False

    def ready(self) -> bool:
        return self.cancelled or bool(self.events)


class ChoiceStream(Iterator[Delta]):
    """The deltas of one choice, one a token. The last one has a finish reason; then usage and timings are final."""

    def __init__(self, driver: EngineDriver, choice: Choice) -> None:
        self.choice = choice
        # The generator does not refer to this object, so dropping the stream closes it and frees the request at once.
        self._received = _Received()
        self._deltas = _deltas(driver, choice, self._received)

    def __next__(self) -> Delta:
        """The next delta. Raises PocketVLMError where the request failed."""
        return next(self._deltas)

    def cancel(self) -> None:
        """End the answer after the current step; may be called from any thread, and from signal handlers.

        The stream then ends with a delta whose finish_reason is "abort".
        """
        self._received.cancelled = True

    def close(self) -> None:
        """End the request now; only call this while no thread reads the stream."""
        self._deltas.close()


def _deltas(driver: EngineDriver, choice: Choice, received: _Received) -> Generator[Delta, None, None]:
    ticket = driver.submit(choice.request, received.events.append)
    try:
        choice.begin(ticket)
        while True:
            driver.wait(received.ready)
            event = TokenEvent(ticket.number, -1, "abort") if received.cancelled else received.events.popleft()
            delta = choice.feed((event,))
            if delta.error is not None:
                if isinstance(delta.cause, PocketVLMError):
                    raise delta.cause
                raise PocketVLMError(delta.error) from delta.cause
            if delta.finish_reason is not None:
                break
            yield delta
    finally:
        driver.end(ticket)
    yield delta
