"""The token events of one sequence become text, reasoning, tool calls, counts and a finish reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pocketvlm.engine.request import Request, TokenEvent
from pocketvlm.parsing import (
    AnswerParser,
    CallArguments,
    CallBegin,
    Content,
    Delta,
    NewlineNormalizer,
    Reasoning,
    RunawayGuard,
    StopStrings,
)
from pocketvlm.processor.tokenizer import Detokenizer, Tokenizer
from pocketvlm.types import FinishReason, TokenLogprob


@dataclass(frozen=True, slots=True)
class Piece:
    """What came of some tokens of one choice. stop: the stop string that ended it; error: why it failed."""

    index: int
    deltas: tuple[Delta, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    stop: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """How answers to a question are read. parser: a fresh one for each choice, None to take text as it is."""

    tokenizer: Tokenizer
    parser: Callable[[], AnswerParser] | None
    thinking: bool = False
    normalize: bool = False
    skip_special: bool = True
    guard: bool = True


@dataclass(slots=True, eq=False)
class Voice:
    """One choice of an answer: feed it the engine's events, in order, until `finish_reason` is set."""

    index: int
    request: Request
    reading: Reading
    tokens: int = 0
    reasoning_tokens: int = 0
    called: bool = False
    finish_reason: FinishReason | None = None
    _detokenizer: Detokenizer = field(init=False)
    _stops: StopStrings = field(init=False)
    _parser: AnswerParser | None = field(init=False)
    _normalizer: NewlineNormalizer | None = field(init=False)
    _guard: RunawayGuard | None = field(init=False)
    _thinking: bool = field(init=False)
    _end_of_thought: int = field(init=False)
    _stop_ids: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        reading = self.reading
        self._detokenizer = Detokenizer(reading.tokenizer, reading.skip_special)
        self._stops = StopStrings(self.request.params.stop)
        self._parser = reading.parser() if reading.parser else None
        self._normalizer = NewlineNormalizer() if reading.normalize else None
        self._guard = RunawayGuard() if reading.guard else None
        self._thinking = reading.thinking
        self._end_of_thought = reading.tokenizer.control_ids.get("</think>", -1)
        self._stop_ids = self.request.stop_ids

    @property
    def matched(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stops.matched

    def feed(self, events: Iterable[TokenEvent]) -> Piece:
        """Take the next events; those behind the end are ignored."""
        deltas: list[Delta] = []
        logprobs: list[TokenLogprob] = []
        ids: list[int] = []
        error = None
        for event in events:
            if self.finish_reason is not None:
                break
            if event.token_id < 0:  # aborted or failed: no token
                error = event.error
                self._end(event.finish_reason or "error", "", deltas)
                break
            ends = event.finish_reason == "stop" and event.token_id in self._stop_ids
            self.tokens += 1
            ids.append(event.token_id)
            if event.logprob is not None and not ends:
                logprobs.append(event.logprob)
            if self._thinking:
                self.reasoning_tokens += 1
                self._thinking = event.token_id != self._end_of_thought
            text = self._stops.feed("" if ends else self._detokenizer.add(event.token_id))
            reason = event.finish_reason
            if reason is not None:
                text += self._stops.feed(self._detokenizer.flush()) + self._stops.finish()
            if self._stops.matched is not None:
                reason = "stop"
            elif reason is None and self._guard is not None and self._guard.add(event.token_id):
                text += self._stops.feed(self._detokenizer.flush()) + self._stops.finish()
                reason = "repetition"
            if reason is not None:
                self._end(reason, text, deltas)
            elif text:
                self._read(text, deltas)
                if self._parser is not None and self._parser.done:  # one call, where there may be only one
                    self._end("stop", "", deltas)
        if any(isinstance(delta, CallBegin) for delta in deltas):
            self.called = True
        return Piece(
            self.index,
            tuple(joined(deltas)),
            tuple(logprobs),
            tuple(ids),
            self.finish_reason,
            self._stops.matched,
            error,
        )

    def _read(self, text: str, deltas: list[Delta]) -> None:
        self._shape(self._parser.feed(text) if self._parser else [Content(text)], deltas)

    def _end(self, reason: FinishReason, text: str, deltas: list[Delta]) -> None:
        if text:
            self._read(text, deltas)
        if self._parser is not None:
            self._shape(self._parser.finish(), deltas)
        if self._normalizer is not None and (rest := self._normalizer.finish()):
            deltas.append(Content(rest))
        self.finish_reason = reason

    def _shape(self, found: Iterable[Delta], deltas: list[Delta]) -> None:
        """Normalise the text that is shown; what is not text first lets out what the normaliser holds."""
        for delta in found:
            if self._normalizer is None:
                deltas.append(delta)
            elif isinstance(delta, Content):
                if text := self._normalizer.feed(delta.text):
                    deltas.append(Content(text))
            else:
                if rest := self._normalizer.finish():
                    deltas.append(Content(rest))
                deltas.append(delta)


def joined(deltas: Iterable[Delta]) -> list[Delta]:
    """The same with neighbouring pieces of one text put together: what came at once leaves at once."""
    found: list[Delta] = []
    for delta in deltas:
        last = found[-1] if found else None
        match last, delta:
            case Content(before), Content(text):
                found[-1] = Content(before + text)
            case Reasoning(before), Reasoning(text):
                found[-1] = Reasoning(before + text)
            case CallArguments(index, before), CallArguments(same, text) if index == same:
                found[-1] = CallArguments(index, before + text)
            case _:
                found.append(delta)
    return found
