"""The context holds what routes share, and takes a question from media to a running request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from pocketvlm.answers.choice import AnswerOptions
from pocketvlm.api import Model
from pocketvlm.api.adapters import AdapterInfo
from pocketvlm.engine.request import Request
from pocketvlm.errors import PocketVLMError
from pocketvlm.interfaces.errors import ApiError, from_failure
from pocketvlm.interfaces.preparation import ModelChoice, RequestBuilder
from pocketvlm.interfaces.requests import Question
from pocketvlm.interfaces.schemas.common import ModelRequest
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.server.adapters import AdapterLoading
from pocketvlm.server.admission import Admission
from pocketvlm.server.batches.batch import Batch, Kind
from pocketvlm.server.batches.store import BatchStore
from pocketvlm.server.batches.worker import Worker
from pocketvlm.server.database import Database
from pocketvlm.server.files import FileStore, owner_of
from pocketvlm.server.logs import Log, Record
from pocketvlm.server.media import Media
from pocketvlm.server.metrics import Metrics
from pocketvlm.server.page import Page
from pocketvlm.server.running import Driver, Mailbox, Run
from pocketvlm.server.settings import Settings
from pocketvlm.types import Prompt

T = TypeVar("T")


class Context:
    """One server. `start` and `close` belong to the event loop's life; everything else runs on the loop."""

    def __init__(self, model: Model, settings: Settings, log: Log, media: Media | None = None) -> None:
        self.model = model
        self.settings = settings
        self.driver: Driver = model.driver
        self.sees = model.checkpoint.model.vision is not None
        self.log = log
        self.tokenizer = model.processor.tokenizer
        self.limits = limits = MediaLimits(
            max_bytes=settings.max_media_bytes,
            max_pixels=settings.max_pixels,
            local_files=False,
            remote=False,
            max_images=settings.max_images,
            max_visual_tokens=settings.max_visual_tokens,
            max_videos=settings.max_videos,
            max_video_frames=settings.max_video_frames,
            max_video_seconds=settings.max_video_seconds,
            max_video_pixels=min(settings.max_pixels, MediaLimits().max_video_pixels),
        )
        self.builder = RequestBuilder(
            model,
            limits,
            names=settings.served_model_name,
            max_model_len=settings.max_model_len,
            default_max_tokens=settings.default_max_tokens,
            normalize_newlines=settings.normalize_newlines,
            runaway_guard=settings.runaway_guard,
        )
        self.names = self.builder.names
        self.adapters = AdapterLoading(model, self.builder, settings)
        self.created = int(time.time())
        self.admission = Admission(settings.max_seqs, settings.max_queue)
        self.metrics = Metrics(self.admission, model.driver, self.adapter_requests)
        self.database = Database(settings.data_dir)
        self.files = FileStore(settings, self.database)
        self.batch_store = BatchStore(self.database)
        self.media = media or Media(settings)
        self._worker: Worker | None = None
        if self.database.persists:
            read = partial(self.media.read, self.files.read)
            self._worker = Worker(model, self.builder, settings, self.batch_store, self.files, read, log)
        self.page = Page()
        self.draining = False
        self.body_bytes = 0
        self.runs: set[Run] = set()
        self._threads = ThreadPoolExecutor(settings.workers, "prepare")
        self._free = asyncio.Semaphore(settings.workers)
        self._mailbox: Mailbox | None = None

    @property
    def max_model_len(self) -> int:
        """Maximum number of tokens of prompt and answer."""
        return self.builder.max_model_len

    def listed(self) -> list[tuple[str, AdapterInfo | None]]:
        """What requests may give as `model`: the names of the model, then the adapters."""
        return [*((name, None) for name in self.names), *self.model.adapters.snapshot().items()]

    def choose(self, body: ModelRequest, record: Record | None = None) -> ModelChoice:
        """The model or adapter that a body names; `record` notes the adapter. Raises ApiError."""
        chosen = self.builder.choose(body.requested_model, body.adapter)
        if record is not None:
            record.adapter = chosen.adapter
        return chosen

    def adapter_requests(self) -> dict[str, tuple[int, int]]:
        """For each loaded adapter the choices that run, and those that wait."""
        counts = {name: [0, 0] for name in self.model.adapters}
        for run in self.runs:
            for choice, ticket in zip(run.choices, run.tickets, strict=True):
                name = choice.request.adapter
                if name in counts and choice.finish_reason is None:
                    counts[name][0 if self.driver.begun(ticket) else 1] += 1
        return {name: (running, waiting) for name, (running, waiting) in counts.items()}

    def start(self) -> None:
        """Begin to run requests, on the running event loop."""
        self._mailbox = Mailbox(asyncio.get_running_loop())
        self.model.driver.start()
        if self._worker is not None:
            self._worker.start()

    def batches(self) -> Worker:
        """What runs batches. Raises ApiError 501 without a data directory."""
        if self._worker is None:
            raise ApiError(501, "batches need a directory: start the server with --data-dir DIR", code="no_data_dir")
        return self._worker

    def all_batches(self, kind: Kind, owner: int) -> list[Batch]:
        """The batches of a key, newest first, with their counts of now."""
        name, worker = owner_of(self.settings, owner), self.batches()
        return [worker.get(batch.id, kind, name) for batch in self.batch_store.all(kind, name)]

    async def close(self) -> None:
        """End what still runs, and release threads and files."""
        if self._worker is not None:
            await asyncio.to_thread(self._worker.close)
        await asyncio.to_thread(self.model.driver.close)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.media.close()
        self.builder.close()
        self.database.close()

    async def drain(self) -> None:
        """Take no new requests; end those that are not done after the time that they are given."""
        self.draining = True
        deadline = time.monotonic() + self.settings.drain
        while self.runs and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for run in list(self.runs):
            run.fail(ApiError(503, "the server is shutting down", code="shutting_down"))

    async def in_thread(self, work: Callable[[], T]) -> T:
        """The result of work that decodes, tokenizes or compiles; as many at once as there are threads for it.

        Raises ApiError 503 after the queue's timeout, 408 after the decode timeout (the thread then ends by itself).
        """
        try:
            async with asyncio.timeout(self.settings.queue_timeout):
                await self._free.acquire()
        except TimeoutError:
            raise self._busy() from None
        loop = asyncio.get_running_loop()
        future: Future[T] = self._threads.submit(work)
        future.add_done_callback(lambda _: _quietly(loop, self._free.release))
        try:
            async with asyncio.timeout(self.settings.decode_timeout):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise ApiError(
                408, f"images and text took longer than {self.settings.decode_timeout:g} s to prepare", code="timeout"
            ) from None

    async def prompt_for(self, question: Question, owner: int) -> tuple[Prompt, float]:
        """Ids and views of a question, and the seconds that fetching took. Raises ApiError."""
        self.builder.check_length(question)
        messages, seconds = None, 0.0
        if question.messages is not None:
            try:
                messages, seconds = await self.media.resolve(
                    question.messages, lambda file_id, where: self.files.read(file_id, owner)
                )
            except PocketVLMError as error:
                raise from_failure(error, question.places) from None
        return await self.in_thread(partial(self.builder.prompt, question, messages)), seconds

    async def ask(self, questions: Sequence[Question], record: Record) -> Run:
        """Prepare questions and give them to the engine: further prompts are answered as further choices.

        Raises ApiError. The run ends by itself when time is up; who reads it cancels it when nobody listens any more.
        """
        count = questions[0].n * len(questions)
        if count > self.settings.max_n:
            raise ApiError(400, f"n={count} is more than the limit of {self.settings.max_n}", param="n")
        self.admission.enter(count)
        began = time.perf_counter()
        left = False

        def leave(_: Run | None = None) -> None:
            nonlocal left
            if not left:
                left = True
                self.admission.leave(count, time.perf_counter() - began)

        try:
            requests: list[Request] = []
            for question in questions:
                prompt, seconds = await self.prompt_for(question, record.owner)
                record.times.fetch += seconds
                record.times.media += prompt.decode_seconds
                record.times.preprocess += prompt.preprocess_seconds
                thinking = self.builder.thinks(question, prompt)
                constraint = None
                if self.builder.needs_constraint(question, thinking):
                    constraint = await self.in_thread(partial(self.builder.constraint, question, thinking))
                requests += self.builder.requests(question, prompt, constraint)
            run = self._submit(requests, self.builder.answer_options(questions[0], thinking))
        except BaseException:
            leave()
            raise
        run.when_released(leave)
        self._watch(run)
        return run

    def _submit(self, requests: list[Request], how: AnswerOptions) -> Run:
        assert self._mailbox is not None
        try:
            return Run(self.driver, self._mailbox, requests, how)
        except PocketVLMError as error:
            self.builder.check_loaded(requests)
            raise from_failure(error) from None

    def _watch(self, run: Run) -> None:
        """Keep the run until it is released, and end it when it waits or takes too long."""
        loop = asyncio.get_running_loop()
        late = ApiError(408, f"the request took longer than {self.settings.request_timeout:g} s", code="timeout")

        def in_queue() -> None:
            if not any(self.driver.begun(ticket) for ticket in run.tickets):
                run.fail(self._busy())

        timers = [
            loop.call_later(self.settings.queue_timeout, in_queue),
            loop.call_later(self.settings.request_timeout, run.fail, late),
        ]
        self.runs.add(run)

        def released(run: Run) -> None:
            self.runs.discard(run)
            for timer in timers:
                timer.cancel()

        run.when_released(released)

    def _busy(self) -> ApiError:
        return ApiError(
            503,
            f"no place for this request within {self.settings.queue_timeout:g} s",
            code="queue_timeout",
            headers={"Retry-After": str(self.admission.retry_after())},
        )


def _quietly(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call on the loop from a thread; nothing where the loop is gone."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
