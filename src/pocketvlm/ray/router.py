"""`AffinityRouter` sends requests with one affinity key to one replica for as long as it has room."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import FIFOMixin, MultiplexMixin, PendingRequest, RequestRouter, RunningReplica


def rank(key: str, replicas: Sequence[str]) -> list[str]:
    """Names of replicas, the preferred one first: rendezvous hashing (Thaler and Ravishankar 1998).

    When a replica comes or goes, only the keys that it gets or had move.
    """
    return sorted(replicas, key=lambda name: hashlib.blake2b(f"{key} {name}".encode(), digest_size=8).digest())


class AffinityRouter(FIFOMixin, MultiplexMixin, RequestRouter):  # type: ignore[misc]
    """Ray Serve asks for replicas in ranks, and takes the first that accepts: a full one passes on to the next.

    The key is the first argument of the call. Requests for an adapter prefer replicas that have it.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of one replica each; of two random ones where there is no key."""
        if not candidate_replicas:
            return []
        key, adapter = "", ""
        if pending_request is not None:
            key = str(pending_request.args[0]) if pending_request.args else ""
            adapter = pending_request.metadata.multiplexed_model_id
        if not key:
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
        by_name: dict[str, Any] = {each.replica_id.unique_id: each for each in candidate_replicas}
        ranked = [by_name[name] for name in rank(key, list(by_name))]
        if adapter:
            ranked.sort(key=lambda each: adapter not in each.multiplexed_model_ids)
        return [[each] for each in ranked]
