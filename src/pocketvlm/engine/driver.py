"""The one class that steps an engine: requests and cancellations come from any thread, events go to receivers."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from pocketvlm.adapters import Adapter
from pocketvlm.engine.engine import Engine
from pocketvlm.engine.request import Request, StageSeconds, TokenEvent
from pocketvlm.engine.stats import EngineStats
from pocketvlm.errors import PocketVLMError

Deliver = Callable[[TokenEvent], None]
T = TypeVar("T")
# Idle seconds before the driver's thread trims and preallocates memory: the next request may come at once.
_IDLE_SECONDS = 1.0
_UPKEEP_PAUSE = 0.01  # seconds between two such actions
_log = logging.getLogger("pocketvlm.engine")


@dataclass(slots=True, eq=False)
class Ticket:
    """One submitted request: `number` is the request_id of its events.

    The other fields change while it runs and are final when `ended`: prompt tokens that were not computed for it,
    seconds until it first ran, and seconds in each stage.
    """

    number: int
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    seconds: StageSeconds = field(default_factory=StageSeconds)
    ended: bool = False


@dataclass(slots=True, eq=False)
class _Job:
    ticket: Ticket
    request: Request
    deliver: Deliver
    submitted: float


class EngineDriver:
    """Steps one engine for all its users. Every method may be called from any thread.

    One thread at a time owns the engine, and nobody else touches it: from `start` to `close` the driver's own thread,
    without `start` any caller of `wait`, for one step. Other threads append orders to the inbox, which the owner
    empties before each step. So no order waits for a step, and a program with one thread starts no other.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._owning = threading.Lock()
        self._owner: int | None = None  # the thread that holds `_owning`
        # Notified after orders and steps. Reentrant: signal handlers and finalizers may cancel at any point.
        self._changed = threading.Condition(threading.RLock())
        self._inbox: deque[Callable[[], None]] = deque()
        self._jobs: dict[int, _Job] = {}  # only the owner uses it and the fields below, but for `_submitted`
        self._submitted = self._added = 0
        self._open = self._preallocates = True
        self._deadline = float("inf")
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Step on a thread of the driver's own from now on: for event loops, which must not wait."""
        self._thread = threading.Thread(target=self._run, name="pocketvlm-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, deliver: Deliver) -> Ticket:
        """Queue a request; its events go to `deliver`, on the thread that steps, which must be quick.

        An exception in `deliver` ends that request alone. Raises PromptError where the request can never run,
        PocketVLMError after `close`.
        """
        self.engine.check(request)
        with self._changed:
            if not self._open:
                raise PocketVLMError("the engine takes no more requests: it is being closed")
            ticket = Ticket(self.engine.new_number())
            self._submitted += 1
            self._order(partial(self._add, _Job(ticket, request, deliver, time.perf_counter())))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a request, wherever it is: `deliver` gets one event "abort", unless the request has ended before."""
        self._order(partial(self._finish, TokenEvent(ticket.number, -1, "abort")))

    def end(self, ticket: Ticket) -> None:
        """Cancel a request and wait until its memory is free.

        The thread that steps the engine does not wait: the memory is freed after the step.
        """
        if not ticket.ended:
            self.cancel(ticket)
            if not self._owns:
                self.wait(lambda: ticket.ended)

    def call(self, work: Callable[[], T]) -> T:
        """The result of `work`, which runs between two steps and may use the engine."""
        if self._owns:
            return work()
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
                if not isinstance(error, Exception):
                    raise

        self._order(run)
        self.wait(future.done)
        return future.result()

    def add_adapter(self, name: str, adapter: Adapter, replace: bool = False) -> None:
        """Give requests an adapter under a name; returns when new requests use it.

        It is checked and prepared on this thread, while requests run. replace: also under a name that is taken;
        requests that were submitted before finish with the old adapter. Raises OptionError for a name that is taken,
        and for tensors that do not fit the network; nothing changes then.
        """
        if not replace:
            self.engine.model.check_new_name(name)
        loaded = self.engine.model.load_adapter(name, adapter)
        self.call(partial(self.engine.add_adapter, name, loaded, replace))

    def remove_adapter(self, name: str) -> None:
        """Refuse an adapter to new requests; those that were submitted before finish with it.

        Raises OptionError for an unknown name.
        """
        self.call(partial(self.engine.remove_adapter, name))

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that requests may use, in the order in which they were added."""
        return self.engine.model.adapters

    def wait(self, ready: Callable[[], bool]) -> None:
        """Return when `ready()`. Steps the engine until then, unless another thread does.

        Raises PocketVLMError where nothing runs that could make it ready.
        """
        while not ready():
            if not self._owning.acquire(blocking=False):
                with self._changed:
                    self._changed.wait_for(lambda: ready() or not self._owning.locked())
                continue
            try:
                self._owner = threading.get_ident()
                self._take_orders()
                if not ready():
                    if not self._jobs:
                        raise PocketVLMError("the engine has no such request any more: ask again")
                    self._step()
            finally:
                self._disown()

    def close(self, drain_seconds: float = 0.0) -> None:
        """Take no new requests, wait so many seconds for running ones, abort the others, and join the thread."""
        with self._changed:
            self._open = False
            self._deadline = time.monotonic() + drain_seconds
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self.wait(lambda: not (self._jobs or self._inbox))

    def begun(self, ticket: Ticket) -> bool:
        """Whether a request has left the queue: it runs, or has ended."""
        sequence = self.engine.sequences.get(ticket.number)
        return ticket.queue_seconds > 0 or (sequence is not None and sequence.admitted is not None)

    def stats(self) -> EngineStats:
        """The engine's numbers; requests that it has not seen yet count as waiting."""
        return self.engine.stats(self._submitted - self._added)

    @property
    def _owns(self) -> bool:
        return self._owner == threading.get_ident()

    def _order(self, order: Callable[[], None]) -> None:
        """Let the owner call `order` before the next step."""
        with self._changed:
            self._inbox.append(order)
            self._changed.notify_all()

    def _disown(self) -> None:
        self._owner = None
        self._owning.release()
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        self._owning.acquire()
        try:
            self._owner = threading.get_ident()
            self._serve()
        finally:
            self._disown()

    def _serve(self) -> None:
        pause = _IDLE_SECONDS
        while True:
            with self._changed:
                busy = self._changed.wait_for(self._has_work, pause if self._needs_upkeep() else None)
            if not busy:  # without the lock, so that `submit` does not wait
                self._maintain()
                pause = _UPKEEP_PAUSE
                continue
            pause = _IDLE_SECONDS
            self._take_orders()
            if self._jobs:
                self._step()
            elif not self._open:
                return
            with self._changed:
                self._changed.notify_all()

    def _has_work(self) -> bool:
        return bool(self._inbox or self._jobs) or not self._open

    def _needs_upkeep(self) -> bool:
        return self.engine.can_trim or (self._preallocates and self.engine.can_preallocate)

    def _maintain(self) -> None:
        """Do one action for which the engine should be idle."""
        if self.engine.can_trim:
            self.engine.trim()
            return
        try:
            self.engine.preallocate()
        except Exception:  # most likely memory is short; the request that needs it will say so
            self._preallocates = False
            _log.warning("memory could not be preallocated; requests allocate it from now on", exc_info=True)

    def _take_orders(self) -> None:
        while self._inbox:
            self._inbox.popleft()()
        if not self._open and time.monotonic() >= self._deadline:
            for number in list(self._jobs):
                self._finish(TokenEvent(number, -1, "abort"))

    def _add(self, job: _Job) -> None:
        self._jobs[job.ticket.number] = job
        self._added += 1
        try:
            self.engine.add(job.request, job.ticket.number)
        except Exception as error:
            self._finish(TokenEvent(job.ticket.number, -1, "error", error=str(error), cause=error))

    def _step(self) -> None:
        try:
            events = self.engine.step()
        except Exception as error:
            _log.exception("a step of the engine failed; the requests that it had are ended")
            text = f"the engine failed: {type(error).__name__}: {error}"
            events = [TokenEvent(number, -1, "error", error=text, cause=error) for number in self._jobs]
        for event in events:
            if event.finish_reason is not None:
                self._finish(event)
            elif event.request_id in self._jobs:
                job = self._jobs[event.request_id]
                self._update_ticket(job)
                if not self._deliver(job, event):
                    self._drop(job)

    def _finish(self, event: TokenEvent) -> None:
        """Release a request, then deliver its last event."""
        job = self._jobs.get(event.request_id)
        if job is not None:
            self._update_ticket(job)
            self._drop(job)
            self._deliver(job, event)

    def _update_ticket(self, job: _Job) -> None:
        sequence = self.engine.sequences.get(job.ticket.number)
        if sequence is not None:
            job.ticket.cached_tokens, job.ticket.seconds = sequence.cached, sequence.seconds
            job.ticket.queue_seconds = (sequence.admitted or time.perf_counter()) - job.submitted

    def _drop(self, job: _Job) -> None:
        """Forget a request. The driver's own thread trims memory when it is idle; a caller must do it now."""
        del self._jobs[job.ticket.number]
        if job.ticket.number in self.engine.sequences:
            self.engine.release(job.ticket.number, trim=self._thread is None)
        job.ticket.ended = True

    def _deliver(self, job: _Job, event: TokenEvent) -> bool:
        try:
            job.deliver(event)
        except Exception:
            _log.exception("the receiver of request %d failed: the request is ended", job.ticket.number)
            return False
        return True
