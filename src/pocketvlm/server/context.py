"""The context holds what routes share, and takes a question from media to a running request."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pocketvlm import __version__
from pocketvlm.answers.choice import AnswerOptions, opens_reasoning
from pocketvlm.api import Model
from pocketvlm.engine.fitting import ways_to_fit
from pocketvlm.engine.request import Request
from pocketvlm.errors import PocketVLMError
from pocketvlm.parsing import AnswerParser
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.server.admission import Admission
from pocketvlm.server.errors import ApiError, from_failure
from pocketvlm.server.files import FileStore
from pocketvlm.server.guiding import Constrain, Ends, constraint_for, needs_grammar
from pocketvlm.server.logs import Log, Record
from pocketvlm.server.media import Media
from pocketvlm.server.metrics import Metrics
from pocketvlm.server.prompts import continued, raw_prompt
from pocketvlm.server.requests import Question
from pocketvlm.server.running import Mailbox, Run, Service
from pocketvlm.server.settings import Settings
from pocketvlm.types import Prompt, SamplingParams

if TYPE_CHECKING:
    from pocketvlm.guided import Grammars

_CHARACTERS_A_TOKEN = 24  # far more than any real text has; longer text is refused before the tokenizer works on it

T = TypeVar("T")


class Context:
    """One server. `start` and `close` belong to the event loop's life; everything else runs on the loop."""

    def __init__(self, model: Model, settings: Settings, log: Log, media: Media | None = None) -> None:
        self.model = model
        self.settings = settings
        self.service: Service = model.driver
        self.log = log
        self.processor = model.processor
        self.tokenizer = model.processor.tokenizer
        self.names = settings.served_model_name or (_name(model.name),)
        context = model.checkpoint.model.text.max_position_embeddings
        self.sees = model.checkpoint.model.vision is not None
        self.max_model_len = min(settings.max_model_len or context, context)
        self.created = int(time.time())
        self.weights = str(model.ops.describe().get("weights", "")).partition(" ")[0]
        content = f"{model.checkpoint.fingerprint} {self.weights}"
        self.digest = hashlib.sha256(content.encode()).hexdigest()
        self.fingerprint = _fingerprint(self.digest, model)
        self.admission = Admission(settings.max_seqs, settings.max_queue)
        self.metrics = Metrics(self.admission, model.driver)
        self.files = FileStore(settings)
        self.media = media or Media(settings)
        self.draining = False
        self.body_bytes = 0
        self.runs: set[Run] = set()
        self.limits = MediaLimits(
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
        self._threads = ThreadPoolExecutor(settings.workers, "prepare")
        self._free = asyncio.Semaphore(settings.workers)
        self._mailbox: Mailbox | None = None
        self._grammars: Grammars | None = None

    def start(self) -> None:
        """Begin to run requests, on the running event loop."""
        self._mailbox = Mailbox(asyncio.get_running_loop())
        self.model.driver.start()

    async def close(self) -> None:
        """End what still runs, and release threads and files."""
        await asyncio.to_thread(self.model.driver.close)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.media.close()
        if self._grammars is not None:
            self._grammars.close()
        self.files.close()

    async def drain(self) -> None:
        """Take no new requests; end those that are not done after the time that they are given."""
        self.draining = True
        deadline = time.monotonic() + self.settings.drain
        while self.runs and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for run in list(self.runs):
            run.fail(ApiError(503, "the server is shutting down", code="shutting_down"))

    def grammars(self) -> Grammars:
        """What compiles grammars; loads its library on first use. Raises OptionError where that is missing."""
        if self._grammars is None:
            from pocketvlm.guided import Grammars

            checkpoint = self.model.checkpoint
            self._grammars = Grammars(self.tokenizer, checkpoint.eos_token_ids, checkpoint.model.text.vocab_size)
        return self._grammars

    def check_model(self, name: str | None) -> str:
        """The name that a request gave, if it is one of ours; without one the first of them. Raises ApiError 404."""
        if not name:
            return self.names[0]
        if name not in self.names and name.removesuffix(":latest") not in self.names:
            known = ", ".join(self.names)
            raise ApiError(
                404,
                f"model {name[:100]!r} not found: it is not served here, use {known}",
                param="model",
                code="model_not_found",
            )
        return name

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
        try:
            self._check_length(question)
            if question.messages is None:
                size = self.model.checkpoint.model.text.vocab_size
                if question.ids is not None:
                    return raw_prompt(question.ids, "(ids)", self.tokenizer, size), 0.0
                text = question.text or ""
                ids = await self.in_thread(lambda: self.tokenizer.encode_template(text))
                return raw_prompt(ids, text, self.tokenizer, size), 0.0
            messages, seconds = await self.media.resolve(
                question.messages, lambda file_id, where: self.files.read(file_id, owner)
            )
            tools = list(question.tools.offered) or None
            work = partial(self.processor, messages, tools=tools, limits=self.limits, **question.options)
            prompt = await self.in_thread(work)
            if question.before:
                checkpoint = self.model.checkpoint
                size = checkpoint.model.text.vocab_size
                prompt = continued(question.before, prompt, self.tokenizer, checkpoint.eos_token_ids, size)
            return prompt, seconds
        except PocketVLMError as error:
            raise from_failure(error, question.places) from None

    def _check_length(self, question: Question) -> None:
        most = self.max_model_len * _CHARACTERS_A_TOKEN
        length = len(question.text or "")
        for message in question.messages or ():
            content = message.get("content") if isinstance(message, Mapping) else None
            if isinstance(content, str):
                length += len(content)
            elif isinstance(content, list):
                texts = (part.get("text") for part in content if isinstance(part, Mapping))
                length += sum(len(text) for text in texts if isinstance(text, str))
        given = len(question.ids or question.before)
        if length > most or given > self.max_model_len:
            count = f"{given} tokens" if given > self.max_model_len else f"{length} characters"
            raise ApiError(
                400,
                f"{count} of text cannot fit into the {self.max_model_len} tokens that this server's context holds",
                code="context_length_exceeded",
            )

    def sampling_for(self, question: Question, prompt: Prompt) -> SamplingParams:
        """How to sample: what the request says, else what the checkpoint says. Raises ApiError."""
        total = len(prompt.ids)
        room = self.max_model_len - total
        if room < 1:
            raise ApiError(
                400,
                f"the prompt has {total} tokens but this server's context holds {self.max_model_len}: "
                f"{ways_to_fit(prompt, self.max_model_len - 1)}",
                param="messages" if question.messages is not None else "prompt",
                code="context_length_exceeded",
            )
        if question.context_limit is not None and total < question.context_limit:
            room = min(room, question.context_limit - total)
        given = dict(question.sampling)
        most = given.pop("max_tokens", self.settings.default_max_tokens)
        if most is None:
            most = max(1, self.model.engine.memory.most_tokens - total)
        least = given.get("min_tokens", 0)
        if least > most:
            raise ApiError(
                400, f"min_tokens={least} is more than max_tokens={most}: lower one of them", param="min_tokens"
            )
        # Neither limit can be met beyond the end of the context.
        most, given["min_tokens"] = min(most, room), min(least, room)
        try:
            return dataclasses.replace(self.model.sampling_defaults, **{**given, "max_tokens": most})
        except PocketVLMError as error:
            raise from_failure(error) from None

    async def ask(self, question: Question, record: Record, also: tuple[Question, ...] = ()) -> Run:
        """Prepare a question and give it to the engine; `also`: more prompts, answered as further choices.

        Raises ApiError. The run ends by itself when time is up; who reads it cancels it when nobody listens any more.
        """
        questions = (question, *also)
        count = question.n * len(questions)
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
            for each in questions:
                prompt, seconds = await self.prompt_for(each, record.owner)
                record.fetch += seconds
                record.media += prompt.decode_seconds
                record.preprocess += prompt.preprocess_seconds
                thinking = each.chat and opens_reasoning(prompt)
                constraint = await self._constraint(each, thinking)
                requests += self._requests(each, prompt, constraint)
            run = self._submit(question, requests, thinking)
        except BaseException:
            leave()
            raise
        run.when_released(leave)
        self._watch(run)
        return run

    async def _constraint(self, question: Question, thinking: bool) -> Constrain | None:
        if not needs_grammar(question) and (question.thinking_budget is None or not thinking):
            return None
        checkpoint = self.model.checkpoint
        try:
            thought = self.tokenizer.token_id("</think>") if thinking else -1
            ends = Ends(thought, checkpoint.eos_token_ids, checkpoint.model.text.vocab_size)
            return await self.in_thread(lambda: constraint_for(self.grammars, question, thinking, ends))
        except PocketVLMError as error:
            found = from_failure(error)
            if question.guide is not None and found.param is None:
                field = question.guide.field
                raise ApiError(found.status_code, f"{field}: {found.message}", param=field, code=found.code) from None
            raise found from None

    def _requests(self, question: Question, prompt: Prompt, constraint: Constrain | None) -> list[Request]:
        params = self.sampling_for(question, prompt)
        ends = self.model.checkpoint.eos_token_ids
        seeds = [None if params.seed is None else params.seed + number for number in range(question.n)]
        return [
            Request(prompt, dataclasses.replace(params, seed=seed), ends, question.priority, constraint)
            for seed in seeds
        ]

    def _submit(self, question: Question, requests: list[Request], thinking: bool) -> Run:
        assert self._mailbox is not None
        tools = question.tools
        normalize = question.normalize_newlines
        how = AnswerOptions(
            self.tokenizer,
            partial(AnswerParser, tools=tools.offered, thinking=thinking, parallel=tools.parallel)
            if question.chat
            else None,
            thinking,
            self.settings.normalize_newlines if normalize is None else normalize,
            question.skip_special_tokens,
            self.settings.runaway_guard and not question.sampling.get("ignore_eos"),
        )
        try:
            return Run(self.service, self._mailbox, requests, how)
        except PocketVLMError as error:
            raise from_failure(error) from None

    def _watch(self, run: Run) -> None:
        """Keep the run until it is released, and end it when it waits or takes too long."""
        loop = asyncio.get_running_loop()
        late = ApiError(408, f"the request took longer than {self.settings.request_timeout:g} s", code="timeout")

        def in_queue() -> None:
            if not any(self.service.begun(ticket) for ticket in run.tickets):
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


def _fingerprint(digest: str, model: Model) -> str:
    """What answers with the same seed have in common: version, checkpoint and arithmetic."""
    parts = (__version__, digest, sorted(model.ops.describe().items()))
    return f"fp_{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def _name(model: str) -> str:
    """What requests call a model: the name it was loaded by, of a directory its last part."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def _quietly(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call on the loop from a thread; nothing where the loop is gone."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
