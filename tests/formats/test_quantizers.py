"""Our quantizers against those of the tools whose formats they write: the error at equal size."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pocketvlm.quantize.methods import gptq, nearest, output_error
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.tensors import Floats

pytestmark = pytest.mark.formats

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def quantizers() -> Iterator[ModuleType]:
    """The quantizers of other tools."""
    sys.path.insert(0, str(BENCHMARKS))
    from peers import quantizers as found

    yield found
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def matrix() -> tuple[Floats, Floats]:
    """Weights with heavy tails, and the Gram matrix of correlated inputs of which some are much larger."""
    random = np.random.default_rng(0)
    sizes = np.exp(0.7 * random.standard_normal(512))
    sizes[random.choice(512, 6, replace=False)] *= 20
    mixed = random.standard_normal((1024, 128)) @ random.standard_normal((128, 512)) / 11
    x = (mixed + random.standard_normal((1024, 512))) * sizes
    w = 0.02 * random.standard_t(5, (128, 512)) * np.exp(0.3 * random.standard_normal((128, 1)))
    return w.astype(np.float32), (x.T @ x / 1024).astype(np.float32)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_error_is_lower_than_that_of_llama_cpp(
    quantizers: ModuleType, matrix: tuple[Floats, Floats], kind: str, weighted: bool
) -> None:
    """With the same importance matrix in the errors of the outputs, without one in those of the weights."""
    w, gram = matrix
    importance = np.ascontiguousarray(gram.diagonal()) if weighted else None
    peer = quantizers.llama_cpp(kind, w, importance)
    ours = nearest("w", w, tensor_scheme(kind), importance).dequantize()
    if importance is None:
        assert np.square(w - ours).sum() < 0.98 * np.square(w - peer).sum()
        return
    diagonal = np.diag(importance)
    assert output_error(w, ours, diagonal) < 0.98 * output_error(w, peer, diagonal)
    assert output_error(w, ours, gram) < 0.98 * output_error(w, peer, gram)
    assert output_error(w, gptq("w", w, gram, tensor_scheme(kind)).dequantize(), gram) < 0.5 * output_error(
        w, peer, gram
    )


@pytest.mark.parametrize(("name", "options"), [
    *((f"int{bits}-g{group}-bias", {"group_size": group, "bits": bits}) for bits in (2, 4, 5, 8) for group in (32, 64)),
    ("mxfp4", {"group_size": 32, "bits": 4, "mode": "mxfp4"}),
    ("mxfp8", {"group_size": 32, "bits": 8, "mode": "mxfp8"}),
    ("nvfp4-mlx", {"group_size": 16, "bits": 4, "mode": "nvfp4"}),
])  # fmt: skip
def test_the_error_is_lower_than_that_of_mlx(
    matrix: tuple[Floats, Floats], name: str, options: dict[str, int | str]
) -> None:
    mx = import_module("mlx.core")
    w, _ = matrix
    parts = mx.quantize(mx.array(w).astype(mx.bfloat16), **options)
    peer = np.array(mx.dequantize(*parts, **options).astype(mx.float32))
    ours = nearest("w", w, tensor_scheme(name)).dequantize()
    assert np.square(w - ours).sum() <= np.square(w - peer).sum()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_the_error_is_lower_than_that_of_the_gguf_library(matrix: tuple[Floats, Floats], kind: str) -> None:
    gguf = import_module("gguf")
    w, _ = matrix
    type_ = gguf.GGMLQuantizationType[kind]
    peer = gguf.dequantize(gguf.quantize(w, type_), type_)
    assert np.square(w - nearest("w", w, tensor_scheme(kind)).dequantize()).sum() < np.square(w - peer).sum()
