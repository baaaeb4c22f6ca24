"""Options of a backend, and the scheme chosen from them: how each tensor is stored and multiplied, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, cast

from pocketvlm.errors import OptionError
from pocketvlm.options.load import Backend, KVCacheDtype, LoadOptions, Precision, Weights
from pocketvlm.options.option import definition
from pocketvlm.schemes import (
    INT4_GROUP_64,
    INT8_GROUP_32,
    INT8_GROUP_64,
    INT8_ROWS,
    ROLES,
    QuantizationScheme,
    Role,
)

Products = Literal["float32", "bfloat16", "int8"]

# No tensor is quantized after loading. "bf16" is the older name, from when all checkpoints were dense.
_AS_STORED = ("bf16", "stored")
_WEIGHTS = {
    "int4": "int4 in the language model, int8 in the vision tower",
    "int8": "int8",
    **dict.fromkeys(_AS_STORED, "as stored, bfloat16 or float32"),
}
_KV_CACHE = {
    "bf16": "bfloat16",
    "int8": "int8 with a scale for each token and head",
    "f32": "float32",
}
_TEXT_ROLES = ("matrix", "gate", "head", "tied_embedding")


@dataclass(frozen=True, slots=True)
class Storage:
    """How the dense tensors of a role are stored, and why. quantization: None means as in the checkpoint."""

    quantization: QuantizationScheme | None
    reason: str


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a network is stored and multiplied on a backend. One function makes it, `choose`; all others only read it.

    weights: the type of dense matrices in memory, never "auto". products: how dense matrices are multiplied: "int8"
    means integer products with activations in 8 bits, "bfloat16" means that activations are rounded to bfloat16 where
    the processor multiplies such numbers. storage: for each role. quantization: how the checkpoint's own matrices are
    quantized, in words; those stay so, and precision "fast" multiplies them in integers. kv_cache: the type of cached
    keys and values, never "auto".
    """

    backend: Backend
    precision: Precision
    weights: Weights
    products: Products
    kv_cache: KVCacheDtype
    storage: Mapping[Role, Storage]
    precision_reason: str
    weights_reason: str
    products_reason: str
    kv_cache_reason: str
    quantization: str | None = None

    @property
    def as_stored(self) -> bool:
        """Whether dense tensors stay as the checkpoint has them."""
        return self.weights in _AS_STORED

    def describe(self) -> dict[str, str]:
        """Precision, weights and arithmetic with their reasons, for people."""
        attention = "attention of views and prompts in bfloat16 where the processor has it"
        own = "integer products with activations in 8 bits where the checkpoint is quantized, the rest in "
        arithmetic = {
            "float32": "float32",
            "bfloat16": f"{own if self.quantization else ''}float32, matrices stored in bfloat16 and {attention}",
            "int8": f"integer products with activations in 8 bits, the rest in float32, {attention}",
        }
        return {
            "precision": f"{self.precision} ({self.precision_reason})",
            "weights": f"{_WEIGHTS[self.weights]} ({self.weights_reason})",
            "arithmetic": arithmetic[self.products],
            "kv cache": f"{_KV_CACHE[self.kv_cache]} ({self.kv_cache_reason})",
        }


def choose(
    backend: str,
    weights: str = "auto",
    precision: str | None = None,
    quantization: str | None = None,
    kv_cache_dtype: str = "auto",
) -> Scheme:
    """The scheme that weights and precision mean on a backend; precision None is "fast" on native, "exact" on torch.

    kv_cache_dtype: of cached keys and values; "auto" is "bf16" with precision "fast" and "f32" with "exact".
    quantization: how the checkpoint's own matrices are quantized, in words; None means that all of its tensors are
    dense. "auto" does not change quantized tensors, and stores dense ones in the default type of the precision. Raises
    OptionError for a name that is not known and for names that contradict each other.
    """
    options = {"backend": backend, "weights": weights, "precision": precision, "kv_cache_dtype": kv_cache_dtype}
    for name, value in options.items():
        definition(LoadOptions, name).check(value)
    if backend == "torch":
        if precision == "fast":
            raise OptionError(
                "precision='fast' needs backend='native': the torch backend computes in float32; leave precision out"
            )
        if weights not in ("auto", *_AS_STORED):
            raise OptionError(
                f"weights={weights!r} needs backend='native': the torch backend keeps weights as stored; leave it out"
            )
        if kv_cache_dtype not in ("auto", "f32"):
            raise OptionError(
                f"kv_cache_dtype={kv_cache_dtype!r} needs backend='native': the torch backend caches keys and values "
                f"in float32; leave it out"
            )
    elif precision == "exact" and kv_cache_dtype not in ("auto", "f32"):
        raise OptionError(
            f"kv_cache_dtype={kv_cache_dtype!r} contradicts precision='exact', which caches keys and values in "
            f"float32: leave one of them out"
        )
    elif precision == "exact" and weights not in ("auto", *_AS_STORED):
        raise OptionError(
            f"weights={weights!r} contradicts precision='exact', which keeps weights as stored: "
            f"leave one of them out, or give weights='stored'"
        )
    if quantization is not None and weights not in ("auto", *_AS_STORED):
        raise OptionError(
            f"weights={weights!r}: the checkpoint is quantized already ({quantization}), and rounding it again would "
            f"cost accuracy: leave weights out, give weights='stored', or use the 16-bit checkpoint"
        )
    fast = backend == "native" and precision != "exact"
    auto = "int8" if fast else "bf16"
    chosen = auto if weights == "auto" else weights
    default = f"the default of precision {'fast' if fast else 'exact'}"
    reason = default if weights == "auto" else "asked for"
    if quantization is not None:
        reason = f"{reason}, for dense matrices; others stay as the checkpoint has them: {quantization}"
    kv_cache = kv_cache_dtype if kv_cache_dtype != "auto" else "bf16" if fast else "f32"
    products: Products = "float32" if not fast else "bfloat16" if chosen in _AS_STORED else "int8"
    if backend == "torch":
        precision_reason = "all that this backend does"
    else:
        precision_reason = f"the default of backend {backend}" if precision is None else "asked for"
    return Scheme(
        backend=cast(Backend, backend),
        precision="fast" if fast else "exact",
        weights=cast(Weights, chosen),
        products=products,
        kv_cache=cast(KVCacheDtype, kv_cache),
        storage=_storage(chosen),
        precision_reason=precision_reason,
        weights_reason=reason,
        products_reason=f"precision {'fast' if fast else 'exact'} with {chosen} weights",
        kv_cache_reason=default if kv_cache_dtype == "auto" else "asked for",
        quantization=quantization,
    )


def _storage(weights: str) -> Mapping[Role, Storage]:
    """How each role's dense tensors are stored for a weight type."""
    stored = dict.fromkeys(ROLES, Storage(None, "not multiplied as a matrix"))
    stored["embedding"] = stored["position_embedding"] = Storage(None, "only rows of it are read")
    stored["patch_embedding"] = Storage(None, "rounding pixels makes small print unreadable, and it is small")
    matrix = {"int4": INT4_GROUP_64, "int8": INT8_GROUP_32}.get(weights)
    stored.update(dict.fromkeys(cast(tuple[Role, ...], _TEXT_ROLES), Storage(matrix, f"{weights} weights")))
    if weights == "int4":
        # The group is that of the other matrices, so that products of the same rows share the rows' bytes.
        stored["gate"] = Storage(INT8_GROUP_64, "gates decide how long a state lives, and are tiny")
    stored["vision_matrix"] = (
        Storage(None, f"{weights} weights")
        if weights in _AS_STORED
        else Storage(INT8_ROWS, "the vision tower has 8 bits with any quantized language model")
    )
    return MappingProxyType(stored)
