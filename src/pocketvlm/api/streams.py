"""The requests of a `Model` share its engine, and each answer is a stream of chunks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from pocketvlm.engine import Engine, Request, TokenEvent
from pocketvlm.engine.request import StageSeconds
from pocketvlm.errors import PocketVLMError
from pocketvlm.parsing.newlines import NewlineNormalizer
from pocketvlm.parsing.stops import StopStrings
from pocketvlm.processor.tokenizer import Detokenizer, Tokenizer
from pocketvlm.types import Chunk, FinishReason, MediaSeconds, Prompt, Result, Timings, Usage


@dataclass(slots=True, eq=False)
class Call:
    """One running request: its events not yet read, when its prompt arrived, whether somebody wants it to end.

    before: what was spent on its videos before it began.
    """

    request: Request
    began: float
    normalize: bool
    number: int = -1
    events: deque[TokenEvent] = field(default_factory=deque)
    cancelled: bool = False
    before: MediaSeconds = field(default_factory=MediaSeconds)

    @property
    def prompt(self) -> Prompt:
        """What is asked."""
        return self.request.prompt


class Calls:
    """The requests that share an engine: whoever waits for a token steps it for all. Safe to use from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.lock = threading.Lock()
        self._engine = engine
        self._running: dict[int, Call] = {}

    def add(self, call: Call) -> None:
        """Begin a request."""
        with self.lock:
            call.number = self._engine.add(call.request)
            call.before = call.prompt.later_seconds()
            self._running[call.number] = call

    def next(self, call: Call) -> TokenEvent | None:
        """The next event of a call, None where it was cancelled; steps the engine while there is none."""
        while not call.cancelled:
            with self.lock:
                if call.events:
                    return call.events.popleft()
                for event in self._engine.step():
                    if event.request_id in self._running:
                        self._running[event.request_id].events.append(event)
        return None

    def cancel(self) -> None:
        """End all of them after the step that runs."""
        for call in list(self._running.values()):
            call.cancelled = True

    def release(self, call: Call) -> StageSeconds:
        """Forget a request, ended or not; returns the time it spent in each stage."""
        with self.lock:
            self._running.pop(call.number, None)
            return self._engine.release(call.number)


class Stream(Iterator[Chunk]):
    """The chunks of one answer as they come; the work runs as they are read. The last one has finish_reason, usage and
    timings.
    """

    def __init__(self, calls: Calls, call: Call, tokenizer: Tokenizer, load_seconds: float) -> None:
        # A generator that knows nothing of this object: whoever drops the stream frees the request at once.
        self._call = call
        self._chunks = _chunks(calls, call, tokenizer, load_seconds)

    def __next__(self) -> Chunk:
        """The next chunk. Raises PocketVLMError where the request failed."""
        return next(self._chunks)

    def cancel(self) -> None:
        """End the answer after the step that runs; may be called from any thread, and from signal handlers.

        The stream then ends with a chunk whose finish_reason is "abort".
        """
        self._call.cancelled = True

    def close(self) -> None:
        """End the request now; only while nobody reads the stream."""
        self._chunks.close()


def _chunks(calls: Calls, call: Call, tokenizer: Tokenizer, load_seconds: float) -> Generator[Chunk, None, None]:
    calls.add(call)
    detokenizer, stops = Detokenizer(tokenizer), StopStrings(call.request.params.stop)
    normalizer = NewlineNormalizer() if call.normalize else None
    made, ttft, text = 0, 0.0, ""
    ids: tuple[int, ...] = ()
    reason: FinishReason | None = None
    seconds: StageSeconds | None = None
    try:
        while reason is None:
            event = calls.next(call)
            if event is None:
                reason, ids, text = "abort", (), ""
            elif event.error is not None:
                raise event.cause if isinstance(event.cause, PocketVLMError) else PocketVLMError(event.error)
            else:
                made += 1
                ttft = ttft or time.perf_counter() - call.began
                ids, reason = (event.token_id,), event.finish_reason
                ends = reason is not None and event.token_id in call.request.stop_ids
                text = stops.feed("" if ends else detokenizer.add(event.token_id))
            if reason is not None:
                text += stops.feed(detokenizer.flush()) + stops.finish()
            if stops.matched is not None:
                reason = "stop"
            if normalizer is not None:
                text = normalizer.feed(text) + ("" if reason is None else normalizer.finish())
            if reason is None:
                yield Chunk(text, ids)
        seconds = calls.release(call)
    finally:
        if seconds is None:
            calls.release(call)
    prompt, later = call.prompt, call.prompt.later_seconds()
    timings = Timings(
        load=load_seconds,
        decode_media=prompt.decode_seconds + later.decode - call.before.decode,
        resize=prompt.resize_seconds + later.resize - call.before.resize,
        preprocess=prompt.preprocess_seconds,
        vision=seconds.vision,
        prefill=seconds.prefill,
        decode=seconds.decode,
        ttft=ttft,
    )
    yield Chunk(text, ids, reason, Usage(len(prompt.ids), prompt.image_tokens, made), timings)


def fold(chunks: Iterator[Chunk]) -> Result:
    """A whole answer out of its chunks."""
    text: list[str] = []
    ids: list[int] = []
    for chunk in chunks:
        text.append(chunk.text)
        ids.extend(chunk.token_ids)
    assert chunk.finish_reason is not None
    assert chunk.usage is not None
    assert chunk.timings is not None
    return Result("".join(text), tuple(ids), chunk.finish_reason, chunk.usage, chunk.timings)
