"""The network on quantized tensors as a file would hold them: what counts is their values, on every backend."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import config_dict, make_oracle, make_prompt

from pocketvlm.backends import native
from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.options import choose
from pocketvlm.config import ModelConfig
from pocketvlm.engine import Engine
from pocketvlm.errors import TensorError
from pocketvlm.model import MiniCPMV, expected_tensors, tensor_roles
from pocketvlm.quantize import quantized
from pocketvlm.schemes import Role
from pocketvlm.tensors import BlockValues, DenseTensor, QuantizedTensor, Tensor, load

ORACLE = make_oracle(config_dict(), seed=5)
ROLES = tensor_roles(ORACLE.config)


def as_in_a_file(tensor: Tensor) -> Tensor:
    """A quantized tensor of which nothing is known but its codes and scales."""
    if not isinstance(tensor, QuantizedTensor):
        return tensor
    scales = BlockValues(tensor.block_scales(), tensor.block)
    return QuantizedTensor(tensor.name, tensor.bits, tensor.shape, load(tensor.codes), scales, codebook=tensor.codebook)


QUANTIZED = {
    name: as_in_a_file(tensor) for name, tensor in quantized(ORACLE.tensors, ROLES, choose("native", "int4")).items()
}
DENSE = {
    name: tensor if isinstance(tensor, DenseTensor) else DenseTensor(name, "f32", tensor.dequantize())
    for name, tensor in QUANTIZED.items()
}


def logits(ops: AnyBackend, tensors: dict[str, Tensor]) -> np.ndarray:
    prompt = make_prompt(ORACLE.config, [(4, 8)], seed=1)
    return Engine(MiniCPMV(ORACLE.config, ops, tensors)).prompt_logits(prompt)


def test_exact_arithmetic_takes_the_values_of_the_formula(ops: AnyBackend) -> None:
    assert sum(isinstance(tensor, QuantizedTensor) for tensor in QUANTIZED.values()) > 30
    np.testing.assert_array_equal(logits(ops, QUANTIZED), logits(ops, DENSE))


def test_fast_arithmetic_is_close_to_it() -> None:
    """With embeddings that are looked up among the quantized rows."""
    fast, exact = (native.create(2, scheme=choose("native", precision=name)) for name in ("fast", "exact"))
    assert isinstance(QUANTIZED["model.language_model.embed_tokens.weight"], QuantizedTensor)
    found, expected = logits(fast, QUANTIZED), logits(exact, DENSE)
    assert np.linalg.norm(found - expected) < 0.15 * np.linalg.norm(expected)


@pytest.mark.parametrize("role", ["conv", "patch_embedding"])
def test_a_quantized_convolution_is_refused_by_name(ops: AnyBackend, role: Role) -> None:
    name = next(name for name, its in ROLES.items() if its == role)
    shape = ORACLE.tensors[name].shape[0], ORACLE.tensors[name].float32()[0].size
    odd = QuantizedTensor(name, 8, shape, np.zeros(shape, np.uint8), BlockValues(np.ones((1, 1), np.float32), shape))
    with pytest.raises(TensorError, match=f"{name}: quantized convolutions are not supported"):
        MiniCPMV(ORACLE.config, ops, {**ORACLE.tensors, name: odd})


# The end of a tensor's name, and what such a tensor is for; the first that fits counts.
PLAIN_ROLES: list[tuple[str, Role]] = [
    ("embed_tokens.weight", "tied_embedding"),
    ("lm_head.weight", "head"),
    ("position_embedding.weight", "position_embedding"),
    ("patch_embedding.weight", "patch_embedding"),
    ("conv1d.weight", "conv"),
    ("in_proj_a.weight", "gate"),
    ("in_proj_b.weight", "gate"),
    *((f"{name}.weight", "norm") for name in ("norm", "layernorm", "norm1", "norm2")),
    *((name, "vector") for name in ("bias", "A_log")),
]


@pytest.mark.parametrize("tied", [True, False])
def test_the_role_of_each_tensor(tied: bool) -> None:
    config = ModelConfig.from_dict(config_dict(text={"tie_word_embeddings": tied}, tie_word_embeddings=tied))
    roles = tensor_roles(config)
    assert roles.keys() == expected_tensors(config).keys()
    for name, role in roles.items():
        language = "matrix" if ".language_model." in name else "vision_matrix"
        expected = next((its for end, its in PLAIN_ROLES if name.endswith(end)), language)
        if expected == "tied_embedding" and not tied:
            expected = "embedding"
        assert role == expected, name
    assert ("head" in roles.values()) is not tied
