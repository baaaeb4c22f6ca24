"""Answers are sent as a stream or whole; the request ends when its client disconnects."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pocketvlm.answers.answer import Answer
from pocketvlm.answers.choice import Delta
from pocketvlm.interfaces.errors import ApiError
from pocketvlm.interfaces.renderers.common import StreamRenderer, dump
from pocketvlm.interfaces.usage import RequestUsage, prompts_of
from pocketvlm.server.context import Context
from pocketvlm.server.errors import internal
from pocketvlm.server.logs import Record
from pocketvlm.server.metrics import Metrics
from pocketvlm.server.protocol import WRITE
from pocketvlm.server.running import Run

_GONE = 499  # what others log where the client did not wait


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return dump(content)


class Stream(Response):
    """A streamed answer: what the renderer makes of a run's deltas."""

    def __init__(self, context: Context, run: Run, record: Record, renderer: StreamRenderer) -> None:
        self._context = context
        self._run = run
        self._record = record
        self._renderer = renderer
        record.stream = True
        self.status_code = 200
        self.background = None
        self.media_type = renderer.media_type
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    def init_headers(self, headers: Any = None) -> None:
        """No length: it is not known."""
        self.raw_headers = [
            (b"content-type", self.media_type.encode() if self.media_type else b""),
            *((name.lower().encode(), value.encode()) for name, value in headers.items()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        gone = asyncio.Event()
        watch = asyncio.create_task(_watch(receive, gone, self._run))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._body(send, gone, scope.get(WRITE))
        finally:
            watch.cancel()
            if gone.is_set():
                self._record.status = _GONE
            _finalize(self._run, self._record, self._context.metrics)

    async def _body(self, send: Send, gone: asyncio.Event, write: Callable[[bytes], bool] | None) -> None:
        async def out(data: bytes, more: bool = True) -> None:
            if data or not more:
                await send({"type": "http.response.body", "body": data, "more_body": more})

        run, renderer = self._run, self._renderer
        pinger = _Pinger(self._context.settings.ping, run)

        late: list[bytes] = []

        def at_once(deltas: list[Delta]) -> None:
            data = b"".join([renderer.delta(delta) for delta in deltas])
            pinger.sent = pinger.sent or bool(data)  # deltas may show nothing, such as hidden thoughts
            if data and (run.done or write is None or not write(data)):
                late.append(data)
                run.wake()

        try:
            await out(renderer.head())
            run.listen(at_once)
            while not run.done and not gone.is_set():
                at_once(await run.next())
                if late and not run.done:
                    data = b"".join(late)
                    late.clear()
                    await out(data)
                elif pinger.due:
                    pinger.due = False
                    await out(renderer.ping)
            last = b"" if gone.is_set() else renderer.tail()
        except ApiError as error:
            self._record.error = error.code or error.message
            last = renderer.failure(error)
        except Exception as error:  # ours: the client is told in its own form, the log has the traceback
            self._context.log.trouble(type(error).__name__, self._record.id, traceback.format_exc())
            self._record.error = "internal_error"
            last = renderer.failure(internal(self._record.id))
        finally:
            pinger.stop()
        await out(b"".join(late) + last, more=False)


class _Pinger:
    """Wakes a run's reader when nothing was sent for a while; one timer a period, nothing a token."""

    def __init__(self, period: float, run: Run) -> None:
        self.sent = self.due = False
        self._period = period
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(period, self._tick)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._period, self._tick)
        if not self.sent:
            self.due = True
            self._run.wake()
        self.sent = False

    def stop(self) -> None:
        self._timer.cancel()


async def _watch(receive: Receive, gone: asyncio.Event, run: Run) -> None:
    """Wait until the client is gone, then end the run."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()
    run.cancel()
    run.wake()


async def whole(
    context: Context, run: Run, record: Record, request: HttpRequest, render: Callable[[list[Answer]], Any]
) -> Response:
    """The answer when all of it is there; `render` makes its JSON."""
    answers = [Answer() for _ in run.choices]
    gone = asyncio.Event()
    watch = asyncio.create_task(_watch(request.receive, gone, run))
    try:
        while not run.done:
            for delta in await run.next():
                answers[delta.index].add(delta)
            if gone.is_set():
                record.status = _GONE
                return Response(status_code=_GONE)
        return Json(render(answers))
    except ApiError as error:
        record.error = error.code or error.message
        raise
    finally:
        watch.cancel()
        _finalize(run, record, context.metrics)


def _finalize(run: Run, record: Record, metrics: Metrics) -> None:
    """Book a run that nobody reads any more: end it if it still runs, and note what it was."""
    run.cancel()
    usage = RequestUsage.of(run.choices, record.times)
    record.prompt_tokens, record.cached_tokens = usage.prompt, usage.cached
    record.image_tokens = usage.image
    record.images = sum(len(prompt.images) for prompt in prompts_of(run.choices))
    record.completion_tokens = usage.completion
    record.queue = usage.queue
    record.ttft = usage.ttft if any(choice.first is not None for choice in run.choices) else None
    record.finish = tuple(choice.finish_reason or "abort" for choice in run.choices)
    metrics.answered(run)
