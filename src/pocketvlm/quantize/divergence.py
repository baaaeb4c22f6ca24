"""Measures how far the outputs of one network are from those of another: divergence of logits, errors of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Logits = Callable[[Floats], Floats]

_CHUNK = 1 << 20  # logits that one thread works on at once: some 40 MB of float64
_ROWS_BYTES = 128 << 20  # bytes of the logits of one network that are in memory


@dataclass(frozen=True, slots=True)
class Divergence:
    """Kullback-Leibler divergence of a candidate's token probabilities from the reference's, in nats, over positions.

    mean, median, p99 (99th percentile), maximum: of the divergence of single positions. top1: the share of positions
    whose most likely token is the same.
    """

    positions: int
    mean: float
    median: float
    p99: float
    maximum: float
    top1: float

    @classmethod
    def of(cls, values: Doubles, agrees: NDArray[np.bool_]) -> Divergence:
        """The summary of at least one position: divergences [n], and whether the best tokens agree [n]."""
        median, p99 = np.percentile(values, [50, 99])
        return cls(
            len(values), float(values.mean()), float(median), float(p99), float(values.max()), float(agrees.mean())
        )


def kl_divergence(reference: Floats, candidate: Floats) -> Doubles:
    """The divergence of each row in nats, float64 [n]: sum over p (log p - log q) of logits [n, vocab].

    p: the softmax of the reference's logits, q: that of the candidate's. All sums are float64; rounding below zero is
    cut off.
    """
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    with np.errstate(invalid="ignore"):  # logits that are no numbers give a divergence that is none
        a -= a.max(-1, keepdims=True)
        b -= b.max(-1, keepdims=True)
        p = np.exp(a)
        total = p.sum(-1)
        a -= b
        weighted = np.einsum("nv,nv->n", p, a)
        log_ratio = np.log(np.exp(b, out=b).sum(-1)) - np.log(total)
        found: Doubles = np.maximum(weighted / total + log_ratio, 0.0)
    return found


def compare_rows(
    reference: Floats,
    candidate: Floats,
    reference_logits: Logits,
    candidate_logits: Logits,
    vocabulary: int,
    threads: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[Doubles, NDArray[np.bool_]]:
    """Divergence [n] and agreement of the best token [n] of two networks' hidden rows [n, their own widths].

    The logits of some rows at a time are made and compared. progress(rows done) is called after each of them.
    """
    rows = len(reference)
    values, agrees = np.empty(rows, np.float64), np.empty(rows, np.bool_)
    step = max(1, _ROWS_BYTES // (4 * vocabulary))
    part = max(1, _CHUNK // vocabulary)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            a, b = reference_logits(reference[start:stop]), candidate_logits(candidate[start:stop])
            slices = [slice(at, at + part) for at in range(0, stop - start, part)]
            found = list(pool.map(lambda some, a=a, b=b: kl_divergence(a[some], b[some]), slices))
            values[start:stop] = np.concatenate(found)
            agrees[start:stop] = a.argmax(-1) == b.argmax(-1)
            if progress is not None:
                progress(stop)
    return values, agrees


@dataclass(slots=True)
class RowError:
    """Adds up the error of rows against a reference: `relative` to the reference's norm, and the mean `cosine`."""

    rows: int = 0
    _error: float = 0.0
    _norm: float = 0.0
    _cosines: float = field(default=0.0)

    def add(self, reference: Floats, candidate: Floats) -> None:
        """Add rows [n, width]."""
        for start in range(0, len(reference), 256):
            a, b = (each[start : start + 256].astype(np.float64) for each in (reference, candidate))
            squares, others = (a * a).sum(-1), (b * b).sum(-1)
            norms = np.sqrt(squares * others)
            dots = (a * b).sum(-1)
            # A row of zeros agrees with itself alone.
            same = np.where((squares == 0) & (others == 0), 1.0, 0.0)
            self._cosines += float(np.divide(dots, norms, out=same, where=norms > 0).sum())
            self._error += float(((a - b) ** 2).sum())
            self._norm += float(squares.sum())
            self.rows += len(a)

    @property
    def relative(self) -> float:
        """The norm of the differences over the norm of the reference, of all rows together."""
        if self._norm == 0:
            return 0.0 if self._error == 0 else float("inf")
        return float(np.sqrt(self._error / self._norm))

    @property
    def cosine(self) -> float:
        """The mean cosine of the angle between the rows; 0 without rows."""
        return self._cosines / self.rows if self.rows else 0.0


def counted_positions(tokens: int, placeholders: Sequence[tuple[int, int]]) -> NDArray[np.intp]:
    """Positions of a prompt whose next token is text, the last one included.

    placeholders: start and number of the placeholders of each view. What the network predicts before a placeholder is
    never used, and no training has seen it.
    """
    counted = np.ones(tokens, np.bool_)
    for start, count in placeholders:
        counted[max(start - 1, 0) : start + count - 1] = False
    return np.flatnonzero(counted)
