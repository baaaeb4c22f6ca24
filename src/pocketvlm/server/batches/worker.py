"""The worker runs batches one after the other on a thread of its own, beside the requests of clients."""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from pocketvlm.api import Model
from pocketvlm.interfaces.media import MediaSource
from pocketvlm.interfaces.preparation import RequestBuilder
from pocketvlm.interfaces.responder import Responder
from pocketvlm.jobs.journal import Journal, JournalError
from pocketvlm.jobs.line import Line, Problem
from pocketvlm.jobs.media import released
from pocketvlm.jobs.progress import Progress
from pocketvlm.jobs.run import Runner, Work
from pocketvlm.jobs.sources.jsonl import JsonLines
from pocketvlm.jobs.sources.source import Survey, survey
from pocketvlm.server.batches import results
from pocketvlm.server.batches.batch import Batch, Kind, Status
from pocketvlm.server.batches.store import BatchStore
from pocketvlm.server.files import BATCH_OUTPUT, FileStore
from pocketvlm.server.logs import Log
from pocketvlm.server.settings import Settings

_MAX_ERRORS = 20
_PAUSE = 30.0  # seconds before another attempt after a failure of the disk
GetMedia = Callable[[MediaSource, str], bytes]  # source, owner -> content


class Worker:
    """Runs batches that the store has. `start` and `close` belong to the server's life; the rest is for any thread.

    get_media: reads media by the server's rules.
    """

    def __init__(
        self,
        model: Model,
        builder: RequestBuilder,
        settings: Settings,
        store: BatchStore,
        files: FileStore,
        get_media: GetMedia,
        log: Log,
    ) -> None:
        self._model, self._builder, self._settings = model, builder, settings
        self._store, self._files, self._get_media, self._log = store, files, get_media, log
        self._lock = threading.RLock()  # of statuses
        self._wake = threading.Event()
        self._closing = False
        self._current: Batch | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Go on with what an earlier server left."""
        self._store.clean()
        self._thread = threading.Thread(target=self._run, name="pocketvlm-batches", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; the next server goes on."""
        self._closing = True
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def add(self, batch: Batch) -> None:
        """Queue a batch whose input is in place."""
        self._store.add(batch)
        self._wake.set()

    def get(self, batch_id: str, kind: Kind, owner: str) -> Batch:
        """A batch with its counts of now. Raises ApiError 404."""
        with self._lock:
            found = self._store.get(batch_id, kind, owner)
            current = self._current
            return current if current is not None and current.id == found.id else found

    def cancel(self, batch: Batch) -> Batch:
        """Begin to cancel a batch that has not ended; another one stays as it is."""
        with self._lock:
            batch = self.get(batch.id, batch.kind, batch.owner)
            if batch.status in ("validating", "in_progress"):
                batch.reach("cancelling")
                self._store.update(batch)
                if batch is self._current:
                    self._stop.set()
                self._wake.set()
            return batch

    def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            batch = self._next()
            if batch is None:
                self._wake.wait()
                continue
            try:
                self._process(batch)
            except (JournalError, OSError) as error:
                self._log.warning(f"batch {batch.id} waits: {error}", "batches")
                self._wake.wait(_PAUSE)
            except Exception as error:
                self._log.trouble(type(error).__name__, batch.id, traceback.format_exc())
                batch.errors = [{"code": "internal_error", "line": None, "message": "internal error", "param": None}]
                self._reach(batch, "failed")
            finally:
                with self._lock:
                    self._current = None

    def _next(self) -> Batch | None:
        """The next batch: cancelled and expired ones first, since they need no model."""
        with self._lock:
            waiting = self._store.active()
            now = time.time()
            waiting.sort(key=lambda batch: batch.status not in ("cancelling", "finalizing") and batch.expires > now)
            self._current = waiting[0] if waiting else None
            self._stop.clear()
            if self._closing:
                self._stop.set()
            return self._current

    def _process(self, batch: Batch) -> None:
        source = JsonLines(self._store.input(batch), self._settings.max_body_bytes)
        found = survey(source)
        batch.total = found.count
        if batch.status == "validating":
            batch.errors = list(_problems(source, found, batch.endpoint))
            self._reach(batch, "failed" if batch.errors else "in_progress")
        if batch.status == "failed":
            self._clear(batch)
            return
        journal = Journal(self._store.journal(batch), batch.job, found.last)
        try:
            batch.completed, batch.failed = len(journal) - journal.failed, journal.failed
            if batch.status == "in_progress" and batch.expires > time.time():
                self._answer(batch, source, found, journal)
            if self._closing:
                self._store.update(batch)
                return
            self._finish(batch, source, journal)
        finally:
            journal.close()

    def _answer(self, batch: Batch, source: JsonLines, found: Survey, journal: Journal) -> None:
        """Answer the lines until all are done, or the batch is cancelled or expires, or the server closes."""
        settings, cpu = self._settings, threading.Semaphore(1)

        def read(media: MediaSource) -> bytes:
            with released(cpu) if media.kind == "url" else nullcontext():
                return self._get_media(media, batch.owner)

        responder = Responder(
            self._model,
            read_media=read,
            strict=settings.strict,
            max_n=settings.max_n,
            builder=self._builder,
        )
        work = Work(source, found, concurrency=settings.max_seqs, background=True)

        def report(progress: Progress) -> None:
            batch.completed, batch.failed = len(journal) - journal.failed, journal.failed
            if batch.expires <= time.time():
                self._stop.set()

        try:
            Runner(self._model, responder, work, journal, cpu).run(report, self._stop)
        finally:
            batch.completed, batch.failed = len(journal) - journal.failed, journal.failed

    def _finish(self, batch: Batch, source: JsonLines, journal: Journal) -> None:
        """Write the outputs. A server that is killed here does all of it again: the journal goes last."""
        cancelled = "cancelling" in batch.times
        batch.unfinished = batch.total - len(journal)
        batch.expired = batch.unfinished > 0 and not cancelled
        if not cancelled:
            self._reach(batch, "finalizing")
        usage: dict[str, int] = {}
        if batch.kind == "anthropic":
            partial = self._store.results(batch).with_suffix(".partial")
            with partial.open("wb") as file:
                results.writer(lambda: results.anthropic(batch, journal, source, usage))(file)
            partial.replace(self._store.results(batch))
        else:
            batch.output_file_id = self._output(
                batch, "output", batch.completed, lambda: results.answers(journal, usage)
            )
            left = batch.failed + batch.unfinished
            batch.error_file_id = self._output(batch, "error", left, lambda: results.errors(batch, journal, source))
        batch.usage = usage
        last: Status = "cancelled" if cancelled else "expired" if batch.expired else "completed"
        self._reach(batch, last)
        self._clear(batch)

    def _output(self, batch: Batch, name: str, count: int, lines: Callable[[], Iterator[bytes]]) -> str | None:
        """The id of an output file; None if it would be empty."""
        if not count:
            return None
        file = self._files.make(
            results.writer(lines), f"{batch.id}_{name}.jsonl", BATCH_OUTPUT, batch.owner, batch.output_seconds
        )
        return file.id

    def _reach(self, batch: Batch, status: Status) -> None:
        with self._lock:
            if batch.status == "cancelling" and status == "in_progress":  # cancelled while it was validated
                return
            batch.reach(status)
            self._store.update(batch)

    def _clear(self, batch: Batch) -> None:
        """Remove the input and the journal of a batch that has ended."""
        for path in (self._store.input(batch), self._store.journal(batch)):
            path.unlink(missing_ok=True)


def _problems(source: JsonLines, found: Survey, endpoint: str) -> Iterator[dict[str, Any]]:
    """Why a batch cannot begin, at most so many reasons; the model is not asked for this."""
    count = 0
    if found.count == 0:
        yield {"code": "empty_file", "line": None, "message": "the input file has no lines", "param": None}
    for each in source.lines(lambda _: False):
        line = found.check(each)
        if line.problem is None and line.url != endpoint:
            message = f"line {line.number}: url={line.url!r} differs from the batch's endpoint, {endpoint}"
            line = Line(line.number, line.custom_id, problem=Problem("mismatched_endpoint", message))
        if line.problem is not None:
            yield results.as_failure(line)
            count += 1
            if count >= _MAX_ERRORS:
                return


def copy_input(store: BatchStore, batch: Batch, path: Any) -> None:
    """Put the input of a batch in place: a second name of the uploaded file, which may then be deleted."""
    target = store.input(batch)
    try:
        target.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, target)
