"""Logits and image features of tiny random checkpoints against transformers, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import Oracle, assert_close, config_dict, make_oracle, make_prompt, reference_features, reference_logits

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.engine import Engine
from pocketvlm.model import MiniCPMV, expected_tensors
from pocketvlm.model.vision import encode_views

ROPE = {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25}
VARIANTS: dict[str, dict[str, Any]] = {
    "odd": config_dict(),
    "untied, merged after the last layer": config_dict(
        text={"tie_word_embeddings": False}, tie_word_embeddings=False, insert_layer_id=2
    ),
    "registers' own sizes": config_dict(
        text={
            "rope_parameters": ROPE,
            "hidden_size": 64,
            "head_dim": 32,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
        vision={"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96},
    ),
}


@pytest.fixture(scope="module", params=VARIANTS)
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return make_oracle(VARIANTS[request.param], seed=3, dtype=torch.bfloat16)


def random_config(seed: int) -> dict[str, Any]:
    """A configuration with arbitrary small sizes."""
    random = np.random.default_rng(seed)

    def pick(low: int, high: int) -> int:
        return int(random.integers(low, high + 1))

    kv_heads, key_heads, vision_heads = pick(1, 3), pick(1, 3), pick(1, 4)
    head_dim, rotary = 2 * pick(4, 20), 2 * pick(1, 4)
    layers = [["linear_attention", "full_attention"][pick(0, 1)] for _ in range(pick(1, 3))]
    layers.insert(pick(0, len(layers)), "full_attention")  # the reference's cache wants one
    return config_dict(
        text={
            "hidden_size": pick(17, 70),
            "intermediate_size": pick(17, 90),
            "num_hidden_layers": len(layers),
            "layer_types": layers,
            "num_attention_heads": kv_heads * pick(1, 4),
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "vocab_size": pick(60, 200),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": rotary / head_dim},
            "partial_rotary_factor": rotary / head_dim,
            "linear_conv_kernel_dim": pick(2, 5),
            "linear_key_head_dim": pick(5, 33),
            "linear_value_head_dim": pick(5, 33),
            "linear_num_key_heads": key_heads,
            "linear_num_value_heads": key_heads * pick(1, 3),
        },
        vision={
            "hidden_size": vision_heads * pick(7, 20),
            "num_attention_heads": vision_heads,
            "intermediate_size": pick(17, 90),
            "image_size": 14 * pick(5, 11),
        },
        insert_layer_id=pick(0, 2),
    )


@pytest.mark.parametrize("seed", range(6))
def test_random_configurations(ops: AnyBackend, seed: int) -> None:
    oracle = make_oracle(random_config(seed), seed=seed, dtype=torch.bfloat16)
    for mode in ("16x", "4x"):
        prompt = make_prompt(oracle.config, sizes_for(mode), mode, text=25, seed=seed)
        engine = engine_for(oracle, ops)
        features = np.concatenate([ops.to_numpy(f) for f in engine.runner.encode(prompt.views)])
        reference = reference_features(oracle, prompt)
        assert np.linalg.norm(features - reference) <= 1e-4 * np.linalg.norm(reference)
        assert_close(engine.prompt_logits(prompt), reference_logits(oracle, prompt), 3e-4)


def engine_for(oracle: Oracle, ops: AnyBackend, chunk: int = 512) -> Engine:
    return Engine(MiniCPMV(oracle.config, ops, oracle.tensors), prefill_chunk=chunk)


def sizes_for(mode: str) -> list[tuple[int, int]]:
    unit = 4 if mode == "16x" else 2
    return [(unit, unit), (2 * unit, 3 * unit), (5 * unit, unit)]


def test_tensor_names_are_those_of_the_reference(oracle: Oracle) -> None:
    expected = expected_tensors(oracle.config)
    assert {name: tensor.shape for name, tensor in oracle.tensors.items()} == expected


def test_text_logits(oracle: Oracle, ops: AnyBackend) -> None:
    prompt = make_prompt(oracle.config, [], text=150)
    assert_close(engine_for(oracle, ops).prompt_logits(prompt), reference_logits(oracle, prompt), 2e-4)


@pytest.mark.parametrize("video", [False, True], ids=["images", "video"])
@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_image_features_and_logits(oracle: Oracle, ops: AnyBackend, mode: str, video: bool) -> None:
    prompt = make_prompt(oracle.config, sizes_for(mode), mode, text=30, video=video)
    engine = engine_for(oracle, ops)
    features = np.concatenate([ops.to_numpy(f) for f in engine.runner.encode(prompt.views)])
    reference = reference_features(oracle, prompt)
    assert np.linalg.norm(features - reference) <= 1e-4 * np.linalg.norm(reference)
    assert_close(engine.prompt_logits(prompt), reference_logits(oracle, prompt), 2e-4)


def test_rounds_of_the_merger(ops: AnyBackend) -> None:
    oracle = make_oracle(config_dict(merger_times=2), seed=4)
    prompt = make_prompt(oracle.config, [(8, 8), (16, 24)], "16x")
    model = MiniCPMV(oracle.config, ops, oracle.tensors)
    patches = ops.from_numpy(np.concatenate([v.patches for v in prompt.views]))
    sizes = np.array([(v.rows, v.cols) for v in prompt.views], dtype=np.int32)
    ours = ops.to_numpy(encode_views(ops, model.weights.vision, oracle.config.vision, patches, sizes, "16x"))
    reference = reference_features(oracle, prompt)
    assert len(ours) == sum(v.rows * v.cols // 64 for v in prompt.views)
    assert np.linalg.norm(ours - reference) <= 1e-4 * np.linalg.norm(reference)


@pytest.mark.parametrize("chunk", [1, 7, 64, 65, 100])
def test_chunked_prefill_equals_whole(oracle: Oracle, ops: AnyBackend, chunk: int) -> None:
    prompt = make_prompt(oracle.config, sizes_for("16x"), text=40)
    engine = engine_for(oracle, ops)
    whole = engine.prompt_logits(prompt, chunk=10_000)
    assert np.abs(engine.prompt_logits(prompt, chunk=chunk) - whole).max() <= 5e-5


def test_f32_and_f16_weights(ops: AnyBackend) -> None:
    for dtype in (torch.float32, torch.float16):
        oracle = make_oracle(config_dict(), seed=5, dtype=dtype)
        prompt = make_prompt(oracle.config, [(4, 4)])
        assert_close(engine_for(oracle, ops).prompt_logits(prompt), reference_logits(oracle, prompt), 2e-4)
