"""Admission bounds the sequences that run or wait; others get 429."""

from __future__ import annotations

import math

from pocketvlm.interfaces.errors import ApiError


class Admission:
    """Counts sequences from the moment a request is read until the engine is done with it. Event loop only."""

    def __init__(self, max_seqs: int, max_queue: int) -> None:
        self.max_seqs = max_seqs
        self.max_queue = max_queue
        self.inside = 0
        self.refused = 0
        self._seconds = 2.0  # how long a sequence takes, a running mean

    @property
    def running(self) -> int:
        """Sequences that run, if the engine takes as many as it may."""
        return min(self.inside, self.max_seqs)

    @property
    def waiting(self) -> int:
        """Sequences that wait for others to end."""
        return max(0, self.inside - self.max_seqs)

    def enter(self, count: int) -> None:
        """Let `count` sequences in. Raises ApiError 429 with Retry-After where the queue has no room for them."""
        room = self.max_seqs + self.max_queue
        if count > room:
            raise ApiError(
                400, f"n={count} sequences at once are more than the {room} that run and wait here", param="n"
            )
        if self.inside + count > room:
            self.refused += 1
            raise ApiError(
                429,
                f"{self.inside} sequences run or wait, which is all that fit: try again later",
                code="queue_full",
                headers={"Retry-After": str(self.retry_after())},
            )
        self.inside += count

    def leave(self, count: int, seconds: float) -> None:
        """`count` sequences are done; they took so long."""
        self.inside -= count
        self._seconds += 0.1 * (seconds - self._seconds)

    def retry_after(self) -> int:
        """Seconds until there is probably room: 1 to 60."""
        return min(60, max(1, math.ceil(self._seconds * (1 + self.waiting / self.max_seqs) / self.max_seqs)))
