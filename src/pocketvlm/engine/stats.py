"""`EngineStats` holds the engine's counters: load, memory, caches, tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Numbers of this moment, then totals since the start.

    running, waiting: requests. queued_tokens: of their prompts, not computed yet. bytes_*: state of sequences and
    prefix-cache entries; bytes_allocated also counts unused arrays. prefix_*: prefix-cache entries (prefix_checkpoints
    is their number); prefix_bytes is part of bytes_used. prefix_reused_tokens: prompt tokens that an entry saved, also
    counted in prompt_tokens. vision_*: features of views.
    *_seconds: wall time of the engine's stages.
    """

    running: int
    waiting: int
    queued_tokens: int
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
    vision_seconds: float
    prefill_seconds: float
    decode_seconds: float
