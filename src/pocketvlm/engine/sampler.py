"""The sampler turns a row of logits into a token id with the request's parameters and random generator.

Order and definitions follow transformers' logits processors; presence and frequency follow OpenAI's.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pocketvlm.engine.request import Sampled, Sequence
from pocketvlm.types import SamplingParams, TokenLogprob

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]

_ROWS = 64  # how a long row of logits is folded to find its largest values, or to add it up
_NEAR = 64  # candidates to sort at first
_LARGEST = float(np.finfo(np.float32).max)


def penalise(logits: Floats, prompt: NDArray[np.int32], output: list[int], params: SamplingParams) -> Floats:
    """Repetition penalty over prompt and output, presence and frequency over the output; a changed copy."""
    logits = logits.copy()
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.concatenate([prompt, np.array(output, dtype=np.int32)]))
        values = logits[seen]
        # A penalty near 0 makes infinities, whose differences are no numbers.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            scaled = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        logits[seen] = np.clip(scaled, -_LARGEST, _LARGEST)
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
    """Ids that may be sampled, ascending, and their probabilities, after temperature, top-k, top-p and min-p."""
    count = len(logits)
    top = float(logits.max())

    def weigh(values: Floats) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):  # a temperature near 0 leaves the weight of the largest, and zeros
            return np.exp((values.astype(np.float64) - top) / params.temperature)

    ids = largest(logits, params.top_k) if 0 < params.top_k < count else _all_ids(count)
    if params.top_p < 1.0:
        chosen = logits[ids] if len(ids) < count else logits
        total = float(weigh(chosen).sum())
        size = _NEAR
        while True:  # a few ids hold nearly all of the probability, as a rule: no need to sort all
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


def inverse_cdf(weights: NDArray[np.float64], point: float) -> int:
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
    remaining = (point * ends[-1] - (ends[row] - sums[row])) / sums[row]
    return row * _ROWS + inverse_cdf(weights[row * _ROWS : (row + 1) * _ROWS], min(max(remaining, 0.0), 1.0))


@lru_cache(maxsize=4)
def _all_ids(count: int) -> Ids:
    ids = np.arange(count)
    ids.flags.writeable = False
    return ids


def log_probabilities(logits: Floats, token: int, count: int) -> TokenLogprob:
    """How likely a token was by raw logits [vocab], and the `count` likeliest; equal ones by ascending id."""
    top = float(logits.max())
    total = top + float(np.log(np.exp(logits.astype(np.float64) - top).sum()))
    ids = largest(logits, count) if count else np.zeros(0, np.intp)
    order = ids[np.argsort(-logits[ids], kind="stable")][:count]
    return TokenLogprob(token, float(logits[token]) - total, tuple((int(i), float(logits[i]) - total) for i in order))


def allowed_tokens(mask: NDArray[np.uint32], count: int) -> NDArray[np.bool_]:
    """Which of `count` tokens the bits of a constraint allow; tokens after its last bit are not allowed."""
    words = np.ascontiguousarray(mask, dtype="<u4")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little", count=min(count, 32 * words.size))
    allowed = np.zeros(count, np.bool_)
    allowed[: len(bits)] = bits
    return allowed


def _forbid(logits: Floats, sequence: Sequence) -> Floats:
    """Minus infinity where the constraint forbids a token, and at end ids before min_tokens; a changed copy."""
    mask = None if sequence.constraint is None else sequence.constraint.mask()
    early = len(sequence.output) + 1 < sequence.request.params.min_tokens
    stops = [token for token in sequence.request.stop_ids if early and token < len(logits)]
    if mask is not None:
        allowed = allowed_tokens(mask, len(logits))
        if not allowed.any():
            raise ValueError("the constraint allows no token")
        logits = np.where(allowed, logits, np.float32(-np.inf))
        allowed[stops] = False
        if not allowed.any():  # the constraint outweighs min_tokens
            return logits
    if stops:
        logits = logits.copy()
        logits[stops] = -np.inf
    return logits


def sample_token(logits: Floats, sequence: Sequence) -> Sampled:
    """The next token of a sequence from its logits [vocab]; its constraint takes note of it."""
    request, constraint = sequence.request, sequence.constraint
    token = sample(logits, sequence)
    logprob = None
    if request.params.logprobs is not None:
        logprob = log_probabilities(logits, token, request.params.logprobs)
    if constraint is None or token in request.stop_ids:
        return Sampled(token, logprob)
    constraint.accept(token)
    return Sampled(token, logprob, constraint.finished)


def sample(logits: Floats, sequence: Sequence) -> int:
    """The next token id of a sequence from its logits [vocab]."""
    params, output = sequence.request.params, sequence.output
    if params.logit_bias:
        logits = logits.copy()
        for token, bias in params.logit_bias:
            if token < len(logits):
                logits[token] += np.float32(bias)
    plain = params.repetition_penalty == 1.0 and not params.presence_penalty and not params.frequency_penalty
    if not plain:
        logits = penalise(logits, sequence.request.prompt.ids, output, params)
    logits = _forbid(logits, sequence)
    if params.temperature == 0.0:
        return int(logits.argmax())
    ids, weights = candidates(logits, params)
    return int(ids[inverse_cdf(weights, sequence.random.random())])
