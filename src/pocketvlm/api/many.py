"""`Model.ask` answers many questions in order, and callers with an event loop read streams from threads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from pocketvlm.api.streams import Stream, fold
from pocketvlm.errors import InputError, PocketVLMError
from pocketvlm.types import Chunk, Result, Timings, Usage

Ask = Callable[[], Stream]


class Job:
    """One question that a thread answers; any other thread may cancel it, also before it begins."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._stream: Stream | None = None
        self._cancelled = False

    def open(self) -> Stream:
        """The stream of its answer. Raises PocketVLMError where the question is refused."""
        stream = self._ask()
        self._stream = stream
        if self._cancelled:
            stream.cancel()
        return stream

    def answer(self) -> Result:
        """Its answer, or the error of ours that ended it."""
        try:
            return fold(self.open())
        except PocketVLMError as error:
            return Result("", (), "error", Usage(0, 0, 0), Timings(), error)

    def cancel(self) -> None:
        """End the answer after the current step."""
        self._cancelled = True
        if self._stream is not None:
            self._stream.cancel()


def in_order(questions: Iterable[Ask], width: int) -> Iterator[Result]:
    """Answers in the order of the questions; `width` of them are generated at once.

    Questions are read when they are needed, at most 2 * width ahead of the answers. Closing the iterator cancels
    running answers.
    """
    waiting: deque[tuple[Job, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(width, "pocketvlm-ask")
    try:
        for ask in questions:
            job = Job(ask)
            waiting.append((job, pool.submit(job.answer)))
            while len(waiting) >= 2 * width or (waiting and waiting[0][1].done()):
                yield waiting[0][1].result()
                waiting.popleft()
        while waiting:
            yield waiting[0][1].result()
            waiting.popleft()
    finally:
        for job, _ in waiting:
            job.cancel()
        pool.shutdown(cancel_futures=True)


async def on_thread(ask: Ask, pool: Executor) -> AsyncGenerator[Chunk, None]:
    """The chunks of an answer generated on a thread of `pool`; leaving the loop early cancels it and awaits its end."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Chunk | BaseException | None] = asyncio.Queue()
    job = Job(ask)

    def tell(item: Chunk | BaseException | None) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, item)

    def work() -> None:
        try:
            for chunk in job.open():
                tell(chunk)
            tell(None)
        except BaseException as error:
            tell(error)

    future = pool.submit(work)
    try:
        while (item := await arrived.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        job.cancel()
        future.cancel()
        await asyncio.wait([asyncio.wrap_future(future)])


def question(item: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Model.stream` for one of many questions: a text, or a mapping with "text", "images" and options.

    given: what all of them share. Raises InputError.
    """
    if isinstance(item, str):
        return {"request": item, **given}
    if not isinstance(item, Mapping):
        raise InputError(f"a question must be a text or a mapping with 'text', not {type(item).__name__}")
    own = dict(item)
    if not isinstance(own.get("text"), str):
        raise InputError(f"a question needs 'text', a string; this mapping has {', '.join(map(str, own)) or 'nothing'}")
    return {**given, "request": own.pop("text"), **own}


def questions(asked: Any, given: Mapping[str, Any], media: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Arguments of `Model.stream` for a list of questions. media: by "images" and "videos" a list for each question.

    given: what all of them share. Raises InputError.
    """
    if not isinstance(asked, list | tuple):
        raise InputError(f"text must be a string, or a list or an iterator of questions, not {type(asked).__name__}")
    found = [question(item, given) for item in asked]
    for name, lists in media.items():
        if lists and len(lists) != len(found):
            raise InputError(f"{len(found)} questions but {len(lists)} lists of {name}: give one for each question")
        for arguments, its in zip(found, lists, strict=False):
            arguments.setdefault(name, its)
    return found
