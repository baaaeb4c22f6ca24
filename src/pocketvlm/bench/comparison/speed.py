"""Measures prefill and decode of one model, for the comparison of two."""

from __future__ import annotations

from pathlib import Path

from pocketvlm.api import load
from pocketvlm.api.comparison import Speed
from pocketvlm.bench.scenarios import Prompts, Scenario, run_scenario

LONG_TEXT = Scenario("long text", 0, 512)
RUNS = 3


def measure_speed(
    model: str | Path,
    *,
    mmproj: str | Path | None = None,
    revision: str | None = None,
    threads: int | None = None,
) -> Speed:
    """Tokens a second of a prompt of 512 random tokens and of the answer after it, in the model's default arithmetic.

    Raises what `load` raises.
    """
    with load(model, mmproj=mmproj, revision=revision, threads=threads) as loaded:
        row = run_scenario(loaded.engine, Prompts(loaded.checkpoint.model, 0, pictures=False), LONG_TEXT, RUNS)
    return Speed(prefill=row.tokens / row.ttft.median, decode=row.decode.median)
