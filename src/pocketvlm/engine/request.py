"""The nouns of a step: requests, the sequences they become, plans and token events."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pocketvlm.backends.ops import Array, Ints
from pocketvlm.engine.memory import Reservation
from pocketvlm.types import FinishReason, Prompt, SamplingParams


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt, how to sample from it, and the ids that end it (the checkpoint's own end ids)."""

    prompt: Prompt
    params: SamplingParams
    eos_token_ids: tuple[int, ...] = ()

    @property
    def stop_ids(self) -> frozenset[int]:
        """Every id that ends the answer."""
        eos = () if self.params.ignore_eos else self.eos_token_ids
        return frozenset(eos) | frozenset(self.params.stop_token_ids)


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One sampled token of one request; the last one carries the reason for the end."""

    request_id: int
    token_id: int
    finish_reason: FinishReason | None


@dataclass(slots=True)
class StageSeconds:
    """Wall time that a sequence has spent in each stage."""

    vision: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0


@dataclass(slots=True, eq=False)
class Sequence:
    """A running request: its ids so far, how many of them the state holds, and where that state is."""

    id: int
    request: Request
    max_tokens: int
    random: np.random.Generator
    output: list[int] = field(default_factory=list)
    computed: int = 0
    reservation: Reservation | None = None
    features: list[Array] = field(default_factory=list)
    seconds: StageSeconds = field(default_factory=StageSeconds)

    @property
    def length(self) -> int:
        """Tokens known: prompt and output."""
        return len(self.request.prompt.ids) + len(self.output)

    def ids(self, start: int, stop: int) -> Ints:
        """Token ids start..stop of prompt + output."""
        prompt = self.request.prompt.ids
        if stop <= len(prompt):
            return prompt[start:stop]
        output = np.array(self.output[max(start - len(prompt), 0) : stop - len(prompt)], dtype=np.int32)
        return np.concatenate([prompt[start:], output])


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens start..stop of one sequence that go through the network in one step."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def samples(self) -> bool:
        """Whether this step yields the sequence's next token."""
        return self.stop == self.sequence.length


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step does."""

    work: tuple[Work, ...]
