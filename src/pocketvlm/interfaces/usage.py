"""`RequestOutput` has the choices of a request so far, and its usage: token counts and times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pocketvlm.answers.choice import Choice
from pocketvlm.engine.driver import Ticket
from pocketvlm.processor.tokenizer import Tokenizer
from pocketvlm.types import Prompt


@dataclass(slots=True)
class RequestTimes:
    """When a request arrived (of perf_counter), and the seconds of each stage before the engine had it."""

    began: float = field(default_factory=time.perf_counter)
    fetch: float = 0.0
    media: float = 0.0
    preprocess: float = 0.0


@dataclass(frozen=True, slots=True)
class RequestUsage:
    """Token counts of a request so far, and the seconds of each stage; fetch is part of media."""

    prompt: int
    image: int
    cached: int
    completion: int
    reasoning: int
    queue: float
    fetch: float
    media: float
    resize: float
    preprocess: float
    vision: float
    prefill: float
    decode: float
    ttft: float
    total: float

    @classmethod
    def of(cls, choices: Sequence[Choice], times: RequestTimes) -> RequestUsage:
        """The usage of submitted choices, running or ended."""
        prompts = prompts_of(choices)
        tickets = [_ticket(choice) for choice in choices]
        cached = {id(choice.request.prompt): _ticket(choice).cached_tokens for choice in choices}
        stages = [ticket.seconds for ticket in tickets]
        # Frames of videos are decoded and resized on another thread, when they are due.
        clips = [prompt.later_seconds() for prompt in prompts]
        now = time.perf_counter()
        return cls(
            prompt=sum(len(prompt.ids) for prompt in prompts),
            image=sum(prompt.image_tokens for prompt in prompts),
            cached=sum(cached.values()),
            completion=sum(choice.tokens for choice in choices),
            reasoning=sum(choice.reasoning_tokens for choice in choices),
            fetch=times.fetch,
            queue=max(ticket.queue_seconds for ticket in tickets),
            media=times.fetch + times.media + sum(clip.decode for clip in clips),
            resize=sum(prompt.resize_seconds for prompt in prompts) + sum(clip.resize for clip in clips),
            preprocess=times.preprocess,
            vision=sum(stage.vision for stage in stages),
            prefill=sum(stage.prefill for stage in stages),
            decode=max(stage.decode for stage in stages),
            ttft=min((choice.first for choice in choices if choice.first is not None), default=now) - times.began,
            total=now - times.began,
        )

    def counts(self) -> dict[str, Any]:
        """OpenAI's usage object; image tokens are part of the prompt's, reasoning tokens of the completion's."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, "image_tokens": self.image},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }

    def timings(self) -> dict[str, Any]:
        """Seconds of each stage, and how many tokens of the prompt needed no work."""
        names = ("queue", "media", "resize", "preprocess", "vision", "prefill", "decode", "ttft", "total")
        return {**{name: round(getattr(self, name), 6) for name in names}, "cached_tokens": self.cached}


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """The choices of one request so far, and what else its answer tells.

    id: of the request. model: its name in the answer. fingerprint: what answers with the same seed have in common.
    created: when the answer began, in seconds since 1970.
    """

    id: str
    model: str
    tokenizer: Tokenizer
    fingerprint: str
    choices: Sequence[Choice]
    times: RequestTimes
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def done(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.finish_reason is not None for choice in self.choices)

    def usage(self) -> RequestUsage:
        """Token counts and times so far."""
        return RequestUsage.of(self.choices, self.times)


def prompts_of(choices: Sequence[Choice]) -> list[Prompt]:
    """The prompts of choices, each once."""
    return list({id(choice.request.prompt): choice.request.prompt for choice in choices}.values())


def _ticket(choice: Choice) -> Ticket:
    assert choice.ticket is not None, "the engine has each choice"
    return choice.ticket
