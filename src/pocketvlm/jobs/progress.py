"""What a job has done so far: lines, images, tokens, and the seconds of each stage."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from pocketvlm.engine.stats import EngineStats
from pocketvlm.interfaces.responder import Response

_RECENT = 256  # finished lines by which the time left is estimated

STAGES = ("read", "image decoding", "resize", "vision", "prefill", "decode")


@dataclass(slots=True)
class Progress:
    """Counts of a job. before: lines that were finished when it began. Seconds are wall time of this process.

    failed: lines without an answer. unfit: answers that are no JSON of the job's schema.
    stages: seconds of each stage so far; those of threads that prepare requests add up, and may exceed `seconds`.
    """

    total: int
    before: int = 0
    done: int = 0
    failed: int = 0
    unfit: int = 0
    images: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _engine: EngineStats | None = None

    def count(self, response: Response | None, unfit: bool = False) -> None:
        """A line is finished. response: of the model or the refusal; None for a line with a problem."""
        self.unfit += unfit
        self.done += 1
        self._recent.append(time.monotonic())
        if response is None or response.status != 200:
            self.failed += 1
        if response is None or response.usage is None:
            return
        usage = response.usage
        self.images += response.images
        self.prompt_tokens += usage.prompt
        self.tokens += usage.completion
        self.stages["read"] += usage.fetch
        self.stages["image decoding"] += usage.media - usage.fetch
        self.stages["resize"] += usage.resize

    def engine(self, stats: EngineStats) -> None:
        """Take the engine's seconds; the first call says from which on they count."""
        first = self._engine = self._engine or stats
        self.stages["vision"] = stats.vision_seconds - first.vision_seconds
        self.stages["prefill"] = stats.prefill_seconds - first.prefill_seconds
        self.stages["decode"] = stats.decode_seconds - first.decode_seconds

    @property
    def failures(self) -> int:
        """Lines that have no use: without an answer, or with one that is no JSON of the schema."""
        return self.failed + self.unfit

    @property
    def finished(self) -> int:
        """Lines with an answer or an error, those of earlier processes included."""
        return self.before + self.done

    @property
    def seconds(self) -> float:
        """Since this process began with the lines."""
        return (self.ended or time.monotonic()) - self.began

    @property
    def seconds_left(self) -> float | None:
        """Estimated by the last lines; None before there are any."""
        if len(self._recent) < 2:
            return None
        pace = (self._recent[-1] - self._recent[0]) / (len(self._recent) - 1)
        return pace * (self.total - self.finished)

    @property
    def slowest(self) -> tuple[str, float]:
        """The stage with the most seconds, and these as a share of all stages."""
        name = max(self.stages, key=self.stages.__getitem__)
        return name, self.stages[name] / (sum(self.stages.values()) or 1.0)

    def rate(self, count: int) -> float:
        """A count of this process by second."""
        return count / self.seconds if self.seconds else 0.0
