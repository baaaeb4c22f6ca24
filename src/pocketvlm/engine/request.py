"""These values travel through a step: requests, sequences, plans and token events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from pocketvlm.backends.batch import Ints
from pocketvlm.backends.ops import Array
from pocketvlm.engine.memory import Allocation
from pocketvlm.model import LoadedAdapter
from pocketvlm.types import Constraint, FinishReason, Prompt, SamplingParams, TokenLogprob

# Requests of this priority, or of a higher number, rest while any others run.
BACKGROUND = 1 << 30


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt, how to sample from it, and the ids that end it (the checkpoint's own end ids).

    priority: lower numbers run first; from BACKGROUND on, only while no others run. constraint: makes the object that
    says which tokens the answer may have.
    adapter: name of an adapter of the network (`MiniCPMV.add_adapter`); None: the checkpoint's own weights.
    """

    prompt: Prompt
    params: SamplingParams
    eos_token_ids: tuple[int, ...] = ()
    priority: int = 0
    constraint: Callable[[], Constraint] | None = None
    adapter: str | None = None

    @property
    def stop_ids(self) -> frozenset[int]:
        """Every id that ends the answer."""
        eos = () if self.params.ignore_eos else self.eos_token_ids
        return frozenset(eos) | frozenset(self.params.stop_token_ids)


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One sampled token of one request; the last one carries the reason for the end.

    With finish_reason "error" or "abort" there is no token (token_id -1); `error` says what went wrong, and `cause`
    is the exception, if there was one.
    """

    request_id: int
    token_id: int
    finish_reason: FinishReason | None
    logprob: TokenLogprob | None = None
    error: str | None = None
    cause: Exception | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sampled token. closes: the constraint allows nothing but an end id after it."""

    id: int
    logprob: TokenLogprob | None = None
    closes: bool = False


@dataclass(slots=True)
class StageSeconds:
    """Wall time that a sequence has spent in each stage."""

    vision: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0


@dataclass(slots=True, eq=False)
class Sequence:
    """A request in the engine: its ids so far, how many of them the state holds, and where that state is.

    boundaries: the ends of its prompt's parts. keys: of the prefix-cache entries among them, by position. adapter: of
    its request, also after the name is gone. features: of views whose ids are not all computed, by index. copies:
    copies of its slot that a step fills, by position. cached: prompt tokens that were not computed for it. Times are of
    perf_counter.
    """

    id: int
    request: Request
    max_tokens: int
    random: np.random.Generator
    boundaries: tuple[int, ...] = ()
    keys: dict[int, bytes] = field(default_factory=dict)
    adapter: LoadedAdapter | None = None
    output: list[int] = field(default_factory=list)
    computed: int = 0
    allocation: Allocation | None = None
    features: dict[int, Array] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    constraint: Constraint | None = None
    seconds: StageSeconds = field(default_factory=StageSeconds)
    cached: int = 0
    arrived: float = field(default_factory=time.perf_counter)
    admitted: float | None = None

    @property
    def background(self) -> bool:
        """Whether it rests while sequences of other requests run."""
        return self.request.priority >= BACKGROUND

    @property
    def order(self) -> tuple[int, int]:
        """Precedence: lower priority numbers first, then earlier requests."""
        return self.request.priority, self.id

    @property
    def vision_digest(self) -> str:
        """What the features of its views depend on besides the views: "" means the checkpoint's own weights."""
        return "" if self.adapter is None else self.adapter.vision_digest

    @property
    def length(self) -> int:
        """Tokens known: prompt and output."""
        return len(self.request.prompt.ids) + len(self.output)

    @property
    def position_delta(self) -> int:
        """The rotary position of a token after the prompt, less its index."""
        positions = self.request.prompt.positions
        return 0 if positions is None else positions.delta

    @property
    def prefilling(self) -> bool:
        """Whether part of the prompt is not computed yet."""
        return self.computed < len(self.request.prompt.ids)

    def ids(self, start: int, stop: int) -> Ints:
        """Token ids start..stop of prompt + output."""
        prompt = self.request.prompt.ids
        if stop <= len(prompt):
            return prompt[start:stop]
        output = np.array(self.output[max(start - len(prompt), 0) : stop - len(prompt)], dtype=np.int32)
        return np.concatenate([prompt[start:], output])

    def rotary_positions(self, start: int, stop: int) -> Ints:
        """Rotary positions of tokens start..stop of prompt + output: int32 [n], or [3, n] with those of the prompt."""
        after = np.arange(start, stop, dtype=np.int32) + np.int32(self.position_delta)
        positions = self.request.prompt.positions
        if positions is None:
            return after
        inside = positions.values[:, start:stop]
        return np.concatenate([inside, np.tile(after[inside.shape[1] :], (3, 1))], axis=1)


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens start..stop of one sequence that go through the network in one step.

    boundaries: positions between start and stop where one part ends and the next begins; each part has the bits of a
    step of its own. entry_ends: ends of parts whose state becomes a prefix-cache entry.
    """

    sequence: Sequence
    start: int
    stop: int
    boundaries: tuple[int, ...] = ()
    entry_ends: tuple[int, ...] = ()

    @property
    def samples(self) -> bool:
        """Whether this step yields the sequence's next token."""
        return self.stop == self.sequence.length

    def parts(self) -> Iterator[tuple[int, int]]:
        """First and last position, exclusive, of each part."""
        return pairwise((self.start, *self.boundaries, self.stop))


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step does."""

    work: tuple[Work, ...]
