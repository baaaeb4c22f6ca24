"""A small random model, checkpoints of it in the formats of other libraries, and the comparison with transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from oracle import Oracle, config_dict, make_oracle, make_prompt, reference_logits
from quantized_checkpoint import write_directory
from safetensors.torch import save_file

import pocketvlm
from pocketvlm.api.parts import quantization_of
from pocketvlm.model import tensor_roles

TEXT = {
    "hidden_size": 256,
    "intermediate_size": 384,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1280,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    "partial_rotary_factor": 0.25,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
}
# As in the released model, the width of fc2 is a multiple of 16 and of no larger power of two.
VISION = {"hidden_size": 128, "intermediate_size": 272, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"image_token_id": 1242, "video_token_id": 1243, "eos_token_id": 1230}
CONFIG = config_dict(TEXT, VISION, **IDS)
MATRICES = ("matrix", "gate", "vision_matrix")


@cache
def oracle() -> Oracle:
    """The model in transformers; its weights are bfloat16 numbers."""
    return make_oracle(CONFIG, seed=3, dtype=torch.bfloat16)


def weights() -> dict[str, torch.Tensor]:
    """All tensors of the model by name, in bfloat16."""
    return {name: tensor.detach().to(torch.bfloat16) for name, tensor in _parameters(oracle()).items()}


def matrices(*roles: str) -> list[str]:
    """The names of the linear layers' weights, or of the tensors with these roles."""
    return [name for name, role in tensor_roles(oracle().config).items() if role in (roles or MATRICES)]


def language_matrices() -> list[str]:
    """The names of the linear layers' weights in attention and MLP of the language model."""
    return [name for name in matrices("matrix") if ".self_attn." in name or ".mlp." in name]


def write(directory: Path, tensors: Mapping[str, torch.Tensor] | None = None, **config: Any) -> None:
    """Write all files of a checkpoint, the weights only where they are given; `config` goes into config.json."""
    write_directory(directory, {**CONFIG, **config}, None)
    if tensors is not None:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")


def assert_same_logits(
    directory: Path, dequantized: Mapping[str, np.ndarray], described: str | None, tolerance: float = 2e-4
) -> None:
    """Both backends give the logits of transformers with these matrices, for a text and for an image.

    described: the words of `info` for how they are quantized.
    """
    config = oracle().config
    prompts = [make_prompt(config, sizes, seed=seed) for seed, sizes in ((1, []), (2, [(4, 8)]))]
    with _replaced(dequantized):
        expected = [reference_logits(oracle(), prompt) for prompt in prompts]
    for backend in ("native", "torch"):
        model = pocketvlm.load(directory, backend=backend, precision="exact", cache=False)
        assert quantization_of(model.checkpoint) == described
        for prompt, reference in zip(prompts, expected, strict=True):
            found = model.logits(prompt)
            assert np.abs(found - reference).max() <= tolerance * np.abs(reference).max()
        model.close()


def assert_changes(dequantized: Mapping[str, np.ndarray]) -> None:
    """The matrices differ from those of the model: otherwise the comparison of logits would say nothing."""
    for name, values in dequantized.items():
        error = np.linalg.norm(values - _parameters(oracle())[name].detach().numpy())
        assert 1e-4 < error / np.linalg.norm(values) < 0.6, name


def _parameters(found: Oracle) -> dict[str, torch.nn.Parameter]:
    named = dict(found.model.named_parameters())
    return {name: named[name] for name in found.tensors}


@contextmanager
def _replaced(values: Mapping[str, np.ndarray]) -> Iterator[None]:
    parameters = _parameters(oracle())
    before = {name: parameters[name].detach().clone() for name in values}
    try:
        _assign(parameters, {name: torch.from_numpy(np.array(array)) for name, array in values.items()})
        yield
    finally:
        _assign(parameters, before)


def _assign(parameters: Mapping[str, torch.nn.Parameter], values: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in values.items():
            parameters[name].copy_(tensor)
