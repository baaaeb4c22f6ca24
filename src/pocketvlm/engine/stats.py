"""`EngineStats` holds the engine's counters: load, memory, caches, tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Numbers of this moment, then totals since the start.

    running, waiting: requests. bytes_*: state of sequences and checkpoints; bytes_allocated also counts arrays that
    nobody uses right now. prefix_*: checkpoints; prefix_bytes is part of bytes_used. prefix_reused_tokens: prompt
    tokens that were not computed because of them, counted in prompt_tokens all the same. vision_*: features of views.
    """

    running: int
    waiting: int
    bytes_used: int
    bytes_allocated: int
    bytes_limit: int
    prefix_checkpoints: int
    prefix_bytes: int
    prefix_hits: int
    prefix_misses: int
    prefix_reused_tokens: int
    vision_bytes: int
    vision_disk_bytes: int
    vision_hits: int
    vision_misses: int
    preemptions: int
    prompt_tokens: int
    generated_tokens: int
    steps: int
