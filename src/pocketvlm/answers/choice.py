"""One choice of an answer: token events become text, reasoning, tool calls, token counts and a finish reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pocketvlm.engine.driver import Ticket
from pocketvlm.engine.request import Request, StageSeconds, TokenEvent
from pocketvlm.parsing.newlines import NewlineNormalizer
from pocketvlm.parsing.parts import AnswerPart, CallBegin, Content, merged
from pocketvlm.parsing.runaway import RunawayGuard
from pocketvlm.parsing.stops import StopStrings
from pocketvlm.processor.tokenizer import Detokenizer, Tokenizer
from pocketvlm.types import FinishReason, MediaSeconds, Prompt, Timings, TokenLogprob, Usage

if TYPE_CHECKING:
    from pocketvlm.parsing.answer import AnswerParser


@dataclass(frozen=True, slots=True)
class Delta:
    """The part of a choice that some tokens added. stop: the stop string that ended it; error, cause: why it failed."""

    index: int
    parts: tuple[AnswerPart, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    stop: str | None = None
    error: str | None = None
    cause: Exception | None = None

    @property
    def text(self) -> str:
        """The text that is shown: no reasoning, no calls."""
        return "".join([part.text for part in self.parts if isinstance(part, Content)])


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """Options for reading tokens. parser: makes the parser of one choice; None treats all text as content.

    thinking: the prompt opens reasoning. normalize: convert written-out newlines of content. skip_special: leave out
    special tokens. guard: end an answer that only repeats itself.
    """

    tokenizer: Tokenizer
    parser: Callable[[], AnswerParser] | None = None
    thinking: bool = False
    normalize: bool = False
    skip_special: bool = True
    guard: bool = False


def opens_reasoning(prompt: Prompt) -> bool:
    """Whether an answer to this prompt begins inside `<think>`."""
    return prompt.text.rstrip().endswith("<think>")


@dataclass(slots=True, eq=False)
class Choice:
    """The pipeline of one request: feed it the engine's events, in order, until `finish_reason` is set.

    began, first: perf_counter when the question arrived, and when its first token was read. tokens: tokens of the
    answer, including reasoning_tokens. called: whether there was a tool call.
    """

    index: int
    request: Request
    options: AnswerOptions
    began: float = field(default_factory=time.perf_counter)
    first: float | None = None
    tokens: int = 0
    reasoning_tokens: int = 0
    called: bool = False
    finish_reason: FinishReason | None = None
    ticket: Ticket | None = None
    _media: MediaSeconds = field(default_factory=MediaSeconds)  # what earlier requests spent on frames of the prompt
    _detokenizer: Detokenizer = field(init=False)
    _stops: StopStrings = field(init=False)
    _parser: AnswerParser | None = field(init=False)
    _normalizer: NewlineNormalizer | None = field(init=False)
    _guard: RunawayGuard | None = field(init=False)
    _thinking: bool = field(init=False)
    _end_of_thought: int = field(init=False)
    _stop_ids: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        options = self.options
        self._detokenizer = Detokenizer(options.tokenizer, options.skip_special)
        self._stops = StopStrings(self.request.params.stop)
        self._parser = options.parser() if options.parser else None
        self._normalizer = NewlineNormalizer() if options.normalize else None
        self._guard = RunawayGuard() if options.guard else None
        self._thinking = options.thinking
        self._end_of_thought = options.tokenizer.control_ids.get("</think>", -1)
        self._stop_ids = self.request.stop_ids

    def begin(self, ticket: Ticket) -> None:
        """Note that the engine has the request."""
        self.ticket, self._media = ticket, self.request.prompt.later_seconds()

    @property
    def matched(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stops.matched

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        prompt = self.request.prompt
        return Usage(len(prompt.ids), prompt.image_tokens, self.tokens)

    def timings(self, load_seconds: float = 0.0) -> Timings:
        """Seconds of each stage so far."""
        prompt, later = self.request.prompt, self.request.prompt.later_seconds()
        stages = StageSeconds() if self.ticket is None else self.ticket.seconds
        return Timings(
            load=load_seconds,
            decode_media=prompt.decode_seconds + later.decode - self._media.decode,
            resize=prompt.resize_seconds + later.resize - self._media.resize,
            preprocess=prompt.preprocess_seconds,
            vision=stages.vision,
            prefill=stages.prefill,
            decode=stages.decode,
            ttft=0.0 if self.first is None else self.first - self.began,
        )

    def feed(self, events: Iterable[TokenEvent]) -> Delta:
        """Read events; returns what they add to the choice. Events after the end are ignored."""
        parts: list[AnswerPart] = []
        logprobs: list[TokenLogprob] = []
        ids: list[int] = []
        failed: TokenEvent | None = None
        for event in events:
            if self.finish_reason is not None:
                break
            if event.token_id < 0:  # aborted or failed: no token
                failed = event
                self._end(event.finish_reason or "error", self._flushed(), parts)
                break
            ids.append(event.token_id)
            if event.logprob is not None and not self._is_end(event):
                logprobs.append(event.logprob)
            self._take(event, parts)
        self.called = self.called or any(isinstance(part, CallBegin) for part in parts)
        return Delta(
            self.index,
            tuple(merged(parts)),
            tuple(logprobs),
            tuple(ids),
            self.finish_reason,
            self._stops.matched,
            failed.error if failed else None,
            failed.cause if failed else None,
        )

    def _is_end(self, event: TokenEvent) -> bool:
        return event.finish_reason == "stop" and event.token_id in self._stop_ids

    def _take(self, event: TokenEvent, parts: list[AnswerPart]) -> None:
        """Read one token."""
        self.tokens += 1
        if self.first is None:
            self.first = time.perf_counter()
        if self._thinking:
            self.reasoning_tokens += 1
            self._thinking = event.token_id != self._end_of_thought
        text = self._stops.feed("" if self._is_end(event) else self._detokenizer.add(event.token_id))
        reason = event.finish_reason
        if reason is not None:
            text += self._flushed()
        if self._stops.matched is not None:
            reason = "stop"
        elif reason is None and self._guard is not None and self._guard.add(event.token_id):
            text += self._flushed()
            reason = "repetition"
        if reason is not None:
            self._end(reason, text, parts)
        elif text:
            self._parse(text, parts)
            if self._parser is not None and self._parser.done:  # the only call that is allowed
                self._end("stop", "", parts)

    def _flushed(self) -> str:
        """The text that was held back in case more would follow."""
        return self._stops.feed(self._detokenizer.flush()) + self._stops.finish()

    def _parse(self, text: str, parts: list[AnswerPart]) -> None:
        self._show(self._parser.feed(text) if self._parser else [Content(text)], parts)

    def _end(self, reason: FinishReason, text: str, parts: list[AnswerPart]) -> None:
        if text:
            self._parse(text, parts)
        if self._parser is not None:
            self._show(self._parser.finish(), parts)
        if self._normalizer is not None and (rest := self._normalizer.finish()):
            parts.append(Content(rest))
        self.finish_reason = reason

    def _show(self, found: Iterable[AnswerPart], parts: list[AnswerPart]) -> None:
        """Normalize content; parts of another kind first release the text that the normalizer holds back."""
        for part in found:
            if self._normalizer is None:
                parts.append(part)
            elif isinstance(part, Content):
                if text := self._normalizer.feed(part.text):
                    parts.append(Content(text))
            else:
                if rest := self._normalizer.finish():
                    parts.append(Content(rest))
                parts.append(part)
