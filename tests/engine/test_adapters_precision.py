"""Adapters beside quantized weights: their updates stay as exact as bfloat16 factors are."""

from __future__ import annotations

import numpy as np
import pytest
from adapter_kit import merged_network, random_adapter
from engine_kit import network
from oracle import Oracle, make_network, make_prompt

from pocketvlm.backends import native
from pocketvlm.backends.options import choose
from pocketvlm.engine import Engine
from pocketvlm.model import MiniCPMV, tensor_roles
from pocketvlm.quantize import quantized
from pocketvlm.tensors import DenseTensor


def test_a_quantized_base_has_the_updates_of_its_dequantized_weights(oracle: Oracle) -> None:
    exact = native.create(2, scheme=choose("native", precision="exact"))
    tensors = quantized(oracle.tensors, tensor_roles(oracle.config), choose("native", "int4"))
    model = MiniCPMV(oracle.config, exact, tensors)
    adapter = random_adapter(oracle, 1, 3)
    model.add_adapter("one", adapter)
    dense = {name: DenseTensor(name, "f32", tensor.dequantize()) for name, tensor in tensors.items()}
    whole = merged_network(Oracle(oracle.model, oracle.config, dense), exact, adapter)
    prompt = make_prompt(oracle.config, [(4, 8)], "16x", seed=3)
    expected = Engine(whole).prompt_logits(prompt)
    assert np.abs(Engine(model).prompt_logits(prompt, adapter="one") - expected).max() < 1e-3


@pytest.mark.parametrize("weights", ["int8", "int4", "bf16"])
def test_fast_rounds_an_adapted_row_no_more_than_merged_weights(oracle: Oracle, weights: str) -> None:
    """Rounding merged weights loses more than rounding the base and adding the update to its products."""
    exact = native.create(2, scheme=choose("native", precision="exact"))
    adapter = random_adapter(oracle, 1, 2, "layers", scale=0.2)
    prompt = make_prompt(oracle.config, [(4, 8)], "16x", text=30, seed=3)
    expected = Engine(merged_network(oracle, exact, adapter)).prompt_logits(prompt)
    model = network(oracle, weights)
    model.add_adapter("one", adapter)
    merged = merged_network(oracle, native.create(2, scheme=choose("native", weights)), adapter)
    ours, theirs = (
        np.linalg.norm(logits - expected) / np.linalg.norm(expected)
        for logits in (Engine(model).prompt_logits(prompt, adapter="one"), Engine(merged).prompt_logits(prompt))
    )
    assert ours < max(1.5 * theirs, 0.01), (ours, theirs)
    plain = Engine(make_network(oracle, exact)).prompt_logits(prompt)
    assert np.linalg.norm(plain - expected) / np.linalg.norm(expected) > 0.1
