"""From a row of logits to a token id: penalties, temperature, top-k, top-p, min-p, and a seeded draw.

Order and definitions follow transformers' logits processors; presence and frequency follow OpenAI's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketvlm.engine.request import Sequence
from pocketvlm.types import SamplingParams

Floats = NDArray[np.float32]


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


def candidates(logits: Floats, params: SamplingParams) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids that may be drawn and their probabilities, after temperature, top-k, top-p and min-p."""
    scaled = logits.astype(np.float64) / params.temperature
    if 0 < params.top_k < len(scaled):
        threshold = np.partition(scaled, -params.top_k)[-params.top_k]
        ids = np.flatnonzero(scaled >= threshold)
    else:
        ids = np.flatnonzero(scaled > -np.inf)
    scaled = scaled[ids]
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    if params.top_p < 1.0:
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        keep = np.sort(order[before < params.top_p])
        ids, weights = ids[keep], weights[keep]
    if params.min_p > 0.0:
        keep = np.flatnonzero(weights >= params.min_p * weights.max())
        ids, weights = ids[keep], weights[keep]
    return ids, weights / weights.sum()


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
    place = np.searchsorted(np.cumsum(weights), sequence.random.random(), side="right")
    return int(ids[min(int(place), len(ids) - 1)])
