"""`show` prints an answer as a stream of text or as one JSON object, with a status line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from pocketvlm.cli.terminal import Activity, dim, is_terminal, printable
from pocketvlm.types import Chunk, FinishReason, Result, Timings, Usage


def show(chunks: Iterator[Chunk], model: str, output: str, quiet: bool, activity: Activity) -> None:
    """Print an answer: stdout gets the answer alone, stderr one status line unless `quiet`."""
    text, ids, last = _consume(chunks, output == "text", activity)
    assert last.finish_reason is not None
    assert last.usage is not None
    assert last.timings is not None
    result = Result(text, ids, last.finish_reason, last.usage, last.timings)
    if output == "json":
        print(json.dumps({"model": model, **result.to_dict()}, ensure_ascii=False), flush=True)
    if not quiet:
        line = status(result.usage, result.timings, result.finish_reason)
        print(dim(line, sys.stderr), file=sys.stderr, flush=True)


def _consume(chunks: Iterator[Chunk], stream: bool, activity: Activity) -> tuple[str, tuple[int, ...], Chunk]:
    """Read all chunks; if `stream`, print their text at once and end the output with a new line."""
    texts: list[str] = []
    ids: list[int] = []
    clean = printable if is_terminal(sys.stdout) else str
    chunk = None
    try:
        for chunk in chunks:
            if stream:
                activity.close()
            else:
                activity.say("writing the answer")
            ids.extend(chunk.token_ids)
            texts.append(chunk.text)
            if stream and chunk.text:
                sys.stdout.write(clean(chunk.text))
                sys.stdout.flush()
    finally:
        activity.close()
        text = "".join(texts)
        finished = chunk is not None and chunk.finish_reason is not None
        if stream and (text or finished) and not text.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()
    assert chunk is not None
    return text, tuple(ids), chunk


def status(usage: Usage, timings: Timings, reason: FinishReason) -> str:
    """One line of figures, e.g. `ttft 0.21 s · vision 0.10 s · 85.2 tok/s · 88 prompt (64 image) + 12 tokens`."""
    parts = [f"ttft {timings.ttft:.2f} s"]
    if usage.image_tokens:
        parts.append(f"vision {timings.vision:.2f} s")
    rate = timings.decode_rate(usage)
    if rate is not None:
        parts.append(f"{rate:.1f} tok/s")
    image = f" ({usage.image_tokens} image)" if usage.image_tokens else ""
    parts.append(f"{usage.prompt_tokens} prompt{image} + {usage.completion_tokens} tokens")
    if reason == "length":
        parts.append("stopped at the length limit")
    return " · ".join(parts)
