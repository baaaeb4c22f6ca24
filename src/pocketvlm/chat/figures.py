"""Figures about an answer and a chat are shown in the status line and by `/stats`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pocketvlm.bytesize import readable_size
from pocketvlm.chat.session import AnswerSummary, Session


def resident_bytes() -> int:
    """Resident memory of this process, mapped weights included; its maximum so far if the current value is unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        import resource

        maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return maximum if sys.platform == "darwin" else maximum * 1024


def status(summary: AnswerSummary) -> str:
    """One line about an answer: first token, vision, rate, tokens, memory."""
    usage, timings = summary.usage, summary.timings
    parts = [f"ttft {timings.ttft:.2f} s"]
    if usage.image_tokens:
        parts.append(f"vision {timings.vision:.2f} s")
    rate = timings.decode_rate(usage)
    if rate is not None:
        parts.append(f"{rate:.1f} tok/s")
    cached = f" ({summary.cached_tokens} cached)" if summary.cached_tokens else ""
    parts.append(f"{usage.prompt_tokens}{cached} + {usage.completion_tokens} tokens")
    parts.append(readable_size(resident_bytes()))
    if summary.reason in _ENDS:
        parts.append(_ENDS[summary.reason])
    return " · ".join(parts)


_ENDS = {
    "length": "stopped at the limit (/set max_tokens)",
    "repetition": "stopped: it only repeated itself",
    "abort": "stopped",
}


def stats(session: Session) -> Iterator[str]:
    """Lines about the last answer, the context, and the caches."""
    summary, model = session.last, session.model
    engine = model.engine.stats()
    if summary is None:
        yield "no answer yet"
    else:
        times, usage = summary.timings, summary.usage
        yield f"last answer: first token after {_time(times.ttft)}{_rate(summary)}"
        media = times.decode_media + times.resize + times.preprocess
        yield (f"  of which media {_time(media)}, vision {_time(times.vision)}, prompt {_time(times.prefill)}")
        share = f", {100 * summary.cached_tokens / usage.prompt_tokens:.0f} %" if summary.cached_tokens else ""
        yield (
            f"  prompt of {usage.prompt_tokens} tokens ({usage.image_tokens} of pictures), "
            f"{summary.cached_tokens} of them cached{share}"
        )
        if summary.thought_tokens:
            yield f"  thinking: {summary.thought_tokens} tokens, {summary.thought_seconds:.1f} s"
        yield f"context: {usage.total_tokens} of {model.engine.max_model_len} tokens"
    yield (
        f"prefix cache: {engine.prefix_checkpoints} entries, {readable_size(engine.prefix_bytes)}; "
        f"{engine.prefix_hits} of {engine.prefix_hits + engine.prefix_misses} prompts hit it, "
        f"{engine.prefix_reused_tokens} tokens were reused"
    )
    yield (
        f"vision cache: {readable_size(engine.vision_bytes)}; "
        f"{engine.vision_hits} of {engine.vision_hits + engine.vision_misses} views hit it"
    )
    resident, state = readable_size(resident_bytes()), readable_size(engine.bytes_used)
    yield f"memory: {resident} resident, {state} of it state of sequences"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _rate(summary: AnswerSummary) -> str:
    rate = summary.timings.decode_rate(summary.usage)
    return "" if rate is None else f", then {rate:.1f} tokens a second"
