"""From a row of logits to a token id: penalties, temperature, top-k, top-p, min-p, and a seeded draw.

Order and definitions follow transformers' logits processors; presence and frequency follow OpenAI's.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pocketvlm.engine.request import Sequence
from pocketvlm.types import SamplingParams

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]

_ROWS = 64  # how a long row of logits is folded to find its largest values, or to add it up
_NEAR = 64  # candidates to sort at first


def penalise(logits: Floats, prompt: NDArray[np.int32], output: list[int], params: SamplingParams) -> Floats:
    """Repetition penalty over prompt and output, presence and frequency over the output; a changed copy."""
    logits = logits.copy()
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.concatenate([prompt, np.array(output, dtype=np.int32)]))
        values = logits[seen]
        scaled = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        logits[seen] = scaled.astype(np.float32)
    if output and (params.presence_penalty or params.frequency_penalty):
        ids, counts = np.unique(np.array(output, dtype=np.int32), return_counts=True)
        logits[ids] -= (params.presence_penalty + params.frequency_penalty * counts).astype(np.float32)
    return logits


def largest(logits: Floats, count: int) -> Ids:
    """Ids of the `count` largest logits and of all that equal the last of them, in ascending order."""
    if count >= len(logits):
        return np.arange(len(logits))
    pool = np.arange(len(logits))
    if len(logits) >= _ROWS * count:
        # At least `count` columns hold a value as large as this, so no smaller value is among the largest.
        columns = logits[: len(logits) // _ROWS * _ROWS].reshape(_ROWS, -1).max(axis=0)
        pool = np.flatnonzero(logits >= np.partition(columns, -count)[-count])
    values = logits[pool]
    chosen: Ids = pool[values >= np.partition(values, -count)[-count]]
    return chosen


def candidates(logits: Floats, params: SamplingParams) -> tuple[Ids, NDArray[np.float64]]:
    """Ids that may be drawn, ascending, and their probabilities, after temperature, top-k, top-p and min-p."""
    count = len(logits)
    top = float(logits.max())

    def weigh(values: Floats) -> NDArray[np.float64]:
        return np.exp((values.astype(np.float64) - top) / params.temperature)

    ids = largest(logits, params.top_k) if 0 < params.top_k < count else _all_ids(count)
    if params.top_p < 1.0:
        chosen = logits[ids] if len(ids) < count else logits
        total = float(weigh(chosen).sum())
        size = _NEAR
        while True:  # most often a few ids hold nearly everything: no need to sort all
            part = largest(chosen, size)
            weights = weigh(chosen[part]) / total
            order = np.argsort(-weights, kind="stable")
            before = np.cumsum(weights[order]) - weights[order]
            keep = before < params.top_p
            if not keep.all() or len(part) == len(chosen):
                break
            size *= _ROWS
        ids = ids[np.sort(part[order[keep]])]
    if params.min_p > 0.0:
        values = logits[ids] if len(ids) < count else logits
        most = float(values.max())
        near = np.flatnonzero(
            values >= most + params.temperature * (np.log(params.min_p) - 1e-3)
        )  # a bit more: rounding
        ids = ids[near[weigh(values[near]) >= params.min_p * np.exp((most - top) / params.temperature)]]
    weights = weigh(logits[ids] if len(ids) < count else logits)
    return ids, weights / weights.sum()


def draw(weights: NDArray[np.float64], point: float) -> int:
    """The index where the running sum of weights, as a share of all, passes `point` in [0, 1).

    Never one of weight 0.
    """
    if len(weights) <= _ROWS * _ROWS:
        sums = np.cumsum(weights)
        return int(min(np.searchsorted(sums, point * sums[-1], side="right"), np.searchsorted(sums, sums[-1])))
    # First which row, then where in it: half the time of one long running sum.
    whole = len(weights) // _ROWS * _ROWS
    sums = np.append(weights[:whole].reshape(-1, _ROWS).sum(axis=1), weights[whole:].sum())
    ends = np.cumsum(sums)
    row = int(min(np.searchsorted(ends, point * ends[-1], side="right"), np.searchsorted(ends, ends[-1])))
    rest = (point * ends[-1] - (ends[row] - sums[row])) / sums[row]
    return row * _ROWS + draw(weights[row * _ROWS : (row + 1) * _ROWS], min(max(rest, 0.0), 1.0))


@lru_cache(maxsize=4)
def _all_ids(count: int) -> Ids:
    ids = np.arange(count)
    ids.flags.writeable = False
    return ids


def sample(logits: Floats, sequence: Sequence) -> int:
    """The next token id of a sequence from its logits [vocab]."""
    params, output = sequence.request.params, sequence.output
    plain = params.repetition_penalty == 1.0 and not params.presence_penalty and not params.frequency_penalty
    if not plain:
        logits = penalise(logits, sequence.request.prompt.ids, output, params)
    stops = sequence.request.stop_ids
    if len(output) + 1 < params.min_tokens and stops:
        logits = logits.copy()
        logits[[token for token in stops if token < len(logits)]] = -np.inf
    if params.temperature == 0.0:
        return int(logits.argmax())
    ids, weights = candidates(logits, params)
    return int(ids[draw(weights, sequence.random.random())])
