"""Answers are sent as a stream or whole; the request ends when its client disconnects."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pocketvlm.parsing import CallArguments, CallBegin, Content, Reasoning
from pocketvlm.server.accounts import settle
from pocketvlm.server.answering import Piece
from pocketvlm.server.context import Context
from pocketvlm.server.errors import ApiError, internal
from pocketvlm.server.logs import Record
from pocketvlm.server.protocol import WRITE
from pocketvlm.server.running import Run
from pocketvlm.types import FinishReason, TokenLogprob

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_GONE = 499  # what others log where the client did not wait


def dump(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return _encode(value).encode("utf-8", "replace")


def event(value: Any, name: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + dump(value) + b"\n\n"


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return dump(content)


@dataclass(slots=True)
class Call:
    """One function call of an answer."""

    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class TextLogprobs:
    """Tells the log-probabilities of an answer's text from those of its reasoning and its calls."""

    _waiting: list[TokenLogprob] = field(default_factory=list)

    def add(self, piece: Piece) -> list[TokenLogprob]:
        """Those of the text in a piece; tokens that have shown nothing yet wait for what they become."""
        self._waiting += piece.logprobs
        found = self._waiting if any(isinstance(delta, Content) for delta in piece.deltas) else []
        if piece.deltas:
            self._waiting = []
        return found


@dataclass(slots=True)
class Answer:
    """One choice as a whole: the fold of its pieces."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    text_logprobs: list[TokenLogprob] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop: str | None = None
    _text: TextLogprobs = field(default_factory=TextLogprobs)

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        for delta in piece.deltas:
            match delta:
                case Content(text):
                    self.text.append(text)
                case Reasoning(text):
                    self.reasoning.append(text)
                case CallBegin(_, name):
                    self.calls.append(Call(name))
                case CallArguments(_, text):
                    self.calls[-1].arguments.append(text)
        self.logprobs += piece.logprobs
        self.text_logprobs += self._text.add(piece)
        self.token_ids += piece.token_ids
        self.finish_reason = piece.finish_reason or self.finish_reason
        self.stop = piece.stop


class Renderer(Protocol):
    """Writes a stream in the form of one interface."""

    media_type: str
    ping: bytes  # what keeps the connection open while nothing comes; empty for nothing

    def head(self) -> bytes:
        """The beginning."""
        ...

    def piece(self, piece: Piece) -> bytes:
        """Some tokens of one choice."""
        ...

    def tail(self) -> bytes:
        """The end, after the last piece of every choice."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """The end, when the request failed half-way."""
        ...


class Stream(Response):
    """A streamed answer: what the renderer makes of a run's pieces."""

    def __init__(self, context: Context, run: Run, record: Record, renderer: Renderer) -> None:
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
            settle(self._run, self._record, self._context.metrics)

    async def _body(self, send: Send, gone: asyncio.Event, write: Callable[[bytes], bool] | None) -> None:
        async def out(data: bytes, more: bool = True) -> None:
            if data or not more:
                await send({"type": "http.response.body", "body": data, "more_body": more})

        run, renderer = self._run, self._renderer
        pinger = _Pinger(self._context.settings.ping, run)

        late: list[bytes] = []

        def at_once(pieces: list[Piece]) -> None:
            data = b"".join([renderer.piece(piece) for piece in pieces])
            pinger.sent = pinger.sent or bool(data)  # pieces may show nothing, such as hidden thoughts
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
    answers = [Answer() for _ in run.voices]
    gone = asyncio.Event()
    watch = asyncio.create_task(_watch(request.receive, gone, run))
    try:
        while not run.done:
            for piece in await run.next():
                answers[piece.index].add(piece)
            if gone.is_set():
                record.status = _GONE
                return Response(status_code=_GONE)
        return Json(render(answers))
    except ApiError as error:
        record.error = error.code or error.message
        raise
    finally:
        watch.cancel()
        settle(run, record, context.metrics)
