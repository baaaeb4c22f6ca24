"""The real checkpoint's shape with random weights: logits and features against transformers in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import Oracle, assert_close, make_oracle, make_prompt, reference_features, reference_logits

from pocketvlm import backends
from pocketvlm.backends.options import choose
from pocketvlm.bench.shape import RELEASED
from pocketvlm.engine import Engine
from pocketvlm.model import MiniCPMV
from pocketvlm.types import Prompt

pytestmark = pytest.mark.full

# (rows, cols) in patches of every view; 1920x1080 at max_slice_nums 9 is an overview and 2 x 4 slices.
CASES: dict[str, tuple[list[tuple[int, int]], str, int]] = {
    "text": ([], "16x", 200),
    "448x448 in 16x": ([(32, 32)], "16x", 12),
    "448x448 in 4x": ([(32, 32)], "4x", 12),
    "1920x1080 sliced": ([(24, 44), *[(32, 32)] * 8], "16x", 4),
    "two images": ([(28, 36), (32, 32)], "16x", 12),
    # Frames of 1920x1080; with stack_frames 3 there is a composite of two others behind each.
    "video": ([(24, 44)] * 3, "16x", 3),
    "video, stack_frames 3": ([(24, 44), (32, 32)] * 2, "16x", 3),
}
# `make test` leaves these out, which take the most time; `make test-full` does not.
LONG = ("1920x1080 sliced", "two images", "video")


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return make_oracle(dict(RELEASED), seed=11, dtype=torch.bfloat16)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in CASES]
)
def case(request: pytest.FixtureRequest, oracle: Oracle) -> tuple[Prompt, np.ndarray, np.ndarray | None]:
    sizes, mode, text = CASES[request.param]
    prompt = make_prompt(oracle.config, sizes, mode, text, seed=1, video="video" in request.param)
    features = reference_features(oracle, prompt) if sizes else None
    return prompt, reference_logits(oracle, prompt), features


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_full_size(backend: str, oracle: Oracle, case: tuple[Prompt, np.ndarray, np.ndarray | None]) -> None:
    prompt, logits, features = case
    ops = backends.create(backend, threads=2, scheme=choose(backend, precision="exact"))
    engine = Engine(MiniCPMV(oracle.config, ops, oracle.tensors))
    if features is not None:
        ours = np.concatenate([ops.to_numpy(rows) for rows in engine.runner.encode(prompt.views)])
        assert np.linalg.norm(ours - features) <= 1e-4 * np.linalg.norm(features)
    assert_close(engine.prompt_logits(prompt), logits, 2e-3)
