"""The methods that quantize one matrix with any scheme: round to nearest, GPTQ, AWQ, and the error of the outputs.

A Gram matrix X^T X / n [inputs, inputs] of n calibration rows X is all that they know of the inputs. Work is done some
rows of the matrix at a time, in as many threads as the process has processors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pocketvlm.quantize import awq
from pocketvlm.quantize import gptq as gptq_rows
from pocketvlm.quantize.blas import single_threaded_blas
from pocketvlm.quantize.chunks import row_chunks, run_chunks
from pocketvlm.quantize.tensor_scheme import TensorScheme
from pocketvlm.tensors import Floats, QuantizedTensor

# Rows of a chunk when rounding to nearest, and values of a span of all of them: they stay in the cache.
_MIN_ROWS, _MAX_ROWS, _VALUES = 64, 1024, 1 << 18
_SWEEPS = 1


def nearest(name: str, w: Floats, scheme: TensorScheme, importance: Floats | None = None) -> QuantizedTensor:
    """Round w [outputs, inputs] to nearest, with the parameters of least squared error.

    importance: [inputs], the weight of each input's squared error, such as the diagonal of a Gram matrix.
    """
    scheme = scheme.bound(w)
    rows, inputs = w.shape
    span = scheme.span(inputs)
    codes = np.empty(w.shape, scheme.placeholder(name, (1, inputs)).codes.dtype)

    def work(chunk: slice) -> list[Any]:
        part = np.ascontiguousarray(w[chunk].T)
        found = []
        for start in range(0, inputs, span):
            columns = slice(start, min(start + span, inputs))
            parameters = scheme.fit(part[columns].T, None if importance is None else importance[columns])
            codes[chunk, columns] = scheme.grid(parameters).encode(part[columns]).T
            found.append(parameters)
        return found

    size = max(_MIN_ROWS, min(_MAX_ROWS, _VALUES // max(1, span)))
    parameters = run_chunks(work, row_chunks(rows, size))
    return scheme.tensor(name, codes, gptq_rows.join_rows(parameters))


def gptq(
    name: str,
    w: Floats,
    gram: Floats,
    scheme: TensorScheme,
    *,
    order: bool = True,
    damping: float = 0.01,
    shrinkage: float = 0.05,
    sweeps: int = _SWEEPS,
) -> QuantizedTensor:
    """Quantize w [outputs, inputs] so that the outputs of inputs with this Gram matrix float32 [in, in] change little.

    order: round inputs in the order of the diagonal, the largest first; a scheme that permutes forms its groups in this
    order, others fit them before. damping: what is added to the diagonal, as a part of its mean. shrinkage: by how
    much the products of different inputs are reduced, because those of few tokens are partly chance; it lowers the
    error on other tokens. sweeps: of coordinate descent after GPTQ; 0 is GPTQ alone.
    """
    with single_threaded_blas():
        return gptq_rows.quantize(name, w, gram, scheme, order, damping, shrinkage, sweeps)


def awq_scales(consumers: Sequence[Floats], gram: Floats, scheme: TensorScheme) -> Floats:
    """The scales float32 [inputs] that the consumers' columns are multiplied by, and their common input divided by.

    consumers: all matrices [outputs, inputs] that read the input. Scales are chosen by the consumers' output error.
    """
    return awq.scales(consumers, gram, scheme)


def awq_clip(w: Floats, gram: Floats, scheme: TensorScheme) -> Floats:
    """w [outputs, inputs] with the weights of each span and row clipped where that lowers the span's output error."""
    return awq.clip(w, gram, scheme)


def output_error(w: Floats, values: Floats, gram: Floats) -> float:
    """The relative squared error of the outputs: tr(D G D^T) / tr(W G W^T) with D = w - values; 0 for no outputs."""

    def work(chunk: slice) -> tuple[float, float]:
        part = w[chunk]
        difference = part - values[chunk]
        return _energy(difference, gram), _energy(part, gram)

    found = np.array(run_chunks(work, row_chunks(len(w), 4096)))
    error, whole = found.sum(0)
    return float(error / whole) if whole > 0 else 0.0


def _energy(d: Floats, gram: Floats) -> float:
    return float(np.einsum("ij,ij->", d @ gram, d, dtype=np.float64))
