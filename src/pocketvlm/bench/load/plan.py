"""A plan says which requests a run sends; it is checked before anything is sent."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pocketvlm.bench.load.prompts import Endpoint, Sizes
from pocketvlm.errors import OptionError

METRICS = {
    "ttft": "time to first token",
    "tpot": "time per output token after the first",
    "itl": "between chunks of a stream",
    "e2el": "whole request",
    "client_queue_time": "waiting here for --max-concurrency",
}
_OBJECTIVES = ("ttft", "tpot", "e2el")
_LARGEST = 8192  # pixels along a side of a random picture


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement. max_concurrency: one run for each, None for no limit. goodput: milliseconds by metric.

    Raises OptionError for contradictory or impossible values.
    """

    url: str
    model: str | None = None
    endpoint: Endpoint = "chat"
    num_prompts: int = 32
    request_rate: float = math.inf
    burstiness: float = 1.0
    max_concurrency: tuple[int | None, ...] = (None,)
    sizes: Sizes = field(default_factory=Sizes)
    ignore_eos: bool = False
    temperature: float | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    num_warmups: int = 0
    goodput: dict[str, float] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("ttft", "tpot", "itl", "e2el")
    percentiles: tuple[float, ...] = (99.0,)
    api_key: str | None = None

    def __post_init__(self) -> None:
        sizes = self.sizes
        _check_minimum("num-prompts", self.num_prompts, 1)
        _check_minimum("num-warmups", self.num_warmups, 0)
        _check_minimum("random-input-len", sizes.input_len, 1)
        _check_minimum("random-output-len", sizes.output_len, 1)
        _check_minimum("random-prefix-len", sizes.prefix_len, 0)
        _check_minimum("images", sizes.images, 0)
        if not self.request_rate > 0:
            raise OptionError(f"--request-rate {self.request_rate:g}: give requests a second, or inf for all at once")
        if not 0 < self.burstiness < math.inf:
            raise OptionError(f"--burstiness {self.burstiness:g}: give more than 0; 1 is a Poisson process")
        if not 0 <= sizes.spread < 1:
            raise OptionError(f"--random-range-ratio {sizes.spread:g}: give 0 to below 1, a part of the length")
        if sizes.images and self.endpoint == "completions":
            raise OptionError("--images: only --endpoint chat takes images")
        if not (1 <= sizes.width <= _LARGEST and 1 <= sizes.height <= _LARGEST):
            raise OptionError(f"--image-size {sizes.width}x{sizes.height}: sides are 1 to {_LARGEST} pixels")

    def fields(self, model: str) -> dict[str, Any]:
        """The fields of every request."""
        found: dict[str, Any] = {"model": model}
        if self.temperature is not None:
            found["temperature"] = self.temperature
        if self.ignore_eos:
            found["ignore_eos"] = True
        return {**found, **self.extra_body}

    def arrivals(self, seed: int) -> list[float]:
        """Seconds after the start at which requests are due: a gamma process, all 0 where the rate is infinite."""
        if math.isinf(self.request_rate):
            return [0.0] * self.num_prompts
        gaps = random.Random(seed)
        due, found = 0.0, []
        for _ in range(self.num_prompts):
            found.append(due)
            due += gaps.gammavariate(self.burstiness, 1 / (self.request_rate * self.burstiness))
        return found


def _check_minimum(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise OptionError(f"--{name} {value} is out of range: give at least {minimum}")


def concurrencies(text: str | None) -> tuple[int | None, ...]:
    """The numbers in a text such as "1,4,8"; (None,) for an empty text."""
    if text is None:
        return (None,)
    found = []
    for part in text.split(","):
        if not re.fullmatch(r"[1-9][0-9]{0,5}", part.strip()):
            raise OptionError(f"--max-concurrency {text}: give a number, or several for a sweep, such as 1,4,8,16")
        found.append(int(part))
    return tuple(found)


def size(text: str) -> tuple[int, int]:
    """Width and height in a text such as "448x448"."""
    found = re.fullmatch(r"([0-9]{1,6})[xX]([0-9]{1,6})", text.strip())
    if found is None:
        raise OptionError(f"--image-size {text}: give width and height in pixels, such as 448x448")
    return int(found[1]), int(found[2])


def objectives(given: Sequence[str]) -> dict[str, float]:
    """Milliseconds by metric from texts such as "ttft:500", "tpot:50"."""
    found = {}
    for text in (part for item in given for part in re.split(r"[\s,]+", item.strip())):
        name, _, limit = text.partition(":")
        if name not in _OBJECTIVES or not re.fullmatch(r"[0-9]+(\.[0-9]*)?", limit):
            raise OptionError(f"--goodput {text}: give METRIC:MILLISECONDS; metrics are {', '.join(_OBJECTIVES)}")
        found[name] = float(limit)
    return found


def metrics(text: str) -> tuple[str, ...]:
    """The metrics in a text such as "ttft,tpot"."""
    found = tuple(part.strip() for part in text.split(","))
    for name in found:
        if name not in METRICS:
            raise OptionError(f"--percentile-metrics {name}: known are {', '.join(METRICS)}")
    return found


def percentiles(text: str) -> tuple[float, ...]:
    """The percentiles in a text such as "50,95,99.9"."""
    found = []
    for part in text.split(","):
        if not re.fullmatch(r"\s*[0-9]{1,3}(\.[0-9]+)?\s*", part) or float(part) > 100:
            raise OptionError(f"--metric-percentiles {text}: give numbers from 0 to 100, such as 50,95,99")
        found.append(float(part))
    return tuple(found)
