"""The sampler turns a row of logits into a token id with the request's parameters and random generator.

Order and definitions follow transformers' logits processors; presence and frequency follow OpenAI's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.ops import Array
from pocketvlm.backends.top import TopLogits, largest
from pocketvlm.engine.request import Sampled, Sequence
from pocketvlm.errors import BackendError
from pocketvlm.types import SamplingParams, TokenLogprob

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]

_ROWS = 64  # a long row of weights is folded to this many rows to add it up
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


def candidates(logits: Floats, params: SamplingParams) -> tuple[Ids, NDArray[np.float64]]:
    """Ids that may be sampled, ascending, and their probabilities, after temperature, top-k, top-p and min-p."""
    count = len(logits)
    if 0 < params.top_k < count:
        ids = largest(logits, params.top_k)
        return _choose(ids, logits[ids], params)
    return _choose(_all_ids(count), logits, params)


def _choose(ids: Ids, values: Floats, params: SamplingParams) -> tuple[Ids, NDArray[np.float64]]:
    """`candidates` among ids [n], ascending, with their logits, which include the largest of all."""
    top = float(values.max())

    def weigh(chosen: Floats) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):  # a temperature near 0 leaves the weight of the largest, and zeros
            return np.exp((chosen.astype(np.float64) - top) / params.temperature)

    if params.top_p < 1.0:
        total = float(weigh(values).sum())
        size = _NEAR
        while True:  # a few ids hold nearly all of the probability, as a rule: no need to sort all
            part = largest(values, size)
            weights = weigh(values[part]) / total
            order = np.argsort(-weights, kind="stable")
            before = np.cumsum(weights[order]) - weights[order]
            inside = before < params.top_p
            if not inside.all() or len(part) == len(values):
                break
            size *= _ROWS
        chosen = np.sort(part[order[inside]])
        ids, values = ids[chosen], values[chosen]
    if params.min_p > 0.0:
        maximum = float(values.max())
        near = np.flatnonzero(
            values >= maximum + params.temperature * (np.log(params.min_p) - 1e-3)
        )  # a bit more: rounding
        chosen = near[weigh(values[near]) >= params.min_p * np.exp((maximum - top) / params.temperature)]
        ids, values = ids[chosen], values[chosen]
    weights = weigh(values)
    return ids, weights / weights.sum()


def inverse_cdf(weights: NDArray[np.float64], point: float) -> int:
    """The index where the running sum of weights, as a share of all, passes `point` in [0, 1).

    The weight at the index is never 0.
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
    """The log probability of a token by raw logits [vocab], and the `count` most likely ones; ties by ascending id."""
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


@dataclass(frozen=True, slots=True, eq=False)
class LogitsRow:
    """A row of logits [n, vocab] on a backend: read whole, or only its largest values."""

    backend: AnyBackend
    logits: Array
    row: int

    def whole(self) -> Floats:
        """All values, float32 [vocab]."""
        row: Floats = self.backend.to_numpy(self.logits[self.row : self.row + 1])[0]
        return row

    def top(self, count: int) -> TopLogits:
        """The `count` largest values, and those that equal the last of them."""
        return self.backend.top_logits(self.logits, self.row, count)

    def check(self) -> None:
        """Raise BackendError where the first value is no number: then all are, for one weight that is none."""
        if np.isnan(self.backend.to_numpy(self.logits[self.row : self.row + 1, :1])[0, 0]):
            raise BackendError(
                "the logits are no numbers (NaN), probably because weights of the checkpoint are infinite or NaN: a "
                "load without options for weights and precision names the tensor; use another checkpoint"
            )


def sample_token(logits: LogitsRow, sequence: Sequence) -> Sampled:
    """Sample the next token of a sequence from its logits, and advance its constraint by that token.

    The backend chooses the largest logits where these are enough, with the same result as the whole row.
    """
    request, constraint = sequence.request, sequence.constraint
    params = request.params
    logprob = None
    logits.check()
    if _needs_whole_row(sequence, logits.logits.shape[-1]):
        whole = logits.whole()
        token = sample(whole, sequence)
        if params.logprobs is not None:
            logprob = log_probabilities(whole, token, params.logprobs)
    elif params.temperature == 0.0:
        token = logits.backend.argmax(logits.logits, logits.row)
    else:
        top = logits.top(params.top_k)
        ids, weights = _choose(top.ids, top.values, params)
        token = int(ids[inverse_cdf(weights, sequence.random.random())])
    if constraint is None or token in request.stop_ids:
        return Sampled(token, logprob)
    constraint.accept(token)
    return Sampled(token, logprob, constraint.finished)


def _needs_whole_row(sequence: Sequence, vocab: int) -> bool:
    """Whether more than the largest logits, as many as top_k says, decide about the next token."""
    params = sequence.request.params
    early = len(sequence.output) + 1 < params.min_tokens
    if params.logit_bias or params.logprobs is not None or _penalised(params) or early or sequence.constraint:
        return True
    return params.temperature > 0.0 and not 0 < params.top_k < vocab


def _penalised(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1.0 or bool(params.presence_penalty or params.frequency_penalty)


def sample(logits: Floats, sequence: Sequence) -> int:
    """The next token id of a sequence from its logits [vocab]."""
    params, output = sequence.request.params, sequence.output
    if params.logit_bias:
        logits = logits.copy()
        for token, bias in params.logit_bias:
            if token < len(logits):
                logits[token] += np.float32(bias)
    if _penalised(params):
        logits = penalise(logits, sequence.request.prompt.ids, output, params)
    logits = _forbid(logits, sequence)
    if params.temperature == 0.0:
        return int(logits.argmax())
    ids, weights = candidates(logits, params)
    return int(ids[inverse_cdf(weights, sequence.random.random())])
