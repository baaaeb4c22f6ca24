"""The figures of a run are computed under the names that `vllm bench serve` writes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from pocketvlm.bench.load.outcomes import Outcome
from pocketvlm.bench.load.plan import Load

# Lists with one entry for each request, which only --save-detailed saves.
DETAILS = (
    "input_lens",
    "output_lens",
    "start_times",
    "ttfts",
    "itls",
    "latencies",
    "queue_times",
    "generated_texts",
    "errors",
)
_ERRORS = 10


def result(
    load: Load, model: str, limit: int | None, outcomes: Sequence[Outcome], seconds: float, cpu_seconds: float
) -> dict[str, Any]:
    """JSON-ready figures of a run of so many seconds, with the DETAILS. Names that vLLM does not have come last.

    Times are in seconds in the lists, in milliseconds where the name ends with _ms. Throughput is a second.
    """
    good = [outcome for outcome in outcomes if outcome.ok]
    inputs, outputs = sum(o.prompt_tokens for o in good), sum(o.output_tokens for o in good)
    failed = [outcome.error for outcome in outcomes if not outcome.ok]
    found: dict[str, Any] = {
        "date": time.strftime("%Y%m%d-%H%M%S"),
        "backend": "openai-chat" if load.endpoint == "chat" else "openai",
        "label": None,
        "model_id": model,
        "tokenizer_id": None,
        "num_prompts": load.num_prompts,
        "request_rate": "inf" if math.isinf(load.request_rate) else load.request_rate,
        "burstiness": load.burstiness,
        "max_concurrency": limit,
        "duration": seconds,
        "completed": len(good),
        "failed": len(failed),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(good) / seconds,
        "request_goodput": _good(load.goodput, good) / seconds if load.goodput else None,
        "output_throughput": outputs / seconds,
        "total_token_throughput": (inputs + outputs) / seconds,
        "input_lens": [o.prompt_tokens for o in outcomes],
        "output_lens": [o.output_tokens for o in outcomes],
        "ttfts": [o.ttft for o in outcomes],
        "itls": [o.gaps for o in outcomes],
        "latencies": [o.latency for o in outcomes],
        "start_times": [o.start for o in outcomes],
        "queue_times": [o.queued for o in outcomes],
        "generated_texts": [o.text for o in outcomes],
        "errors": [o.error for o in outcomes],
        "max_output_tokens_per_s": _busiest_second(good),
        "max_concurrent_requests": _max_concurrent(good),
    }
    for name in load.metrics:
        values = seconds_of(name, good)
        found[f"mean_{name}_ms"] = float(np.mean(values or 0)) * 1e3
        found[f"median_{name}_ms"] = float(np.median(values or 0)) * 1e3
        found[f"std_{name}_ms"] = float(np.std(values or 0)) * 1e3
        for percentile in load.percentiles:
            found[f"p{percentile:g}_{name}_ms"] = float(np.percentile(values or 0, percentile)) * 1e3
    return found | {
        "url": load.url,
        "endpoint": load.endpoint,
        "seed": load.seed,
        "output_tokens_counted_by": "usage" if all(o.counted for o in good) else "chunks",
        "client_cpu_seconds": cpu_seconds,
        "first_errors": list(dict.fromkeys(failed))[:_ERRORS],
    }


def seconds_of(metric: str, good: Sequence[Outcome]) -> list[float]:
    """All values of a metric, in seconds: one for each request, or gap ("itl"), or request of two tokens ("tpot")."""
    if metric == "ttft":
        return [o.ttft for o in good]
    if metric == "tpot":
        return [_per_token(o) for o in good if o.output_tokens > 1]
    if metric == "itl":
        return [gap for o in good for gap in o.gaps]
    return [o.latency if metric == "e2el" else o.queued for o in good]


def _per_token(outcome: Outcome) -> float:
    if outcome.output_tokens < 2:
        return 0.0
    return (outcome.latency - outcome.ttft) / (outcome.output_tokens - 1)


def _good(limits: dict[str, float], outcomes: Sequence[Outcome]) -> int:
    """The number of requests that meet all limits."""

    def keeps(o: Outcome) -> bool:
        values = {"ttft": o.ttft, "tpot": _per_token(o), "e2el": o.latency}
        return all(values[name] * 1e3 <= limit for name, limit in limits.items())

    return sum(map(keeps, outcomes))


def _busiest_second(outcomes: Sequence[Outcome]) -> float:
    """Chunks with text in the best of the whole seconds since the first request."""
    if not outcomes:
        return 0.0
    began = min(o.start for o in outcomes)
    counts: dict[int, int] = {}
    for o in outcomes:
        for moment in accumulate(o.gaps, initial=o.start + o.ttft - began):
            counts[int(moment)] = counts.get(int(moment), 0) + 1
    return float(max(counts.values()))


def _max_concurrent(outcomes: Sequence[Outcome]) -> int:
    """The maximum number of concurrent requests; a request that ends when another begins does not overlap with it."""
    changes = sorted([(o.start, 1) for o in outcomes] + [(o.start + o.latency, -1) for o in outcomes])
    return max(accumulate((change for _, change in changes), initial=0))
