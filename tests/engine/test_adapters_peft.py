"""Adapters made with peft: our logits are those of its merged weights, and of its own unmerged run."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from oracle import Oracle, make_network, make_prompt, reference_logits

from pocketvlm.adapters import Adapter, Update
from pocketvlm.backends.backend import AnyBackend
from pocketvlm.engine import Engine
from pocketvlm.tensors import DenseTensor

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.train

TARGETS = {
    "decoder": r"model\.language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|in_proj_qkv|in_proj_z|in_proj_b|"
    r"in_proj_a|out_proj|gate_proj|up_proj|down_proj)",
    "vision": r"model\.(vision_tower|merger)\..*(q_proj|k_proj|v_proj|out_proj|fc1|fc2|linear_1|linear_2)",
    "both": r"model\..*(_proj|in_proj_qkv|in_proj_z|in_proj_b|in_proj_a|fc1|fc2|linear_1|linear_2)",
}


def trained(oracle: Oracle, targets: str, **options: Any) -> Any:
    """A peft model with random factors."""
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, **options)
    model = peft.get_peft_model(copy.deepcopy(oracle.model), config).eval()
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
        elif "modules_to_save" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def adapter_of(model: Any) -> Adapter:
    """The factors in a peft model, under the checkpoint's names."""
    state = {name: tensor.detach().float().numpy() for name, tensor in peft.get_peft_model_state_dict(model).items()}
    updates, replacements, prefix = {}, {}, "base_model.model."
    for name, a in state.items():
        local = name.removeprefix(prefix)
        if local.endswith(".lora_A.weight"):
            matrix = local.removesuffix(".lora_A.weight")
            updates[f"{matrix}.weight"] = Update(a, state[f"{prefix}{matrix}.lora_B.weight"], 5 / 3)
        elif ".lora_" not in local:
            replacements[local] = DenseTensor(local, "f32", a)
    return Adapter(updates, replacements)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_updates_equal_merged_logits(oracle: Oracle, ops: AnyBackend, targets: str, mode: str) -> None:
    model = trained(oracle, TARGETS[targets])
    check(oracle, ops, model, mode)


def test_saved_modules_equal_merged_logits(oracle: Oracle, ops: AnyBackend) -> None:
    saved = ["lm_head", "merger"]
    check(oracle, ops, trained(oracle, TARGETS["decoder"], modules_to_save=saved), "16x")


def check(oracle: Oracle, ops: AnyBackend, model: Any, mode: str) -> None:
    network = make_network(oracle, ops)
    network.add_adapter("one", adapter_of(model))
    prompt = make_prompt(oracle.config, [(4, 8), (8, 4)], mode, seed=3)
    ours = Engine(network).prompt_logits(prompt, adapter="one")
    whole = Oracle(copy.deepcopy(model).merge_and_unload(), oracle.config, oracle.tensors)
    expected = reference_logits(whole, prompt)
    assert np.abs(ours - expected).max() < 1e-3
    assert np.abs(reference_logits(oracle, prompt) - expected).max() > 0.1
