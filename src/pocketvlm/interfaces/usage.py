"""The usage of an answer is its token counts and times, for clients and for the log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from pocketvlm.server.logs import Record
from pocketvlm.server.metrics import Metrics
from pocketvlm.server.running import Run


@dataclass(frozen=True, slots=True)
class RequestUsage:
    """Counts of a run so far, and where its time went, in seconds."""

    prompt: int
    image: int
    cached: int
    completion: int
    reasoning: int
    queue: float
    media: float
    resize: float
    preprocess: float
    vision: float
    prefill: float
    decode: float
    ttft: float
    total: float

    @classmethod
    def of(cls, run: Run, record: Record) -> RequestUsage:
        """The usage of a run so far, whatever has happened to it."""
        firsts = {id(choice.request.prompt): ticket for choice, ticket in zip(run.choices, run.tickets, strict=True)}
        stages = [ticket.seconds for ticket in run.tickets]
        # Frames of videos are decoded and resized on another thread, when they are due.
        later = [prompt.later_seconds() for prompt in run.prompts]
        return cls(
            prompt=sum(len(prompt.ids) for prompt in run.prompts),
            image=sum(prompt.image_tokens for prompt in run.prompts),
            cached=sum(ticket.cached_tokens for ticket in firsts.values()),
            completion=sum(choice.tokens for choice in run.choices),
            reasoning=sum(choice.reasoning_tokens for choice in run.choices),
            queue=max(ticket.queue_seconds for ticket in run.tickets),
            media=record.fetch + record.media + sum(clips.decode for clips in later),
            resize=sum(prompt.resize_seconds for prompt in run.prompts) + sum(clips.resize for clips in later),
            preprocess=record.preprocess,
            vision=sum(stage.vision for stage in stages),
            prefill=sum(stage.prefill for stage in stages),
            decode=max(stage.decode for stage in stages),
            ttft=(run.first or time.perf_counter()) - record.began,
            total=time.perf_counter() - record.began,
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


def finalize(run: Run, record: Record, metrics: Metrics) -> None:
    """Book a run that nobody reads any more: end it if it still runs, and note what it was."""
    run.cancel()
    usage = RequestUsage.of(run, record)
    record.prompt_tokens, record.cached_tokens = usage.prompt, usage.cached
    record.image_tokens, record.images = usage.image, sum(len(prompt.images) for prompt in run.prompts)
    record.completion_tokens = usage.completion
    record.queue = usage.queue
    record.ttft = usage.ttft if run.first is not None else None
    record.finish = tuple(choice.finish_reason or "abort" for choice in run.choices)
    metrics.answered(run)
