"""`run` answers the lines of a source: images of the next lines are prepared while the engine works on others."""

from __future__ import annotations

import contextlib
import heapq
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pocketvlm.api import Model
from pocketvlm.engine.request import BACKGROUND
from pocketvlm.interfaces.pending import PendingAnswer
from pocketvlm.interfaces.responder import Responder, Response
from pocketvlm.jobs.journal import Journal
from pocketvlm.jobs.line import Line, Problem, result_line
from pocketvlm.jobs.media import MediaFiles
from pocketvlm.jobs.progress import Progress
from pocketvlm.jobs.rows import fitting
from pocketvlm.jobs.schedule import ordered
from pocketvlm.jobs.sources.bodies import Defaults
from pocketvlm.jobs.sources.source import Source, Survey
from pocketvlm.processor.limits import MediaLimits

_FETCHERS = 16  # threads, most of which wait for the network where images come from there
_REPORT_SECONDS = 0.2
_TRANSIENT = (408, 429, 500, 502, 503)


def default_workers() -> int:
    """Threads that decode images at once: as many as processors, at most 4."""
    return max(1, min(4, len(os.sched_getaffinity(0))))


@dataclass(frozen=True, slots=True)
class Work:
    """What to do with the lines of a job.

    concurrency: requests in the engine at once. workers: threads that decode images. max_retries: further attempts
    after failures that may pass. background: whether other requests come first, in the engine and on the processors.
    """

    source: Source
    survey: Survey
    defaults: Defaults = field(default_factory=Defaults)
    concurrency: int = 16
    workers: int = 2
    max_retries: int = 3
    background: bool = False

    @property
    def in_flight(self) -> int:
        """Lines in memory: those in the engine, and those that are prepared to follow them."""
        return self.concurrency + max(2, self.concurrency // 2)


@dataclass(frozen=True, slots=True)
class _Attempt:
    line: Line
    number: int = 0  # of earlier attempts


class Runner:
    """Runs one job on a model whose driver has a thread of its own. cpu: held while a thread decodes and tokenizes."""

    def __init__(self, model: Model, responder: Responder, work: Work, journal: Journal, cpu: threading.Semaphore):
        self._model, self._responder, self._work, self._journal = model, responder, work, journal
        self._cpu = cpu
        self._results: queue.SimpleQueue[tuple[_Attempt, Response | Problem]] = queue.SimpleQueue()
        self._pending: set[PendingAnswer] = set()
        self._later: list[tuple[float, int, _Attempt]] = []
        self.progress = Progress(work.survey.count, before=len(journal))

    def run(self, report: Callable[[Progress], None], closing: threading.Event) -> None:
        """Answer all lines that are not finished; the journal has what was finished, whatever happens.

        Setting `closing`, and any exception, ends what runs. It is set in the end.
        """
        progress = self.progress
        progress.engine(self._model.driver.stats())
        lines = self._lines()
        threads, background = min(_FETCHERS, self._work.in_flight), self._work.background
        pool = ThreadPoolExecutor(threads, "pocketvlm-prepare", yield_processor if background else None)
        running, reported, more = 0, 0.0, True
        try:
            while not closing.is_set():
                while more and running < self._work.in_flight:
                    line = next(lines, None)
                    if line is None:
                        more = False
                    else:
                        pool.submit(self._prepare, _Attempt(line))
                        running += 1
                if not running:
                    break
                self._pending.difference_update([pending for pending in list(self._pending) if pending.ended])
                for attempt, response in self._arrived():
                    if self._again(attempt, response):
                        continue
                    running -= 1
                    self._finish(attempt.line, response)
                while self._later and self._later[0][0] <= time.monotonic():
                    pool.submit(self._prepare, heapq.heappop(self._later)[2])
                if time.monotonic() - reported >= _REPORT_SECONDS:
                    reported = time.monotonic()
                    progress.engine(self._model.driver.stats())
                    report(progress)
        finally:
            closing.set()
            pool.shutdown(cancel_futures=True)
            for pending in list(self._pending):
                pending.cancel()
            progress.engine(self._model.driver.stats())
            progress.ended = time.monotonic()

    def _lines(self) -> Iterator[Line]:
        work, journal = self._work, self._journal
        unfinished = (work.survey.check(line) for line in work.source.lines(journal.__contains__))
        return ordered(work.defaults.apply(line) for line in unfinished)

    def _prepare(self, attempt: _Attempt) -> None:
        """Decode and submit one line, on a thread of the pool."""
        line = attempt.line
        if line.problem is not None or line.body is None:
            self._results.put((attempt, line.problem or Problem("invalid_body", "there is no body")))
            return

        def done(response: Response) -> None:
            self._results.put((attempt, response))

        try:
            with self._cpu:
                request_id = self._journal.result_id(line.number).removeprefix("batch_req_")
                priority = BACKGROUND if self._work.background else None
                pending = self._responder.submit(line.url, line.body, done, request_id, priority=priority)
            if pending is not None:
                self._pending.add(pending)
        except Exception as error:  # a fault of ours ends the line, not the job
            text = f"{type(error).__name__}: {error}"
            self._results.put((attempt, Problem("internal_error", f"line {line.number}: {text}")))

    def _arrived(self) -> Iterator[tuple[_Attempt, Response | Problem]]:
        """The results that are there; waits for the first, for at most the time until a report or an attempt is due."""
        timeout = _REPORT_SECONDS
        if self._later:
            timeout = min(timeout, max(0.0, self._later[0][0] - time.monotonic()))
        with contextlib.suppress(queue.Empty):
            yield self._results.get(timeout=timeout)
            while True:
                yield self._results.get_nowait()

    def _again(self, attempt: _Attempt, response: Response | Problem) -> bool:
        """Whether there will be another attempt."""
        if not isinstance(response, Response) or response.status not in _TRANSIENT:
            return False
        if attempt.number >= self._work.max_retries:
            return False
        when = time.monotonic() + 0.5 * 2.0**attempt.number
        heapq.heappush(self._later, (when, attempt.line.number, replace(attempt, number=attempt.number + 1)))
        return True

    def _finish(self, line: Line, response: Response | Problem) -> None:
        answer = response if isinstance(response, Response) else None
        data = result_line(self._journal.result_id(line.number), line, response)
        self._journal.append(line.number, data, answer is None or answer.status != 200)
        self.progress.count(answer, unfit=self._unfit(answer))

    def _unfit(self, answer: Response | None) -> bool:
        schema = self._work.defaults.schema
        if schema is None or answer is None or answer.status != 200:
            return False
        return fitting(answer.body, schema) is None


def yield_processor() -> None:
    """Let other threads of this machine go first."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def run(
    model: Model,
    work: Work,
    directory: Path,
    open_journal: Callable[[str], Journal | None],
    report: Callable[[Progress], None],
    **options: Any,
) -> tuple[Journal, Progress] | None:
    """Answer the lines of a job with a model, which is closed afterwards; the caller closes the journal.

    directory: where relative paths begin. open_journal: gets the digest of checkpoint and weights; None where the job
    is complete. options: of `RequestBuilder`. Raises JournalError, InputError and OSError; then the next call goes on.
    """
    cpu, closing = threading.Semaphore(work.workers), threading.Event()
    limits = MediaLimits()
    files = MediaFiles(directory, limits, work.max_retries, cpu, closing)
    responder = Responder(model, read_media=files, limits=limits, paths=True, **options)
    try:
        journal = open_journal(responder.digest)
        if journal is None:
            return None
        try:
            model.driver.start()
            runner = Runner(model, responder, work, journal, cpu)
            runner.run(report, closing)
        except BaseException:
            with contextlib.suppress(Exception):
                journal.close()
            raise
        return journal, runner.progress
    finally:
        responder.close()
        model.close()
