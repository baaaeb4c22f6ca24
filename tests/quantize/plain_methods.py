"""GPTQ and rounding once more, as their papers and other tools write them, one input after another in float64."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pocketvlm.quantize.tensor_scheme import TensorScheme
from pocketvlm.tensors import Floats


def outlier_matrix(shape: tuple[int, int], seed: int = 0, tokens: int = 512) -> tuple[Floats, Floats]:
    """Weights with heavy tails and the Gram matrix of correlated inputs, of which some are much larger."""
    w, gram = _outlier_matrix(shape, seed, tokens)
    return w.copy(), gram.copy()


@cache
def _outlier_matrix(shape: tuple[int, int], seed: int, tokens: int) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    outputs, inputs = shape
    sizes = np.exp(0.5 * random.standard_normal(inputs))
    sizes[random.choice(inputs, max(1, inputs // 64), replace=False)] *= 15
    basis = np.linalg.qr(random.standard_normal((inputs, inputs)))[0] * (1 / np.sqrt(np.arange(1, inputs + 1)))
    x = random.standard_normal((tokens, inputs)) @ basis.T * sizes
    w = 0.02 * random.standard_t(5, shape) * np.exp(0.3 * random.standard_normal((outputs, 1)))
    return w.astype(np.float32), (x.T @ x / tokens).astype(np.float32)


def squared_error(w: Floats, values: Floats, importance: Floats | None = None) -> float:
    """The sum of the squared errors, weighted by inputs."""
    error = np.square(w.astype(np.float64) - values)
    return float((error if importance is None else error * importance).sum())


def min_max(w: Floats, bits: int, group: int) -> Floats:
    """The range of each group in equal steps, with an integer zero point and float16 scales (AWQ, GPTQ)."""
    x = w.reshape(len(w), -1, group)
    top = 2**bits - 1
    low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
    scale = ((high - low) / np.float32(top)).astype(np.float16).astype(np.float32)
    scale[scale == 0] = 1
    zero = np.rint(-low / scale)
    return ((np.clip(np.rint(x / scale) + zero, 0, top) - zero) * scale).reshape(w.shape)


def gptq_blocks(w: Floats, gram: Floats, bits: int, group: int, damping: float = 0.01) -> Floats:
    """GPTQ as auto-gptq does it by default: groups get their range when the first of their inputs is rounded."""
    rest, gram = w.astype(np.float64), gram.astype(np.float64)
    dead = gram.diagonal() == 0
    gram[dead, dead] = 1
    rest[:, dead] = 0
    gram += damping * gram.diagonal().mean() * np.eye(len(gram))
    upper = np.linalg.cholesky(np.linalg.inv(gram)).T
    values = np.zeros_like(rest)
    top = 2**bits - 1
    for i in range(len(gram)):
        if i % group == 0:
            some = rest[:, i : i + group]
            low, high = np.minimum(some.min(1), 0), np.maximum(some.max(1), 0)
            scale = np.where(high > low, (high - low) / top, 1)
            zero = np.rint(-low / scale)
        values[:, i] = (np.clip(np.rint(rest[:, i] / scale) + zero, 0, top) - zero) * scale
        error = (rest[:, i] - values[:, i]) / upper[i, i]
        rest[:, i:] -= error[:, None] * upper[i, i:]
    return values.astype(np.float32)


def gptq_with(w: Floats, gram: Floats, scheme: TensorScheme, order: NDArray[np.int64], damping: float = 0.01) -> Floats:
    """GPTQ in some order with the parameters that the scheme fits before, by the inverse of the Gram matrix."""
    gram = gram.astype(np.float64)
    gram += damping * gram.diagonal().mean() * np.eye(len(gram))
    span = scheme.span(w.shape[1])
    importance = gram.diagonal().astype(np.float32)
    parameters = [scheme.fit(w[:, at : at + span], importance[at : at + span]) for at in range(0, w.shape[1], span)]
    upper = np.linalg.cholesky(np.linalg.inv(gram[np.ix_(order, order)])).T
    rest, values = w[:, order].astype(np.float64), np.zeros(w.shape, np.float32)
    for i, k in enumerate(order):
        grid = scheme.grid(parameters[k // span])
        values[:, k] = grid.round(rest[:, i].astype(np.float32)[None], k % span // grid.group)[1][0]
        error = (rest[:, i] - values[:, k]) / upper[i, i]
        rest[:, i:] -= error[:, None] * upper[i, i:]
    return values
