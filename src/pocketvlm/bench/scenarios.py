"""The scenarios time typical prompts through the engine: first token, decode, vision and batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pocketvlm.config import ModelConfig
from pocketvlm.engine import Engine, Request
from pocketvlm.errors import OptionError
from pocketvlm.families import Markers
from pocketvlm.types import DownsampleMode, Prompt, SamplingParams, View

BATCH = 8
DECODED = 32
SHORT = 32  # tokens of the prompts before timed decoding


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def report(self) -> dict[str, float]:
        """As JSON, under the published keys."""
        return {"median": self.median, "least": self.low, "most": self.high}


@dataclass(frozen=True, slots=True)
class Scenario:
    """A prompt: `views` views of the model's own size in 16x mode, and `words` other tokens."""

    name: str
    views: int
    words: int


SCENARIOS = (
    Scenario("short text", 0, 25),
    Scenario("one image", 1, 24),
    Scenario("long text", 0, 512),
    Scenario("image in 18 slices", 19, 55),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Seconds to the first token; tokens a second while decoding after this prompt."""

    name: str
    tokens: int
    image_tokens: int
    chunks: int
    ttft: Spread
    decode: Spread

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "ttft": self.ttft.report(), "decode": self.decode.report()}


# Ids that no token has: random prompts have no tokens around their views.
_NO_MARKERS = Markers(-1, -1, -1, -1, -1)


class Prompts:
    """Makes prompts of random ids and random pixels for one model."""

    def __init__(self, config: ModelConfig, side: int, seed: int = 0, pictures: bool = True) -> None:
        """side: patches along each side of a view. pictures: False allows models without a vision tower."""
        if config.vision is None and pictures:
            raise OptionError("a model without a vision tower cannot be timed with pictures: give its mmproj file")
        self.config = config
        self._patch_dim = config.vision.patch_dim if config.vision else 0
        self.patch_size = config.vision.patch_size if config.vision else 0
        self.side = side  # patches along each side of a view
        self._random = np.random.default_rng(seed)

    def view(self, start: int, mode: DownsampleMode = "16x") -> View:
        """A square view whose features begin at `start`."""
        patches = self._random.uniform(-1, 1, (self.side**2, self._patch_dim)).astype(np.float32)
        return View(patches, self.side, self.side, mode, start, self.side**2 // (16 if mode == "16x" else 4), digest="")

    def prompt(self, views: int, words: int) -> Prompt:
        """A prompt with its views one after the other, after the first half of the words."""
        limit = min(self.config.text.vocab_size, self.config.image_token_id)
        ids = self._random.integers(0, limit, words).tolist()
        seen: list[View] = []
        after = ids[words // 2 :]
        del ids[words // 2 :]
        for _ in range(views):
            seen.append(self.view(len(ids)))
            ids += [self.config.image_token_id] * seen[-1].tokens
        tokens, place = np.array(ids + after, np.int32), self.config.family.positions
        positions = None if place is None or not seen else place(tokens, seen, _NO_MARKERS)
        return Prompt(tokens, tuple(seen), (), "", positions=positions)


def first_token(engine: Engine, prompt: Prompt, answer: int = 1) -> tuple[int, float]:
    """A request's number and its seconds to the first token."""
    began = time.perf_counter()
    params = SamplingParams(temperature=0, max_tokens=answer, ignore_eos=True)
    number = engine.add(Request(prompt, params))
    while not engine.step():
        pass
    return number, time.perf_counter() - began


def steps(engine: Engine, count: int) -> list[float]:
    """Seconds of each of the next steps."""
    spent = []
    for _ in range(count):
        began = time.perf_counter()
        engine.step()
        spent.append(time.perf_counter() - began)
    return spent


def run_scenario(engine: Engine, prompts: Prompts, scenario: Scenario, runs: int) -> Row:
    """Time a scenario `runs` times, after a warm-up run."""
    prompt = prompts.prompt(scenario.views, scenario.words)
    firsts, rates = [], []
    for run in range(runs + 1):
        number, seconds = first_token(engine, prompt, DECODED + 1)
        spent = steps(engine, DECODED)
        engine.release(number)
        if run:
            firsts.append(seconds)
            rates.append(1.0 / statistics.median(spent))
    tokens, chunk = len(prompt.ids), engine.scheduler.prefill_chunk
    return Row(scenario.name, tokens, prompt.image_tokens, -(-tokens // chunk), Spread.of(firsts), Spread.of(rates))


def decode_rate(engine: Engine, prompts: Prompts, sequences: int, runs: int) -> Spread:
    """Tokens a second of all of several sequences that decode together."""
    params = SamplingParams(temperature=0, max_tokens=(runs + 2) * DECODED, ignore_eos=True)
    numbers = [engine.add(Request(prompts.prompt(0, SHORT), params)) for _ in range(sequences)]
    while len(engine.step()) < sequences:
        pass
    rates = [sequences / statistics.median(steps(engine, DECODED)) for _ in range(runs)]
    for number in numbers:
        engine.release(number)
    return Spread.of(rates)


def vision_seconds(engine: Engine, prompts: Prompts, mode: DownsampleMode, runs: int) -> Spread:
    """Seconds to encode one view."""
    view = prompts.view(0, mode)
    spent = []
    for run in range(runs + 1):
        began = time.perf_counter()
        engine.runner.encode((view,))
        if run:
            spent.append(time.perf_counter() - began)
    return Spread.of(spent)


def measure(engine: Engine, side: int, runs: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Every figure but the roofline, JSON-ready. `side`: patches along a view; progress(what) before each part."""
    prompts = Prompts(engine.model.config, side)
    rows = []
    for scenario in SCENARIOS:
        progress(scenario.name)
        rows.append(run_scenario(engine, prompts, scenario, runs).to_dict())
    progress("batches")
    alone, together = (decode_rate(engine, prompts, n, runs) for n in (1, BATCH))
    vision: dict[DownsampleMode, dict[str, float]] = {}
    for mode in ("16x", "4x"):
        progress(f"vision {mode}")
        vision[mode] = vision_seconds(engine, prompts, mode, runs).report()
    return {
        "scenarios": rows,
        "decode": alone.report(),
        "batch": {"sequences": BATCH, **together.report()},
        "vision_seconds": vision,
        "view_pixels": side * prompts.patch_size,
    }
