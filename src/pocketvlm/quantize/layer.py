"""Quantizes the matrices of a layer with a method, from what was captured of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pocketvlm.config import TextConfig
from pocketvlm.quantize.blas import single_threaded_blas
from pocketvlm.quantize.capture import Inputs
from pocketvlm.quantize.methods import awq_clip, awq_scales, gptq, nearest, output_error
from pocketvlm.quantize.sites import Site, sites
from pocketvlm.quantize.tensor_scheme import TensorScheme
from pocketvlm.tensors import DenseTensor, QuantizedTensor, StoredDtype, Tensor, float32_to_bfloat16

Floats = NDArray[np.float32]
Method = Literal["rtn", "gptq", "awq", "auto"]
METHODS: tuple[Method, ...] = ("rtn", "gptq", "awq", "auto")
# A ratio of the largest and the smallest scale beyond this leaves the range of float16 in some formats.
_MAX_SCALE_RATIO = 1e4
# The part of the inputs' drift that weights make up for, and what is added to the Gram matrix's diagonal, as a part of
# its mean. On nano the KL divergence was lowest with these (docs/log.md).
_CORRECTED, _DAMPING = np.float32(0.5), 0.05
# Rows of a matrix by which "auto" decides whether to scale a site's inputs.
_TRIED_ROWS = 256
_TRIED_GAIN = 0.98  # scaling costs exactness of norms: it must be better by this factor


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A tensor of a quantized network: how it was made, and its error (see `TensorResult`)."""

    tensor: Tensor
    method: str | None
    error: float | None


def quantize_layer(
    config: TextConfig,
    index: int,
    dense: Mapping[str, DenseTensor],
    schemes: Mapping[str, TensorScheme | None],
    inputs: Mapping[str, Inputs],
    method: Method,
    unchanged: Collection[str] = (),
) -> dict[str, Made]:
    """The tensors of a layer that a method makes or changes, by name.

    dense: the layer's tensors. schemes: of its matrices; those without one stay as they are, but for scales. inputs:
    of each matrix; none with method "rtn". unchanged: tensors that not even scales may change. Raises TensorError
    for values that are infinite or NaN.
    """
    current, found = dict(dense), dict[str, Made]()
    # A producer is divided by the scales of its consumer's inputs before it is quantized itself.
    for site in sorted(sites(config, index), key=lambda site: site.producer is None):
        made = _quantize_site(site, current, schemes, inputs.get(site.consumers[0]), method, unchanged)
        found |= made
        current |= {name: each.tensor for name, each in made.items() if isinstance(each.tensor, DenseTensor)}
    return {
        name: Made(stored(dense[name], each.tensor.float32()), None, None)
        if isinstance(each.tensor, DenseTensor)
        else each
        for name, each in found.items()
    }


def _quantize_site(
    site: Site,
    dense: Mapping[str, DenseTensor],
    schemes: Mapping[str, TensorScheme | None],
    inputs: Inputs | None,
    method: Method,
    unchanged: Collection[str],
) -> dict[str, Made]:
    """The quantized matrices of a site and, if its inputs are scaled, the norm or producer that divides them."""
    weights = {name: np.ascontiguousarray(dense[name].float32()) for name in site.consumers}
    quantized = {name: scheme for name in site.consumers if (scheme := schemes.get(name)) is not None}
    if not quantized:
        return {}
    if method == "rtn" or inputs is None:
        return {name: Made(nearest(name, weights[name], scheme), "rtn", None) for name, scheme in quantized.items()}
    gram = inputs.gram()
    if method != "awq":
        weights |= corrected({name: weights[name] for name in quantized}, gram, inputs.drift())
    divided = None
    divisor = site.norm or site.producer
    if method in ("awq", "auto") and divisor is not None and not {*site.consumers, divisor} & set(unchanged):
        divided = _scales(site, dense, weights, quantized, gram, method)
    make: Make = _clipped if method == "awq" else gptq
    if divided is None:
        return _all(weights, quantized, gram, make, "awq" if method == "awq" else "gptq")
    scales, other = divided
    scaled = {name: w * scales for name, w in weights.items()}
    found = _all(scaled, quantized, _divided_gram(gram, scales), make, "awq" if method == "awq" else "awq+gptq")
    for name, w in scaled.items():
        if name not in quantized:
            found[name] = Made(DenseTensor(name, "f32", w, dense[name].origin), None, None)
    return {**found, other.name: Made(other, None, None)}


def corrected(weights: Mapping[str, Floats], gram: Floats, drift: Floats | None) -> dict[str, Floats]:
    """Weights that make up for the drift of their inputs, which earlier quantized layers cause.

    W + W D (G + d I)^-1 with the drift D, of which a part is taken: the least-squares solution for outputs that equal
    those of the dense network (asymmetric calibration, Li et al. 2025).
    """
    if drift is None or not drift.any():
        return dict(weights)
    damped = gram + np.eye(len(gram), dtype=np.float32) * np.float32(
        _DAMPING * max(float(np.trace(gram)), 1e-20) / len(gram)
    )
    # Products on more threads would round in another way, so that results would depend on the number of processors.
    with single_threaded_blas():
        change = np.linalg.solve(damped, drift.T).T * _CORRECTED
        return {name: np.ascontiguousarray(w + w @ change, np.float32) for name, w in weights.items()}


Make = Callable[[str, Floats, Floats, TensorScheme], QuantizedTensor]


def _clipped(name: str, w: Floats, gram: Floats, scheme: TensorScheme) -> QuantizedTensor:
    return nearest(name, awq_clip(w, gram, scheme), scheme, np.ascontiguousarray(np.diagonal(gram)))


def _all(
    weights: Mapping[str, Floats], schemes: Mapping[str, TensorScheme], gram: Floats, make: Make, label: str
) -> dict[str, Made]:
    found = {}
    for name, scheme in schemes.items():
        tensor = make(name, weights[name], gram, scheme)
        found[name] = Made(tensor, label, output_error(weights[name], tensor.dequantize(), gram))
    return found


def _scales(
    site: Site,
    dense: Mapping[str, DenseTensor],
    weights: Mapping[str, Floats],
    schemes: Mapping[str, TensorScheme],
    gram: Floats,
    method: Method,
) -> tuple[Floats, DenseTensor] | None:
    """AWQ's scales for a site and what divides its inputs by them; None where scaling does not help.

    With "auto", some rows of each matrix decide, rounded by GPTQ with and without the scales.
    """
    tried = {name: weights[name] for name in schemes}
    if method == "auto":
        tried = {name: np.ascontiguousarray(w[:: max(1, len(w) // _TRIED_ROWS)]) for name, w in tried.items()}
    divided = _divided(site, dense, awq_scales(list(tried.values()), gram, next(iter(schemes.values()))))
    if divided is None or method == "awq":
        return divided
    scales = divided[0]
    inner = _divided_gram(gram, scales)
    plain = scaled = 0.0
    for name, w in tried.items():
        with single_threaded_blas():
            energy = float(np.einsum("ij,ij->", w @ gram, w))
        for_scaled, scheme = w * scales, schemes[name]
        plain += energy * output_error(w, gptq(name, w, gram, scheme, sweeps=0).dequantize(), gram)
        rounded = gptq(name, for_scaled, inner, scheme, sweeps=0).dequantize()
        scaled += energy * output_error(for_scaled, rounded, inner)
    return divided if scaled < _TRIED_GAIN * plain else None


def _divided_gram(gram: Floats, scales: Floats) -> Floats:
    inverse = np.float32(1) / scales
    return np.ascontiguousarray(gram * inverse[:, None] * inverse)


def _divided(site: Site, dense: Mapping[str, DenseTensor], wanted: Floats) -> tuple[Floats, DenseTensor] | None:
    """The scales that the rounded norm or the producer means after a division by the wanted ones, and that tensor.

    None where scales are all alike or out of range.
    """
    ratio = float(wanted.max() / max(float(wanted.min()), 1e-30))
    if ratio < 1.0 + 1e-3 or ratio > _MAX_SCALE_RATIO:
        return None
    if site.norm is not None:
        old = np.float32(1) + dense[site.norm].float32()  # the norm is zero-centred
        new = stored(dense[site.norm], old / wanted - np.float32(1))
        effective = np.float32(1) + new.float32()
        scales = np.divide(old, effective, out=np.ones_like(old), where=effective != 0).astype(np.float32)
        usable = (effective != 0) & (old != 0)
        return (scales, new) if usable.all() and (scales > 0).all() else None
    assert site.producer is not None
    producer = dense[site.producer]
    return wanted, DenseTensor(producer.name, "f32", producer.float32() / wanted[:, None], producer.origin)


def stored(like: DenseTensor, values: Floats) -> DenseTensor:
    """Values in the type of another dense tensor, under its name."""
    dtype: StoredDtype = like.dtype
    if dtype == "bf16":
        return DenseTensor(like.name, dtype, float32_to_bfloat16(np.ascontiguousarray(values, np.float32)), like.origin)
    kind = np.float16 if dtype == "f16" else np.float32
    return DenseTensor(like.name, dtype, np.ascontiguousarray(values, kind), like.origin)
