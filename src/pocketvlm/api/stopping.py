"""`Stop` says that SIGINT or SIGTERM asked a run to end; outside its steps they raise KeyboardInterrupt at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Stop:
    """Whether a run shall end after the step that runs. `stop()` is asked between two steps."""

    def __init__(self) -> None:
        self._asked = self._deferred = False

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self._asked

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that asks `stop()` itself: in it only the second SIGINT raises KeyboardInterrupt."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def handle(self, number: int, frame: Any) -> None:
        """Take a signal."""
        again, self._asked = self._asked, True
        if not self._deferred or (again and number == signal.SIGINT):
            raise KeyboardInterrupt


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """A block in which SIGINT and SIGTERM go to the `Stop` that it gives."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may have handlers
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
