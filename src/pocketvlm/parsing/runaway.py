"""The runaway guard notices an answer that repeats one block of tokens without end."""

from __future__ import annotations

import numpy as np

from pocketvlm.errors import OptionError


class RunawayGuard:
    """Reads the sampled ids of an answer; `add` returns True once the answer only repeats one block of tokens.

    This is the case if the last tokens are at least `min_repeats` copies of a block of 1 to `max_period` tokens and
    count at least `min_tokens`. So blocks of up to min_tokens / min_repeats tokens need `min_tokens` tokens, and longer
    blocks `min_repeats` copies, which spares a line of dashes, a row of zeros or a form with twenty empty rows.
    Repetitions with any difference, such as numbered lines, are not detected. A token costs a few vector operations on
    `max_period` integers, independent of the length of the answer.
    """

    def __init__(self, max_period: int = 200, min_repeats: int = 8, min_tokens: int = 512) -> None:
        """Start with an empty answer. Raises OptionError unless max_period >= 1, min_repeats >= 2, min_tokens >= 1."""
        for name, value, minimum in (
            ("max_period", max_period, 1),
            ("min_repeats", min_repeats, 2),
            ("min_tokens", min_tokens, 1),
        ):
            if value < minimum:
                raise OptionError(f"{name}={value}: give {minimum} or more")
        periods = np.arange(1, max_period + 1)
        # Number of consecutive tokens that must equal the token one period earlier; the first block has no predecessor.
        self._needed = np.maximum(min_repeats * periods, min_tokens) - periods
        self._equal = np.zeros(max_period, dtype=np.int64)
        # The last max_period ids, newest first, from _newest on; moved to the end when the beginning is reached.
        self._ids = np.full(9 * max_period, -1, dtype=np.int64)
        self._newest = 8 * max_period

    def add(self, token_id: int) -> bool:
        """Read the next id (0 or more); returns True while the answer only repeats itself."""
        size = len(self._equal)
        recent = self._ids[self._newest : self._newest + size]
        self._equal += 1
        self._equal *= recent == token_id
        if self._newest == 0:
            self._ids[-size:] = recent
            self._newest = len(self._ids) - size
        self._newest -= 1
        self._ids[self._newest] = token_id
        return bool((self._equal >= self._needed).any())
