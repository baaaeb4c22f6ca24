"""GPTQ, AWQ and output errors: against plain versions, for every kind of scheme, and with unusual inputs."""

from __future__ import annotations

import numpy as np
import pytest
from plain_methods import gptq_blocks, gptq_with, outlier_matrix, squared_error

from pocketvlm.quantize import blas, chunks
from pocketvlm.quantize.methods import awq_clip, awq_scales, gptq, nearest, output_error
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.tensors import Floats, QuantizedTensor, load

KINDS = [
    *("int4-g64", "int4-g64-sym", "int3-g32", "int4-g64-bias", "int8", "Q4_0", "Q4_1", "Q5_0", "Q8_0"),
    *("Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "mxfp4", "mxfp8", "nvfp4"),
]


def error_of(w: Floats, tensor: QuantizedTensor, gram: Floats) -> float:
    """The output error of a tensor."""
    return output_error(w, tensor.dequantize(), gram)


def importance_of(gram: Floats) -> Floats:
    """The diagonal."""
    return np.ascontiguousarray(gram.diagonal())


def test_output_error_is_that_of_the_outputs() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((300, 40)).astype(np.float32)
    w, values = (random.standard_normal((9, 40)).astype(np.float32) for _ in range(2))
    expected = np.square(x @ (w - values).T).sum() / np.square(x @ w.T).sum()
    assert output_error(w, values, x.T @ x / 300) == pytest.approx(expected, rel=1e-4)
    assert output_error(w, w, x.T @ x) == 0
    assert output_error(np.zeros_like(w), w, x.T @ x) == 0


@pytest.mark.parametrize("name", KINDS)
def test_gptq_is_better_than_nearest(name: str) -> None:
    w, gram = outlier_matrix((48, 256))
    scheme = tensor_scheme(name)
    rounded = error_of(w, nearest("w", w, scheme, importance_of(gram)), gram)
    found = [error_of(w, gptq("w", w, gram, scheme, sweeps=sweeps), gram) for sweeps in (0, 1, 3)]
    assert found[0] < {"mxfp8": 0.8}.get(name, 0.6) * rounded
    assert found[1] < found[0]
    assert found[2] <= found[1]


@pytest.mark.parametrize("name", ["int4-g32", "Q4_K", "IQ4_NL", "int8", "mxfp4"])
@pytest.mark.parametrize("ordered", [False, True])
def test_gptq_is_that_of_the_paper(name: str, ordered: bool) -> None:
    """Without sweeps: the values of a version by the inverse of the Gram matrix, but for rounding of single numbers."""
    w, gram = outlier_matrix((20, 256), seed=3)
    scheme = tensor_scheme(name)
    order = np.argsort(-gram.diagonal(), kind="stable") if ordered else np.arange(256)
    plain = gptq_with(w, gram, scheme, order)
    values = gptq("w", w, gram, scheme, order=ordered, shrinkage=0, sweeps=0).dequantize()
    first = order[:40]  # later inputs depend on all others
    assert (values[:, first] == plain[:, first]).mean() > 0.99
    assert output_error(w, values, gram) == pytest.approx(output_error(w, plain, gram), rel=0.02)


@pytest.mark.parametrize(("bits", "group"), [(4, 128), (4, 32), (3, 64)])
def test_gptq_is_better_than_its_plain_form(bits: int, group: int) -> None:
    w, gram = outlier_matrix((64, 256), seed=1)
    plain = output_error(w, gptq_blocks(w, gram, bits, group), gram)
    for name in (f"int{bits}-g{group}", f"int{bits}-g{group}-permuted"):
        assert error_of(w, gptq("w", w, gram, tensor_scheme(name)), gram) < 0.8 * plain
        assert error_of(w, gptq("w", w, gram, tensor_scheme(name), sweeps=0), gram) < 0.9 * plain


def test_a_scheme_that_permutes_forms_groups_in_order() -> None:
    w, gram = outlier_matrix((16, 128))
    tensor = gptq("w", w, gram, tensor_scheme("int4-g32-permuted"))
    np.testing.assert_array_equal(tensor.permutation, np.argsort(-gram.diagonal(), kind="stable"))
    plain = gptq("w", w, gram, tensor_scheme("int4-g32-permuted"), order=False)
    assert plain.permutation is None
    same = gptq("w", w, gram, tensor_scheme("int4-g32"), order=False)
    np.testing.assert_array_equal(plain.dequantize(), same.dequantize())


@pytest.mark.parametrize("name", ["int4-g32", "int4-g32-permuted", "Q4_K", "int8"])
def test_inputs_that_never_occur(name: str) -> None:
    """They are rounded to nearest, and the others as without them; so is everything where no input occurs."""
    w, gram = outlier_matrix((12, 256))
    dead = np.arange(256) % 8 == 3
    gram[dead], gram[:, dead] = 0, 0
    tensor = gptq("w", w, gram, tensor_scheme(name))
    values = tensor.dequantize()
    assert np.isfinite(values).all()
    assert np.abs(values - w)[:, dead].max() < 0.2 * np.abs(w).max()
    assert error_of(w, tensor, gram) < error_of(w, nearest("w", w, tensor_scheme(name), importance_of(gram)), gram)
    nothing = gptq("w", w, np.zeros_like(gram), tensor_scheme(name)).dequantize()
    assert squared_error(w, nothing) < 1.5 * squared_error(w, nearest("w", w, tensor_scheme(name)).dequantize())


def test_fewer_tokens_than_inputs() -> None:
    """The Gram matrix has no inverse; damping makes one, and without damping it is added where it is needed."""
    w, gram = outlier_matrix((16, 256), tokens=40)
    for damping in (0.01, 0.0):
        tensor = gptq("w", w, gram, tensor_scheme("int4-g64"), damping=damping)
        assert np.isfinite(tensor.dequantize()).all()
        assert error_of(w, tensor, gram) < 0.3 * error_of(w, nearest("w", w, tensor_scheme("int4-g64")), gram)


def test_shrinkage_lowers_the_error_on_other_tokens() -> None:
    """With two tokens an input."""
    random = np.random.default_rng(1)
    basis = np.linalg.qr(random.standard_normal((128, 128)))[0] / np.sqrt(np.arange(1, 129))
    grams = []
    for tokens in (256, 8192):
        x = random.standard_normal((tokens, 128)) @ basis.T
        grams.append((x.T @ x / tokens).astype(np.float32))
    w = random.standard_normal((96, 128)).astype(np.float32)
    few, other = grams
    errors = [
        output_error(w, gptq("w", w, few, tensor_scheme("int4-g32"), shrinkage=part).dequantize(), other)
        for part in (0.0, 0.05, 0.1)
    ]
    assert errors[1] < 0.99 * errors[0]
    assert errors[2] < errors[1]


def test_single_rows_and_large_outliers() -> None:
    w, gram = outlier_matrix((1, 256))
    w[0, 7] = 30
    for name in ("int4-g64", "Q4_K", "int8", "nvfp4"):
        tensor = gptq("w", w, gram, tensor_scheme(name))
        assert error_of(w, tensor, gram) < 0.01


def test_the_same_bits_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    w, gram = outlier_matrix((1100, 64))
    scheme = tensor_scheme("int4-g32")
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(chunks, "threads_available", lambda threads=threads: threads)
        tensors = gptq("w", w, gram, scheme), nearest("w", w, scheme)
        found.append([np.concatenate([load(t.codes), t.dequantize()], 1) for t in tensors])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["int4-g64", "int4-g64-sym", "Q4_K"])
def test_awq_scales_protect_inputs(name: str) -> None:
    """For two consumers together, with rounding to nearest and with GPTQ."""
    w, gram = outlier_matrix((96, 256), seed=5)
    consumers = [w[:64], w[64:]]
    scheme = tensor_scheme(name)
    s = awq_scales(consumers, gram, scheme)
    assert s.dtype == np.float32
    assert s.shape == (256,)
    scaled = gram / np.outer(s, s)

    def after(quantize: str) -> float:
        some = importance_of(scaled)
        tensor = nearest("w", w * s, scheme, some) if quantize == "nearest" else gptq("w", w * s, scaled, scheme)
        return output_error(w, tensor.dequantize() / s, gram)

    assert after("nearest") < 0.95 * error_of(w, nearest("w", w, scheme, importance_of(gram)), gram)
    assert after("gptq") < error_of(w, gptq("w", w, gram, scheme), gram)


def test_scales_of_unusual_inputs_are_finite() -> None:
    w, gram = outlier_matrix((8, 64))
    w[:, 5] = 0
    gram[9], gram[:, 9] = 0, 0
    for some in (gram, np.zeros_like(gram)):
        s = awq_scales([w], some, tensor_scheme("int4-g32"))
        assert np.isfinite(s).all()
        assert 0 < s.min() <= s.max() < 1000 * s.min()


def test_clipping_lowers_the_error() -> None:
    w, gram = outlier_matrix((48, 256), seed=2)
    scheme = tensor_scheme("int3-g64")
    importance = importance_of(gram)
    clipped = awq_clip(w, gram, scheme)
    assert (np.abs(clipped) <= np.abs(w)).all()
    error = output_error(w, nearest("w", clipped, scheme, importance).dequantize(), gram)
    assert error < error_of(w, nearest("w", w, scheme, importance), gram)


def test_products_run_on_one_thread_and_then_on_as_many_as_before() -> None:
    functions = blas._openblas()
    if functions is None:
        pytest.skip("NumPy has another BLAS here")
    get, _ = functions
    before = get()
    with blas.single_threaded_blas():
        assert get() == 1
        with blas.single_threaded_blas():
            assert get() == 1
        assert get() == 1
    assert get() == before
