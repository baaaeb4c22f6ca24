"""The real checkpoint's shape with random weights: logits and features against transformers in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import Oracle, assert_close, make_oracle, make_prompt, reference_features, reference_logits

from pocketvlm import backends
from pocketvlm.engine import Engine
from pocketvlm.model import MiniCPMV
from pocketvlm.types import Prompt

pytestmark = pytest.mark.full

REAL_CONFIG = {
    "architectures": ["MiniCPMV4_6ForConditionalGeneration"],
    "model_type": "minicpmv4_6",
    "tie_word_embeddings": True,
    "insert_layer_id": 6,
    "image_token_id": 248056,
    "video_token_id": 248057,
    "eos_token_id": 248044,
    "text_config": {
        "model_type": "qwen3_5_text",
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": 24,
        "layer_types": [*["linear_attention"] * 3, "full_attention"] * 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "vocab_size": 248094,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25},
        "partial_rotary_factor": 0.25,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "max_position_embeddings": 262144,
        "tie_word_embeddings": True,
    },
    "vision_config": {
        "model_type": "minicpmv4_6_vision",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 980,
        "patch_size": 14,
    },
}

# (rows, cols) in patches of every view; 1920x1080 at max_slice_nums 9 is an overview and 2 x 4 slices.
CASES: dict[str, tuple[list[tuple[int, int]], str, int]] = {
    "text": ([], "16x", 200),
    "448x448 in 16x": ([(32, 32)], "16x", 12),
    "448x448 in 4x": ([(32, 32)], "4x", 12),
    "1920x1080 sliced": ([(24, 44), *[(32, 32)] * 8], "16x", 4),
    "two images": ([(28, 36), (32, 32)], "16x", 12),
}


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return make_oracle(REAL_CONFIG, seed=11, dtype=torch.bfloat16)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, oracle: Oracle) -> tuple[Prompt, np.ndarray, np.ndarray | None]:
    sizes, mode, text = CASES[request.param]
    prompt = make_prompt(oracle.config, sizes, mode, text, seed=1)
    features = reference_features(oracle, prompt) if sizes else None
    return prompt, reference_logits(oracle, prompt), features


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_full_size(backend: str, oracle: Oracle, case: tuple[Prompt, np.ndarray, np.ndarray | None]) -> None:
    prompt, logits, features = case
    ops = backends.create(backend, threads=2, precision="exact")
    engine = Engine(MiniCPMV(oracle.config, ops, oracle.tensors))
    if features is not None:
        ours = np.concatenate([ops.to_numpy(rows) for rows in engine.runner.encode(prompt.views)])
        assert np.linalg.norm(ours - features) <= 1e-4 * np.linalg.norm(features)
    assert_close(engine.prompt_logits(prompt), logits, 2e-3)
