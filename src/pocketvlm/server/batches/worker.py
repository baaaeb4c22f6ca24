"""The worker answers batches one after the other, in the order of their creation, when no client asks.

Another thread does what needs no model, so that a batch that waits can be validated and cancelled, and can expire.
"""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

from pocketvlm.api import Model
from pocketvlm.interfaces.media import MediaSource
from pocketvlm.interfaces.preparation import RequestBuilder
from pocketvlm.interfaces.responder import Responder
from pocketvlm.jobs.journal import Journal, JournalError
from pocketvlm.jobs.line import Line, Problem
from pocketvlm.jobs.media import released
from pocketvlm.jobs.progress import Progress
from pocketvlm.jobs.run import Runner, Work, yield_processor
from pocketvlm.jobs.sources.jsonl import JsonLines
from pocketvlm.jobs.sources.source import Survey, survey
from pocketvlm.server.batches import results
from pocketvlm.server.batches.batch import Batch, Kind, Status
from pocketvlm.server.batches.store import BatchStore
from pocketvlm.server.files import BATCH_OUTPUT, FileStore
from pocketvlm.server.logs import Log
from pocketvlm.server.settings import Settings

_MAX_ERRORS = 20
_POLL = 1.0  # seconds between looks for a batch that has expired, or whose adapters have been loaded
_PAUSE = 30.0  # seconds before another attempt after a failure of the disk
GetMedia = Callable[[MediaSource, str], bytes]  # source, owner -> content


@dataclass(slots=True)
class _Task:
    """A thread, what it may work on next, and how."""

    name: str
    next: Callable[[], Batch | None]
    work: Callable[[Batch], None]
    wake: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


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
        self._lock = threading.RLock()  # of statuses and `_held`
        self._held: dict[str, Batch] = {}  # those that a thread works on now, by id
        self._answered: Batch | None = None
        self._stop = threading.Event()  # of the batch that is answered
        self._closing = False
        self._tasks = (
            _Task("pocketvlm-batches", self._next_to_answer, self._answer_all),
            _Task("pocketvlm-batch-checks", self._next_to_check, self._check),
        )

    def start(self) -> None:
        """Go on with what an earlier server left."""
        self._store.clean()
        for task in self._tasks:
            task.thread = threading.Thread(target=self._run, args=(task,), name=task.name, daemon=True)
            task.thread.start()

    def close(self) -> None:
        """Stop; the next server goes on."""
        self._closing = True
        self._stop.set()
        self._notify()
        for task in self._tasks:
            if task.thread is not None:
                task.thread.join()

    def add(self, batch: Batch) -> None:
        """Queue a batch whose input is in place."""
        self._store.add(batch)
        self._notify()

    def get(self, batch_id: str, kind: Kind, owner: str) -> Batch:
        """A batch with its counts of now. Raises ApiError 404."""
        with self._lock:
            found = self._store.get(batch_id, kind, owner)
            return self._held.get(found.id, found)

    def cancel(self, batch: Batch) -> Batch:
        """Begin to cancel a batch that has not ended; another one stays as it is."""
        with self._lock:
            batch = self.get(batch.id, batch.kind, batch.owner)
            if batch.status in ("validating", "in_progress"):
                batch.reach("cancelling")
                self._store.update(batch)
                if batch is self._answered:
                    self._stop.set()
            self._notify()
            return batch

    def _notify(self) -> None:
        for task in self._tasks:
            task.wake.set()

    def _run(self, task: _Task) -> None:
        while not self._closing:
            task.wake.clear()
            batch = task.next()
            if batch is None:
                task.wake.wait(_POLL)
                continue
            try:
                task.work(batch)
            except (JournalError, OSError) as error:
                self._log.warning(f"batch {batch.id} waits: {error}", "batches")
                task.wake.wait(_PAUSE)
            except Exception as error:
                self._log.trouble(type(error).__name__, batch.id, traceback.format_exc())
                batch.errors = [{"code": "internal_error", "line": None, "message": "internal error", "param": None}]
                self._reach(batch, "failed")
            finally:
                with self._lock:
                    del self._held[batch.id]
                self._notify()

    def _next_to_answer(self) -> Batch | None:
        """The oldest batch whose lines can be answered."""
        with self._lock:
            for batch in self._store.active():
                if batch.id in self._held or batch.status != "in_progress" or batch.expires <= time.time():
                    continue
                if not self._has_adapters(batch):
                    continue
                self._held[batch.id] = self._answered = batch
                self._stop.clear()
                if self._closing:
                    self._stop.set()
                return batch
        return None

    def _next_to_check(self) -> Batch | None:
        """The oldest batch that needs no model: a new one, or one that is cancelled, expired or nearly ended."""
        with self._lock:
            for batch in self._store.active():
                if batch.id not in self._held and (batch.status != "in_progress" or batch.expires <= time.time()):
                    self._held[batch.id] = batch
                    return batch
        return None

    def _has_adapters(self, batch: Batch) -> bool:
        """Whether the adapters are loaded that its lines named when it began; its `errors` say that it waits."""
        missing = [name for name in batch.adapters if name not in self._model.adapters]
        message = (
            f"the batch waits for the adapter {', '.join(missing)}, which was loaded when the batch began: load it by "
            f"request, or start the server with --adapter {missing[0]}=DIR"
            if missing
            else ""
        )
        errors = [{"code": "adapter_not_loaded", "line": None, "message": message, "param": None}] if missing else []
        if batch.errors != errors:
            batch.errors = errors
            self._store.update(batch)
            if missing:
                self._log.warning(f"batch {batch.id}: {message}", "batches")
        return not missing

    def _check(self, batch: Batch) -> None:
        """Validate a new batch; write the outputs of one that has ended early."""
        yield_processor()
        source = JsonLines(self._store.input(batch), self._settings.max_body_bytes)
        found = survey(source)
        batch.total = found.count
        if batch.status == "validating":
            batch.errors = list(self._problems(batch, source, found))
            self._reach(batch, "failed" if batch.errors else "in_progress")
        if batch.status == "failed":
            self._clear(batch)
        elif batch.status != "in_progress" or batch.expires <= time.time():
            with closing(Journal(self._store.journal(batch), batch.job, found.last)) as journal:
                batch.completed, batch.failed = len(journal) - journal.failed, journal.failed
                self._finish(batch, source, journal)

    def _answer_all(self, batch: Batch) -> None:
        """Answer the lines of a batch and write its outputs, unless the server closes."""
        source = JsonLines(self._store.input(batch), self._settings.max_body_bytes)
        found = survey(source)
        with closing(Journal(self._store.journal(batch), batch.job, found.last)) as journal:
            batch.completed, batch.failed = len(journal) - journal.failed, journal.failed
            self._answer(batch, source, found, journal)
            if self._closing:
                self._store.update(batch)
                return
            self._finish(batch, source, journal)

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

    def _problems(self, batch: Batch, source: JsonLines, found: Survey) -> Iterator[dict[str, Any]]:
        """Why a batch cannot begin, at most so many reasons. Notes the adapters that its lines name."""
        count, adapters = 0, set[str]()
        if found.count == 0:
            yield {"code": "empty_file", "line": None, "message": "the input file has no lines", "param": None}
        for each in source.lines(lambda _: False):
            line = found.check(each)
            if line.problem is None and line.url != batch.endpoint:
                message = f"line {line.number}: url={line.url!r} differs from the batch's endpoint, {batch.endpoint}"
                line = Line(line.number, line.custom_id, problem=Problem("mismatched_endpoint", message))
            if line.problem is not None:
                yield results.as_failure(line)
                count += 1
                if count >= _MAX_ERRORS:
                    return
            for key in ("model", "adapter"):
                name = (line.body or {}).get(key)
                if isinstance(name, str):
                    adapters.update({name, name.removesuffix(":latest")} & set(self._model.adapters))
        batch.adapters = sorted(adapters)


def copy_input(store: BatchStore, batch: Batch, path: Any) -> None:
    """Put the input of a batch in place: a second name of the uploaded file, which may then be deleted."""
    target = store.input(batch)
    try:
        target.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, target)
