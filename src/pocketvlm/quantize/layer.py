"""Quantizes the matrices of a layer with a method, from the Gram matrices of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pocketvlm.config import TextConfig
from pocketvlm.quantize.methods import awq_clip, awq_scales, gptq, nearest, output_error
from pocketvlm.quantize.sites import Site, sites
from pocketvlm.quantize.tensor_scheme import TensorScheme
from pocketvlm.tensors import DenseTensor, QuantizedTensor, StoredDtype, Tensor, float32_to_bfloat16

Floats = NDArray[np.float32]
Method = Literal["rtn", "gptq", "awq", "auto"]
# A ratio of the largest and the smallest scale beyond this leaves the range of float16 in some formats.
_MAX_SCALE_RATIO = 1e4


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
    grams: Mapping[str, Floats],
    method: Method,
) -> dict[str, Made]:
    """The tensors of a layer that a method makes or changes, by name; see `quantize_site`."""
    current, found = dict(dense), dict[str, Made]()
    # A producer is divided by the scales of its consumer's inputs before it is quantized itself.
    for site in sorted(sites(config, index), key=lambda site: site.producer is None):
        made = quantize_site(site, current, schemes, grams.get(site.consumers[0]), method)
        found |= made
        current |= {name: each.tensor for name, each in made.items() if isinstance(each.tensor, DenseTensor)}
    return {
        name: Made(stored(dense[name], each.tensor.float32()), None, None)
        if isinstance(each.tensor, DenseTensor)
        else each
        for name, each in found.items()
    }


def quantize_site(
    site: Site,
    dense: Mapping[str, DenseTensor],
    schemes: Mapping[str, TensorScheme | None],
    gram: Floats | None,
    method: Method,
) -> dict[str, Made]:
    """The quantized matrices of a site and, if these are scaled, the norm or producer that divides their inputs.

    dense: the tensors of the layer. gram: X^T X / n of the site's inputs; None with method "rtn". Matrices without a
    scheme stay as they are, but for scales. Raises TensorError for values that are infinite or NaN.
    """
    weights = {name: dense[name].float32() for name in site.consumers}
    quantized = {name: scheme for name in site.consumers if (scheme := schemes.get(name)) is not None}
    if not quantized:
        return {}
    if method == "rtn" or gram is None:
        return {name: Made(nearest(name, weights[name], scheme), "rtn", None) for name, scheme in quantized.items()}
    plain = None
    if method in ("gptq", "auto"):
        plain = _all(weights, quantized, gram, _candidates(method))
    if method == "gptq" or (site.norm is None and site.producer is None):
        return plain or _all(weights, quantized, gram, {"awq": _clipped})
    scaled = _scaled(site, dense, weights, quantized, gram, method)
    if plain is not None and (scaled is None or _total(plain, weights, gram) <= _total(scaled, weights, gram)):
        return plain
    return scaled or _all(weights, quantized, gram, {"awq": _clipped})


Make = Callable[[str, Floats, Floats, TensorScheme], QuantizedTensor]


def _gptq(name: str, w: Floats, gram: Floats, scheme: TensorScheme) -> QuantizedTensor:
    return gptq(name, w, gram, scheme)


def _weighted(name: str, w: Floats, gram: Floats, scheme: TensorScheme) -> QuantizedTensor:
    return nearest(name, w, scheme, np.ascontiguousarray(np.diagonal(gram)))


def _clipped(name: str, w: Floats, gram: Floats, scheme: TensorScheme) -> QuantizedTensor:
    return nearest(name, awq_clip(w, gram, scheme), scheme)


def _candidates(method: Method) -> dict[str, Make]:
    return {"gptq": _gptq} if method == "gptq" else {"gptq": _gptq, "rtn": _weighted}


def _all(
    weights: Mapping[str, Floats], schemes: Mapping[str, TensorScheme], gram: Floats, candidates: Mapping[str, Make]
) -> dict[str, Made]:
    """Each matrix with the candidate that has the smallest output error."""
    found = {}
    for name, scheme in schemes.items():
        w, best = weights[name], None
        for label, make in candidates.items():
            tensor = make(name, w, gram, scheme)
            made = Made(tensor, label, output_error(w, tensor.dequantize(), gram))
            if best is None or (made.error or 0.0) < (best.error or 0.0):
                best = made
        assert best is not None
        found[name] = best
    return found


def _scaled(
    site: Site,
    dense: Mapping[str, DenseTensor],
    weights: Mapping[str, Floats],
    schemes: Mapping[str, TensorScheme],
    gram: Floats,
    method: Method,
) -> dict[str, Made] | None:
    """The site with scaled inputs (AWQ); None where scaling does not help."""
    first = next(iter(schemes.values()))
    wanted = awq_scales([weights[name] for name in schemes], gram, first)
    divided = _divided(site, dense, wanted)
    if divided is None:
        return None
    scales, other = divided
    inverse = np.float32(1) / scales
    inner = gram * inverse[:, None] * inverse
    scaled = {name: w * scales for name, w in weights.items()}
    candidates: dict[str, Make] = {"awq": _clipped} if method == "awq" else {"awq+gptq": _gptq}
    found = _all({name: scaled[name] for name in schemes}, schemes, inner, candidates)
    for name, w in scaled.items():
        if name not in schemes:
            found[name] = Made(DenseTensor(name, "f32", w, dense[name].origin), None, None)
    return {**found, other.name: Made(other, None, None)}


def _divided(site: Site, dense: Mapping[str, DenseTensor], wanted: Floats) -> tuple[Floats, DenseTensor] | None:
    """The norm or producer divided by scales near the wanted ones, and the scales that its rounded values mean.

    None where scales are all alike or out of range.
    """
    ratio = float(wanted.max() / max(float(wanted.min()), 1e-30))
    if ratio < 1.0 + 1e-3 or ratio > _MAX_SCALE_RATIO:
        return None
    if site.norm is not None:
        old = np.float32(1) + dense[site.norm].float32()  # the norm is zero-centred
        new = stored(dense[site.norm], old / wanted - np.float32(1))
        effective = np.float32(1) + new.float32()
        if not (np.abs(effective) > 0).all():
            return None
        scales = np.where(old == 0, np.float32(1), old / effective).astype(np.float32)
        return (scales, new) if (scales > 0).all() else None
    assert site.producer is not None
    producer = dense[site.producer]
    return wanted, DenseTensor(producer.name, "f32", producer.float32() / wanted[:, None], producer.origin)


def _total(made: Mapping[str, Made], weights: Mapping[str, Floats], gram: Floats) -> float:
    """The squared error of all outputs of a site."""
    total = 0.0
    for name, each in made.items():
        if each.error is not None:
            w = weights[name]
            total += each.error * float(np.einsum("ij,ij->", w @ gram, w))
    return total


def stored(like: DenseTensor, values: Floats) -> DenseTensor:
    """Values in the type of another dense tensor, under its name."""
    dtype: StoredDtype = like.dtype
    if dtype == "bf16":
        return DenseTensor(like.name, dtype, float32_to_bfloat16(np.ascontiguousarray(values, np.float32)), like.origin)
    kind = np.float16 if dtype == "f16" else np.float32
    return DenseTensor(like.name, dtype, np.ascontiguousarray(values, kind), like.origin)
