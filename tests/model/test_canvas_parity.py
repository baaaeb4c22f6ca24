"""MiniCPM-V 4.7 with two vision towers against transformers: features, logits and greedy answers, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import (
    Layout,
    Oracle,
    assert_close,
    canvas_prompt,
    config_dict,
    make_oracle,
    make_prompt,
    placed,
    reference_answer,
    reference_features,
    reference_logits,
)

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.engine import Engine, Request
from pocketvlm.families import MINICPMV4_7
from pocketvlm.model import MiniCPMV, expected_tensors
from pocketvlm.types import DownsampleMode, Prompt, SamplingParams

TOWERS: dict[str, dict[str, Any]] = {
    "odd": {},
    "wider, deeper, 16 pixels": {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "patch_size": 16,
        "image_size": 224,
    },
}
LAYOUTS: dict[str, list[Layout]] = {
    "one image": [Layout((12, 8), words=5, breaks=1)],
    "several images": [
        Layout((12, 8), words=5, breaks=1),
        Layout((4, 16)),
        Layout((8, 8), id_tag=True),
        Layout((4, 4), words=3),
    ],
    "sliced images": [
        Layout((8, 12), (2, 3), (8, 12), words=3, breaks=1),
        Layout((12, 8), (3, 1), (4, 16), words=2, id_tag=True),
    ],
    "video": [Layout((8, 8), video=True)] * 5 + [Layout((8, 8), video=True, words=4, breaks=1)],
    "frames in slices, then an image": [
        Layout((8, 12), (1, 2), (8, 12), video=True),
        Layout((8, 12), (1, 2), (8, 12), video=True, words=3),
        Layout((8, 8), words=6, breaks=1),
    ],
}


@pytest.fixture(scope="module", params=TOWERS)
def oracle(request: pytest.FixtureRequest) -> Oracle:
    tower = TOWERS[request.param]
    layer = 2 if tower else 0
    return make_oracle(
        config_dict(vision=tower, family=MINICPMV4_7, insert_layer_id=layer), seed=6, dtype=torch.bfloat16
    )


@pytest.fixture(params=LAYOUTS)
def layouts(request: pytest.FixtureRequest) -> list[Layout]:
    return LAYOUTS[request.param]


def prompt_of(oracle: Oracle, layouts: list[Layout], mode: DownsampleMode) -> Prompt:
    return placed(canvas_prompt(layouts, mode, 4, patch_dim=oracle.config.vision.patch_dim), oracle.config.family)


def engine_for(oracle: Oracle, ops: AnyBackend) -> Engine:
    return Engine(MiniCPMV(oracle.config, ops, oracle.tensors), prefill_chunk=64)


def answer(engine: Engine, prompt: Prompt, count: int) -> list[int]:
    """The most likely ids, one after the other."""
    engine.add(Request(prompt, SamplingParams(temperature=0, max_tokens=count)))
    events = []
    while engine.busy:
        events += engine.step()
    return [event.token_id for event in events]


def test_tensor_names_are_those_of_the_reference(oracle: Oracle) -> None:
    assert {name: tensor.shape for name, tensor in oracle.tensors.items()} == expected_tensors(oracle.config)


@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_features_logits_and_greedy_answers(
    oracle: Oracle, ops: AnyBackend, layouts: list[Layout], mode: DownsampleMode
) -> None:
    prompt, engine = prompt_of(oracle, layouts, mode), engine_for(oracle, ops)
    reference = reference_logits(oracle, prompt)
    logits = engine.prompt_logits(prompt)
    assert_close(logits, reference, 2e-4)
    assert answer(engine, prompt, 20) == reference_answer(oracle, prompt, 20)
    plain = Prompt(prompt.ids, (), (), "")
    assert np.abs(engine.prompt_logits(plain)[-1] - reference[-1]).max() > 1e-2  # positions and features matter
    if len({prompt.ids[view.start] for view in prompt.views}) == 1:
        features = np.concatenate([ops.to_numpy(f) for f in engine.runner.encode(prompt.views)])
        expected = reference_features(oracle, prompt)
        assert np.linalg.norm(features - expected) <= 1e-4 * np.linalg.norm(expected)


def test_text(oracle: Oracle, ops: AnyBackend) -> None:
    prompt, engine = make_prompt(oracle.config, [], text=150), engine_for(oracle, ops)
    assert_close(engine.prompt_logits(prompt), reference_logits(oracle, prompt), 2e-4)
    assert answer(engine, prompt, 20) == reference_answer(oracle, prompt, 20)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunked_prefill_equals_whole(oracle: Oracle, ops: AnyBackend, chunk: int) -> None:
    prompt, engine = prompt_of(oracle, LAYOUTS["sliced images"], "16x"), engine_for(oracle, ops)
    whole = engine.prompt_logits(prompt, chunk=10_000)
    assert np.abs(engine.prompt_logits(prompt, chunk=chunk) - whole).max() <= 5e-5
