"""The largest logits of a row: the definition that backends follow when they choose them on their device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROWS = 64  # a long row of logits is folded to this many rows


@dataclass(frozen=True, slots=True, eq=False)
class TopLogits:
    """Largest logits of a row: ids [n], ascending, and their values float32 [n]; n exceeds the count if values tie."""

    ids: NDArray[np.intp]
    values: NDArray[np.float32]


def top_logits(logits: NDArray[np.float32], count: int) -> TopLogits:
    """The `count` largest values of logits [vocab] and all values that equal the last of them."""
    ids = largest(logits, count)
    return TopLogits(ids, logits[ids])


def largest(logits: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Ids of the `count` largest logits and of all that equal the last of them, in ascending order."""
    if count >= len(logits):
        return np.arange(len(logits))
    pool = np.arange(len(logits))
    if len(logits) >= _ROWS * count:
        # At least `count` columns hold a value as large as this, so no smaller value is among the largest.
        columns = logits[: len(logits) // _ROWS * _ROWS].reshape(_ROWS, -1).max(axis=0)
        pool = np.flatnonzero(logits >= np.partition(columns, -count)[-count])
    values = logits[pool]
    chosen: NDArray[np.intp] = pool[values >= np.partition(values, -count)[-count]]
    return chosen
