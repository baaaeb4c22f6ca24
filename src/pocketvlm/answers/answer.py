"""A whole answer: the fold of its deltas, so that a streamed answer and a whole one are the same by construction."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from pocketvlm.answers.choice import Delta
from pocketvlm.parsing.parts import CallArguments, CallBegin, Content, Reasoning
from pocketvlm.types import FinishReason, TokenLogprob


@dataclass(slots=True)
class Call:
    """One tool call of an answer. arguments: chunks of one JSON object."""

    name: str
    arguments: list[str] = field(default_factory=list)

    @property
    def arguments_json(self) -> str:
        """The JSON text of the arguments as far as it has come."""
        return "".join(self.arguments)

    def parsed_arguments(self) -> Any:
        """The arguments of a call that has ended; {} for a call without any."""
        return json.loads(self.arguments_json or "{}")


@dataclass(slots=True)
class TextLogprobs:
    """Separates the log-probabilities of an answer's text from those of its reasoning and calls."""

    _waiting: list[TokenLogprob] = field(default_factory=list)

    def add(self, delta: Delta) -> list[TokenLogprob]:
        """The log-probabilities of the text in a delta; tokens without visible output so far are held back."""
        self._waiting += delta.logprobs
        found = self._waiting if any(isinstance(part, Content) for part in delta.parts) else []
        if delta.parts:
            self._waiting = []
        return found


@dataclass(slots=True)
class Answer:
    """One choice as a whole. text, reasoning: chunks to be joined. stop: the stop string that ended it."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    text_logprobs: list[TokenLogprob] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop: str | None = None
    _text: TextLogprobs = field(default_factory=TextLogprobs)

    def add(self, delta: Delta) -> None:
        """Take the next delta."""
        for part in delta.parts:
            match part:
                case Content(text):
                    self.text.append(text)
                case Reasoning(text):
                    self.reasoning.append(text)
                case CallBegin(_, name):
                    self.calls.append(Call(name))
                case CallArguments(_, text):
                    self.calls[-1].arguments.append(text)
        self.logprobs += delta.logprobs
        self.text_logprobs += self._text.add(delta)
        self.token_ids += delta.token_ids
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.stop = delta.stop
