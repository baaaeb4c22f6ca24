"""`EngineService` steps an engine on its own thread; any thread may submit and cancel requests."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pocketvlm.engine.engine import Engine
from pocketvlm.engine.request import Request, StageSeconds, TokenEvent
from pocketvlm.engine.stats import EngineStats
from pocketvlm.errors import PocketVLMError

Deliver = Callable[[TokenEvent], None]
# Seconds without a request before memory is given back and made ready: who asks again at once does not wait for that.
_REST = 1.0
_BREATH = 0.01  # between one such thing and the next
_log = logging.getLogger("pocketvlm.engine")


@dataclass(slots=True, eq=False)
class Ticket:
    """One submitted request: `number` is the request_id of its events.

    The rest is filled as it goes and final when the last event was delivered: prompt tokens that were not computed for
    it, seconds until it first ran, and seconds in each stage.
    """

    number: int
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    seconds: StageSeconds = field(default_factory=StageSeconds)


@dataclass(slots=True, eq=False)
class _Job:
    ticket: Ticket
    request: Request
    deliver: Deliver
    submitted: float


class EngineService:
    """Runs one engine on a thread of its own. Nobody else may use the engine or its backend meanwhile."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._wake = threading.Condition()
        self._new: deque[_Job] = deque()
        self._cancelled: set[int] = set()
        self._jobs: dict[int, _Job] = {}  # the thread's own
        self._open = self._prepares = True
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="pocketvlm-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, request: Request, deliver: Deliver) -> Ticket:
        """Queue a request; its events go to `deliver`, on the engine's thread, which must be quick.

        An exception in `deliver` ends that request alone. Raises PromptError where the request can never run,
        PocketVLMError after `close`.
        """
        self.engine.check(request)
        with self._wake:
            if not self._open:
                raise PocketVLMError("the engine takes no more requests: it is being closed")
            ticket = Ticket(self.engine.new_number())
            self._new.append(_Job(ticket, request, deliver, time.perf_counter()))
            self._wake.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a request, wherever it is: `deliver` gets one event "abort", unless the request has ended before."""
        with self._wake:
            self._cancelled.add(ticket.number)
            self._wake.notify()

    def close(self, drain_seconds: float = 0.0) -> None:
        """Take no new requests, wait so long for those there are, abort the rest, and join the thread."""
        with self._wake:
            self._open = False
            self._deadline = time.monotonic() + drain_seconds
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def begun(self, ticket: Ticket) -> bool:
        """Whether a request has left the queue: it runs, or has ended."""
        sequence = self.engine.sequences.get(ticket.number)
        return ticket.queue_seconds > 0 or (sequence is not None and sequence.admitted is not None)

    def stats(self) -> EngineStats:
        """The engine's numbers; requests that it has not seen yet count as waiting."""
        return self.engine.stats(len(self._new))

    def _run(self) -> None:
        pause = _REST
        while True:
            with self._wake:
                while self._idle and self._wake.wait(pause if self._restless else None):
                    pass
                resting = self._idle
                new, cancelled = list(self._new), self._cancelled
                self._new.clear()
                self._cancelled = set()
                closed = not self._open
            if resting:  # without the lock: who submits something meanwhile does not wait for it
                self._rest()
                pause = _BREATH
                continue
            pause = _REST
            for job in new:
                self._add(job)
            late = closed and time.monotonic() >= self._deadline
            for number in list(self._jobs) if late else cancelled:
                self._finish(TokenEvent(number, -1, "abort"))
            if self._jobs:
                self._step()
            elif closed:
                return

    @property
    def _idle(self) -> bool:
        return self._open and not (self._new or self._cancelled or self._jobs)

    @property
    def _restless(self) -> bool:
        return self.engine.untidy or (self._prepares and self.engine.unprepared)

    def _rest(self) -> None:
        """One thing that is best done while nobody waits."""
        if self.engine.untidy:
            self.engine.tidy()
            return
        try:
            self.engine.prepare()
        except Exception:  # most likely there is no memory; whoever needs it will hear of it
            self._prepares = False
            _log.warning("no room could be made beforehand; requests make their own from now on", exc_info=True)

    def _add(self, job: _Job) -> None:
        self._jobs[job.ticket.number] = job
        try:
            self.engine.add(job.request, job.ticket.number)
        except Exception as error:
            self._finish(TokenEvent(job.ticket.number, -1, "error", error=str(error)))

    def _step(self) -> None:
        try:
            events = self.engine.step()
        except Exception as error:
            _log.exception("a step of the engine failed; the requests that it had are ended")
            text = f"the engine failed: {type(error).__name__}: {error}"
            events = [TokenEvent(number, -1, "error", error=text) for number in self._jobs]
        for event in events:
            if event.finish_reason is not None:
                self._finish(event)
            elif event.request_id in self._jobs:
                job = self._jobs[event.request_id]
                self._fill(job)
                if not self._deliver(job, event):
                    self._drop(job)

    def _finish(self, event: TokenEvent) -> None:
        """Release a request, then deliver its last event."""
        job = self._jobs.get(event.request_id)
        if job is not None:
            self._fill(job)
            self._drop(job)
            self._deliver(job, event)

    def _fill(self, job: _Job) -> None:
        sequence = self.engine.sequences.get(job.ticket.number)
        if sequence is not None:
            job.ticket.cached_tokens, job.ticket.seconds = sequence.cached, sequence.seconds
            job.ticket.queue_seconds = (sequence.admitted or time.perf_counter()) - job.submitted

    def _drop(self, job: _Job) -> None:
        del self._jobs[job.ticket.number]
        if job.ticket.number in self.engine.sequences:
            self.engine.release(job.ticket.number, tidy=False)

    def _deliver(self, job: _Job, event: TokenEvent) -> bool:
        try:
            job.deliver(event)
        except Exception:
            _log.exception("the receiver of request %d failed: the request is ended", job.ticket.number)
            return False
        return True
