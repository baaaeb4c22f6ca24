"""Figures about an answer and a chat are shown in the status line and by `/stats`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pocketvlm.bytesize import readable_size
from pocketvlm.chat.session import Session, Turn


def resident_bytes() -> int:
    """Memory of this process that is resident, mapped weights included; where that is not known, the most it was."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def status(turn: Turn) -> str:
    """One line about an answer: first token, vision, rate, tokens, memory."""
    usage, timings = turn.usage, turn.timings
    parts = [f"ttft {timings.ttft:.2f} s"]
    if usage.image_tokens:
        parts.append(f"vision {timings.vision:.2f} s")
    rate = timings.decode_rate(usage)
    if rate is not None:
        parts.append(f"{rate:.1f} tok/s")
    kept = f" ({turn.kept_tokens} kept)" if turn.kept_tokens else ""
    parts.append(f"{usage.prompt_tokens}{kept} + {usage.completion_tokens} tokens")
    parts.append(readable_size(resident_bytes()))
    if turn.reason in _ENDS:
        parts.append(_ENDS[turn.reason])
    return " · ".join(parts)


_ENDS = {
    "length": "stopped at the limit (/set max_tokens)",
    "repetition": "stopped: it only repeated itself",
    "abort": "stopped",
}


def stats(session: Session) -> Iterator[str]:
    """Lines about the last answer, the context, and what is kept."""
    turn, model = session.last, session.model
    engine = model.engine.stats()
    if turn is None:
        yield "no answer yet"
    else:
        times, usage = turn.timings, turn.usage
        yield f"last answer: first token after {_time(times.ttft)}{_rate(turn)}"
        media = times.decode_media + times.resize + times.preprocess
        yield (f"  of which media {_time(media)}, vision {_time(times.vision)}, prompt {_time(times.prefill)}")
        share = f", {100 * turn.kept_tokens / usage.prompt_tokens:.0f} %" if turn.kept_tokens else ""
        yield (
            f"  prompt of {usage.prompt_tokens} tokens ({usage.image_tokens} of pictures), "
            f"{turn.kept_tokens} of them not read again{share}"
        )
        if turn.thought_tokens:
            yield f"  thinking: {turn.thought_tokens} tokens, {turn.thought_seconds:.1f} s"
        yield f"context: {usage.total_tokens} of {model.engine.max_model_len} tokens"
    yield (
        f"kept beginnings of prompts: {engine.prefix_checkpoints}, {readable_size(engine.prefix_bytes)}; "
        f"{engine.prefix_hits} of {engine.prefix_hits + engine.prefix_misses} prompts went on behind one, "
        f"{engine.prefix_reused_tokens} tokens were not read again"
    )
    yield (
        f"kept features of pictures: {readable_size(engine.vision_bytes)}; "
        f"{engine.vision_hits} of {engine.vision_hits + engine.vision_misses} views were known"
    )
    yield f"memory: {readable_size(resident_bytes())} resident, {readable_size(engine.bytes_used)} of them state"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _rate(turn: Turn) -> str:
    rate = turn.timings.decode_rate(turn.usage)
    return "" if rate is None else f", then {rate:.1f} tokens a second"
