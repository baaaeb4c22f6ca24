"""AWQ: scales of inputs that protect those with large activations, and clipping of weights, from a Gram matrix alone.

The method is that of Lin et al. 2023 (arXiv 2306.00978); the errors are those of all calibration rows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from pocketvlm.quantize.chunks import row_chunks, run_chunks
from pocketvlm.quantize.tensor_scheme import TensorScheme
from pocketvlm.tensors import Floats

_ROWS, _VALUES = 1024, 1 << 17
_GRID = 20
# Powers of the inputs' and the weights' sizes to try; those next to the best are tried after them.
_ACTIVATION_POWERS = tuple(step / 10 for step in range(10))
_WEIGHT_POWERS = (0.0, 0.4, 0.8, 1.2)
_SAMPLED_ROWS = 128  # of each consumer, to compare scales


def rounded(w: Floats, scheme: TensorScheme, importance: Floats | None = None) -> Floats:
    """The values of w [rows, inputs] after rounding to nearest."""
    scheme = scheme.bound(w)
    inputs = w.shape[1]
    span = scheme.span(inputs)
    values = np.empty_like(w)

    def work(chunk: slice) -> None:
        # Each span is fitted as a row of its own: one call for all of them.
        rows = np.ascontiguousarray(w[chunk]).reshape(-1, span)
        some = None if importance is None else np.tile(importance.reshape(-1, span), (len(rows) * span // inputs, 1))
        grid = scheme.grid(scheme.fit(rows, some))
        values[chunk] = grid.decode(grid.encode(np.ascontiguousarray(rows.T))).T.reshape(-1, inputs)

    run_chunks(work, row_chunks(len(w), max(1, _VALUES // inputs)))
    return values


def scales(consumers: Sequence[Floats], gram: Floats, scheme: TensorScheme) -> Floats:
    """See `methods.awq_scales`."""
    diagonal = np.maximum(gram.diagonal(), np.float32(1e-20))
    activation = _floored(np.sqrt(diagonal))
    sampled = [w[:: max(1, len(w) // _SAMPLED_ROWS)] for w in consumers]
    sizes = [np.abs(w).mean(0) for w in sampled]
    weight = _floored(np.mean(sizes, axis=0, dtype=np.float32))
    together = np.concatenate(sampled)

    def tried(point: tuple[float, float]) -> tuple[float, Floats]:
        """The error with scales activation ** a / weight ** b, and these scales, around 1."""
        s = activation ** np.float32(point[0]) / weight ** np.float32(point[1])
        s /= np.sqrt(s.max() * s.min())
        importance = diagonal / (s * s)
        # Errors of rounding are hardly correlated, so the diagonal of the Gram matrix weighs them well enough.
        difference = together - rounded(together * s, scheme, importance) / s
        return float((np.square(difference).sum(0) * diagonal).sum()), s

    found = {point: tried(point) for point in product(_ACTIVATION_POWERS, _WEIGHT_POWERS)}
    a, b = min(found, key=lambda point: found[point][0])
    found |= {point: tried(point) for point in ((a - 0.05, b), (a + 0.05, b), (a, b - 0.2), (a, b + 0.2))}
    lowest = min(found, key=lambda point: found[point][0])
    return found[lowest][1]


def _floored(sizes: Floats) -> Floats:
    """Sizes relative to their median. Inputs of nearly none count as small: their scales would have no bound."""
    median = np.float32(np.median(sizes)) or np.float32(1)
    floored: Floats = np.maximum(sizes / median, np.float32(0.01))
    return floored


def clip(w: Floats, gram: Floats, scheme: TensorScheme) -> Floats:
    """See `methods.awq_clip`."""
    span = scheme.span(w.shape[1])
    clipped = np.empty_like(w)

    def work(chunk: slice) -> None:
        part = np.ascontiguousarray(w[chunk].T)
        for start in range(0, len(part), span):
            columns = slice(start, min(start + span, len(part)))
            x, inner = part[columns], np.ascontiguousarray(gram[columns, columns])
            largest = np.abs(x).max(0)
            best, lowest = largest, np.full(largest.shape, np.inf, np.float32)
            for step in range(_GRID // 2):
                limit = largest * np.float32(1 - step / _GRID)
                grid = scheme.grid(scheme.fit(np.clip(x, -limit, limit).T, gram.diagonal()[columns]))
                difference = grid.decode(grid.encode(np.clip(x, -limit, limit))) - x
                error = (difference * (inner @ difference)).sum(0)
                better = error < lowest
                best, lowest = np.where(better, limit, best), np.where(better, error, lowest)
            part[columns] = np.clip(x, -best, best)
        clipped[chunk] = part.T

    run_chunks(work, row_chunks(len(w), _ROWS))
    return clipped
