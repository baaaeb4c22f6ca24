"""GPTQ with any scheme, then coordinate descent over codes and refits of parameters, all under the same Gram matrix.

GPTQ (Frantar et al. 2022, arXiv 2210.17323) rounds the inputs of a matrix one after another, and lets those that follow
make up for the error. With the Gram matrix G = V V^T and V upper triangular, the error of a row is the sum over inputs
k of (sum over i <= k of E_i V_ik)^2, where E are weights less their values. So input k is rounded towards
w_k + (sum over i < k of E_i V_ik) / V_kk, which needs no inverse of G.

Coordinate descent (QuantEase, Behdin et al. 2023, arXiv 2309.01885) then rounds each input again, towards the value
that is optimal for all others as they are; the error never grows. Before the inputs of a span, its scales are refitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.quantize.chunks import row_chunks, run_chunks
from pocketvlm.quantize.tensor_scheme import Codes, TensorScheme
from pocketvlm.tensors import Floats, QuantizedTensor

_ROWS, _MIN_ROWS = 2048, 256  # of a chunk: more leave the cache, fewer cost more in calls than they gain from threads
_BLOCK = 32  # inputs whose corrections are vector operations; those of earlier blocks come from one product


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What a Gram matrix says of the inputs of one matrix.

    gram: damped [in, in] in float32. order: inputs in the order in which GPTQ rounds them. factor: V with each column
    divided by its diagonal, inputs in that order, float32.
    """

    gram: Floats
    order: NDArray[np.int64]
    factor: Floats


def prepare_inputs(gram: Floats, order: bool, damping: float, shrinkage: float) -> Inputs:
    """Shrink and damp a Gram matrix, order its inputs by falling diagonal, and factor it; see `methods.gptq`."""
    diagonal = gram.diagonal()
    mean = np.float32(diagonal.mean(dtype=np.float64)) or np.float32(1)
    found = np.argsort(-diagonal, kind="stable") if order else np.arange(len(gram))
    backwards = found[::-1]
    while True:
        damped = np.asarray(gram, np.float32) * np.float32(1 - shrinkage)
        np.fill_diagonal(damped, np.where(diagonal > 0, diagonal, mean) + np.float32(damping) * mean)
        try:
            lower = np.linalg.cholesky(damped[np.ix_(backwards, backwards)].astype(np.float64))
            break
        except np.linalg.LinAlgError:
            damping = max(2 * damping, 1e-4)
    upper = lower[::-1, ::-1]
    factor = np.empty_like(damped)
    np.divide(upper, upper.diagonal(), out=factor, casting="same_kind")
    return Inputs(damped, found, factor)


def quantize(
    name: str,
    w: Floats,
    gram: Floats,
    scheme: TensorScheme,
    order: bool,
    damping: float,
    shrinkage: float,
    sweeps: int,
) -> QuantizedTensor:
    """See `methods.gptq`. sweeps: of coordinate descent."""
    scheme = scheme.bound(w)
    inputs = prepare_inputs(gram, order, damping, shrinkage)
    permutation = inputs.order if scheme.permutes and order else None
    if permutation is not None:
        ordered = np.ascontiguousarray(inputs.gram[np.ix_(permutation, permutation)])
        inputs = Inputs(ordered, np.arange(len(permutation)), inputs.factor)
    rows, columns = w.shape
    codes = np.empty((rows, columns), scheme.placeholder(name, (1, columns)).codes.dtype)

    def work(chunk: slice) -> list[Any]:
        part = w[chunk] if permutation is None else w[chunk][:, permutation]
        found, parameters = _Rows(np.ascontiguousarray(part.T), inputs, scheme).run(sweeps)
        codes[chunk] = found.T
        return parameters

    found = run_chunks(work, row_chunks(rows, _chunk_rows(rows)))
    return scheme.tensor(name, codes, join_rows(found), permutation)


def _chunk_rows(rows: int) -> int:
    """Rows of a chunk, some chunks for all processors; the same on any machine, so that results have the same bits."""
    return max(_MIN_ROWS, min(_ROWS, rows // 4))


def join_rows(chunks: Sequence[Sequence[Any]]) -> list[Any]:
    """The parameters of each span for all rows, from those of chunks of rows."""
    return [tuple(np.concatenate(arrays) for arrays in zip(*spans, strict=True)) for spans in zip(*chunks, strict=True)]


class _Rows:
    """The work on a chunk of rows; inputs lie on axis 0 of all arrays. error: weights less values [in, rows]."""

    def __init__(self, w: Floats, inputs: Inputs, scheme: TensorScheme) -> None:
        self._w, self._inputs, self._scheme = w, inputs, scheme
        self._span = scheme.span(len(w))
        self._starts = range(0, len(w), self._span)
        importance = inputs.gram.diagonal()
        self._parameters = [
            scheme.fit(w[start : start + self._span].T, importance[start : start + self._span])
            for start in self._starts
        ]
        self._grids = [scheme.grid(parameters) for parameters in self._parameters]
        self._codes: Codes = np.empty(w.shape, scheme.placeholder("", (1, len(w))).codes.dtype)
        self._error = np.empty_like(w)

    def run(self, sweeps: int) -> tuple[Codes, list[Any]]:
        self._round_in_order()
        for _ in range(sweeps):
            for number in range(len(self._starts)):
                self._improve_span(number)
        return self._codes, self._parameters

    def _round(self, k: int, target: Floats) -> None:
        """Round input k [rows] towards a target, and store its code and error."""
        number, column = divmod(k, self._span)
        grid = self._grids[number]
        codes, values = grid.round(target, column // grid.group)
        self._codes[k] = codes
        np.subtract(self._w[k], values, out=self._error[k])

    def _round_in_order(self) -> None:
        order, factor = self._inputs.order, self._inputs.factor
        ordered = np.empty_like(self._error)  # errors in the order of the inputs
        for start in range(0, len(order), _BLOCK):
            stop = min(start + _BLOCK, len(order))
            targets = self._w[order[start:stop]]
            if start:
                targets += np.ascontiguousarray(factor[:start, start:stop].T) @ ordered[:start]
            for i in range(start, stop):
                k = int(order[i])
                self._round(k, targets[i - start])
                ordered[i] = self._error[k]
                _add_outer(targets[i - start + 1 :], factor[i, i + 1 : stop], ordered[i])

    def _improve_span(self, number: int) -> None:
        """Refit the parameters of a span, then round each of its inputs again."""
        gram, error = self._inputs.gram, self._error
        span = slice(self._starts[number], min(self._starts[number] + self._span, len(self._w)))
        if self._span < len(self._w) or len(self._w) <= 1024:
            gradient = gram[span] @ error
            self._parameters[number] = self._scheme.refit(
                self._parameters[number], self._codes[span], gradient, gram[span, span]
            )
            self._grids[number] = grid = self._scheme.grid(self._parameters[number])
            error[span] = self._w[span] - grid.decode(self._codes[span])
        position = np.arange(span.start, span.stop)
        position = position[np.argsort(-gram.diagonal()[position], kind="stable")]
        for start in range(0, len(position), _BLOCK):
            block = position[start : start + _BLOCK]
            gradient = gram[block] @ error
            before = error[block]
            inner = gram[np.ix_(block, block)]
            for i, k in enumerate(block):
                target = gradient[i]
                target *= np.float32(1) / inner[i, i]
                target += self._w[k]
                target -= before[i]
                self._round(int(k), target)
                _add_outer(gradient[i + 1 :], inner[i, i + 1 :], error[k] - before[i])


def _add_outer(target: Floats, a: Floats, b: Floats) -> None:
    """Add the outer product of a [n] and b [rows]. BLAS would wake its threads for each of these small products."""
    if len(a):
        target += a[:, None] * b
