"""The figures of a run or a sweep are printed as a text table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pocketvlm.bench.load.plan import METRICS, Load
from pocketvlm.bench.table import columns


def page(load: Load, results: Sequence[dict[str, Any]]) -> str:
    """What the terminal shows."""
    first = results[0]
    rate = "all at once" if first["request_rate"] == "inf" else f"{first['request_rate']:g} requests/s"
    lines = [f"{load.url}  {first['model_id']}  {load.endpoint}  {load.num_prompts} requests, {rate}", ""]
    rows = [["at a time", "done", "failed", "seconds", "tokens in", "out", "requests/s", "out tok/s", "all tok/s"]]
    if load.goodput:
        rows[0].append("good/s")
    for result in results:
        rows.append([
            str(result["max_concurrency"] or "-"), str(result["completed"]), str(result["failed"]),
            f"{result['duration']:.2f}", str(result["total_input_tokens"]), str(result["total_output_tokens"]),
            f"{result['request_throughput']:.2f}", f"{result['output_throughput']:.1f}",
            f"{result['total_token_throughput']:.1f}",
        ])  # fmt: skip
        if load.goodput:
            rows[-1].append(f"{result['request_goodput']:.2f}")
    lines += [*columns(rows), ""]
    heads = ["mean", "median", "std", *(f"p{percentile:g}" for percentile in load.percentiles)]
    rows = [["milliseconds", *(["at a time"] if len(results) > 1 else []), *heads]]
    for name in load.metrics:
        for result in results:
            cells = [f"{result[f'{head}_{name}_ms']:.1f}" for head in heads]
            many = [str(result["max_concurrency"] or "-")] if len(results) > 1 else []
            rows.append([f"{name.upper()}, {METRICS[name]}", *many, *cells])
    lines += columns(rows)
    notes = _notes(results)
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _notes(results: Sequence[dict[str, Any]]) -> list[str]:
    notes = []
    if any(result["output_tokens_counted_by"] == "chunks" for result in results):
        notes.append("The server states no usage: output tokens are chunks of streams, input tokens are not counted.")
    tokens = sum(result["total_output_tokens"] for result in results)
    used = sum(result["client_cpu_seconds"] for result in results)
    if tokens:
        notes.append(f"This client used {used:.2f} s of processor time, {used / tokens * 1e6:.0f} us a token.")
    errors = dict.fromkeys(error for result in results for error in result["first_errors"])
    return notes + [f"failed: {error}" for error in errors]
