"""The autoscaling policy: as many replicas as the prompt tokens that wait need."""

from __future__ import annotations

import math
from typing import Any

QUEUED_TOKENS = "queued_tokens"


class QueuedTokens:
    """A policy of Ray Serve, made with policy_kwargs. target: tokens that may wait on one replica."""

    def __init__(self, target: int) -> None:
        self._target = target

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The wanted number of replicas, within the bounds of the deployment, and no state."""
        by_replica = (context.aggregated_metrics or {}).get(QUEUED_TOKENS, {})
        waiting = sum(float(each) for each in by_replica.values())
        wanted = wanted_replicas(waiting, float(context.total_num_requests), self._target)
        low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return max(low, min(high, wanted)), {}


def wanted_replicas(waiting: float, requests: float, target: int) -> int:
    """Replicas for tokens that wait; one for requests that only generate."""
    return max(math.ceil(waiting / target), 1 if requests > 0 else 0)
