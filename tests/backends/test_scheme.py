"""The scheme of options and checkpoint: one frozen record, a reason for each field, contradictions refused."""

from __future__ import annotations

import dataclasses

import pytest

from pocketvlm import backends
from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.options import Scheme, choose
from pocketvlm.errors import OptionError
from pocketvlm.schemes import ROLES


@pytest.mark.parametrize(
    ("asked", "weights", "precision", "products"),
    [
        (("native",), "int8", "fast", "int8"),
        (("native", "auto", "fast"), "int8", "fast", "int8"),
        (("native", "int4"), "int4", "fast", "int8"),
        (("native", "bf16"), "bf16", "fast", "bfloat16"),
        (("native", "stored"), "stored", "fast", "bfloat16"),
        (("native", "stored", "exact"), "stored", "exact", "float32"),
        (("torch", "stored"), "stored", "exact", "float32"),
        (("native", "bf16", "exact"), "bf16", "exact", "float32"),
        (("native", "auto", "exact"), "bf16", "exact", "float32"),
        (("torch",), "bf16", "exact", "float32"),
    ],
)
def test_what_is_chosen(asked: tuple[str, ...], weights: str, precision: str, products: str) -> None:
    scheme = choose(*asked)
    assert (scheme.backend, scheme.weights, scheme.precision, scheme.products) == (
        asked[0],
        weights,
        precision,
        products,
    )
    quantizes = any(storage.quantization for storage in scheme.storage.values())
    assert quantizes == (products == "int8")


@pytest.mark.parametrize("asked", [("native",), ("native", "int4"), ("native", "bf16", "exact"), ("torch",)])
def test_each_field_has_a_reason(asked: tuple[str, ...]) -> None:
    scheme = choose(*asked)
    assert set(scheme.storage) == set(ROLES)
    assert all(storage.reason for storage in scheme.storage.values())
    assert all((scheme.precision_reason, scheme.weights_reason, scheme.products_reason))
    said = scheme.describe()
    assert scheme.precision_reason in said["precision"]
    assert scheme.weights_reason in said["weights"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        scheme.weights = "int4"  # type: ignore[misc]
    with pytest.raises(TypeError):
        scheme.storage["matrix"] = scheme.storage["norm"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("asked", "kv_cache"),
    [
        (("native",), "bf16"),
        (("native", "int4"), "bf16"),
        (("native", "auto", "exact"), "f32"),
        (("torch",), "f32"),
        (("native", "auto", None, None, "int8"), "int8"),
        (("native", "auto", "fast", None, "f32"), "f32"),
        (("native", "auto", "exact", None, "f32"), "f32"),
        (("torch", "auto", None, None, "f32"), "f32"),
    ],
)
def test_the_type_of_the_kv_cache(asked: tuple[str, ...], kv_cache: str) -> None:
    scheme = choose(*asked)
    assert scheme.kv_cache == kv_cache
    assert scheme.kv_cache_reason in scheme.describe()["kv cache"]
    assert ("asked for" in scheme.kv_cache_reason) == (len(asked) == 5)


@pytest.mark.parametrize("kv_cache", ["bf16", "int8"])
def test_exact_arithmetic_has_a_float32_cache(kv_cache: str) -> None:
    with pytest.raises(OptionError, match=f"kv_cache_dtype='{kv_cache}' contradicts precision='exact'"):
        choose("native", precision="exact", kv_cache_dtype=kv_cache)
    with pytest.raises(OptionError, match=f"kv_cache_dtype='{kv_cache}' needs backend='native'"):
        choose("torch", kv_cache_dtype=kv_cache)
    with pytest.raises(OptionError, match="kv_cache_dtype='fp8'"):
        choose("native", kv_cache_dtype="fp8")


def test_a_quantized_checkpoint_stays_as_it_is() -> None:
    scheme = choose("native", quantization="AWQ in 4 bits")
    assert scheme.storage == choose("native").storage
    assert scheme.weights_reason == (
        "the default of precision fast, for dense matrices; others stay as the checkpoint has them: AWQ in 4 bits"
    )
    with pytest.raises(OptionError, match=r"weights='int8': the checkpoint is quantized already \(AWQ in 4 bits\)"):
        choose("native", "int8", quantization="AWQ in 4 bits")


@pytest.mark.parametrize("weights", ["stored", "bf16"])
def test_no_dense_tensor_of_a_quantized_checkpoint_is_quantized(weights: str) -> None:
    scheme = choose("native", weights, quantization="AWQ in 4 bits")
    assert not any(storage.quantization for storage in scheme.storage.values())
    assert scheme.describe()["arithmetic"].startswith(
        "integer products with activations in 8 bits where the checkpoint is quantized, the rest in float32"
    )


def test_a_backend_takes_its_own_schemes(ops: AnyBackend) -> None:
    """`with_scheme` and `create` pass the record on, and refuse that of another backend."""
    mine, others = choose(ops.name), choose("torch" if ops.name == "native" else "native")
    changed = ops.with_scheme(mine)
    assert changed.scheme is mine
    assert {name: text for name, text in changed.describe().items() if name in mine.describe()} == mine.describe()
    assert changed.describe()["threads"] == ops.describe()["threads"]
    with pytest.raises(OptionError, match=f"a scheme of backend '{others.backend}' does not fit"):
        ops.with_scheme(others)
    assert isinstance(backends.create(ops.name).scheme, Scheme)
