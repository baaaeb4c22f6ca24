"""Two networks run part by part: the logits are those of the whole networks, and errors are those of their rows."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import config_dict, make_network, make_oracle, make_prompt
from whole_network import hidden_rows, logits

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.errors import CheckpointError
from pocketvlm.model.parts import NetworkParts
from pocketvlm.quantize import paired
from pocketvlm.quantize.divergence import counted_positions, kl_divergence
from pocketvlm.quantize.paired import run_pair
from pocketvlm.tensors import DenseTensor

ORACLE, OTHER = make_oracle(config_dict(), seed=5), make_oracle(config_dict(), seed=6)
PROMPTS = [
    make_prompt(ORACLE.config, [(4, 8)], "16x", seed=1),
    make_prompt(ORACLE.config, [], seed=2),
    make_prompt(ORACLE.config, [(4, 4), (8, 4)], "4x", seed=3),
]


def parts(oracle, ops: AnyBackend) -> NetworkParts:
    return NetworkParts(oracle.config, ops, oracle.tensors)


def test_differences_are_those_of_whole_networks(ops: AnyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "_STEP_TOKENS", 30)
    found = run_pair(parts(ORACLE, ops), parts(OTHER, ops), PROMPTS, 2)
    networks = [make_network(oracle, ops) for oracle in (ORACLE, OTHER)]
    last: list[tuple[np.ndarray, np.ndarray]] = []
    for prompt, divergences, agrees in zip(PROMPTS, found.divergences, found.agrees, strict=True):
        counted = counted_positions(len(prompt.ids), [(view.start, view.tokens) for view in prompt.views])
        rows = [hidden_rows(network, [prompt]) for network in networks]
        a, b = (ops.to_numpy(logits(n, r))[counted] for n, r in zip(networks, rows, strict=True))
        np.testing.assert_allclose(divergences, kl_divergence(a, b), rtol=2e-3)
        assert agrees.tolist() == (a.argmax(-1) == b.argmax(-1)).tolist()
        last.append((ops.to_numpy(rows[0]), ops.to_numpy(rows[1])))
    a, b = (np.concatenate(side) for side in zip(*last, strict=True))
    assert found.layers[-1].relative == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-4)
    assert len(found.layers) == 4
    assert {mode: error.rows for mode, error in found.features.items()} == {"16x": 2, "4x": 12}
    for mode, error in found.features.items():
        pairs = [
            [ops.to_numpy(n.encode([view])[0]) for n in networks]
            for prompt in PROMPTS
            for view in prompt.views
            if view.downsample_mode == mode
        ]
        a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
        assert error.relative == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-4)


def test_a_network_does_not_differ_from_itself(ops: AnyBackend) -> None:
    found = run_pair(parts(ORACLE, ops), parts(ORACLE, ops), PROMPTS, 2)
    assert max(values.max() for values in found.divergences) == 0
    assert all(agrees.all() for agrees in found.agrees)
    assert [error.relative for error in (*found.layers, *found.features.values())] == [0] * 6


def test_networks_of_other_depth_have_no_error_by_layer(ops: AnyBackend) -> None:
    other = make_oracle(config_dict({"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}))
    found = run_pair(parts(ORACLE, ops), parts(other, ops), PROMPTS[:2], 1)
    assert found.layers == []
    assert all((values > 0).all() for values in found.divergences)


def test_progress_covers_all_stages(ops: AnyBackend) -> None:
    said: list[tuple[str, int, int]] = []
    run_pair(parts(ORACLE, ops), parts(OTHER, ops), PROMPTS, 2, lambda *report: said.append(report))
    assert list(dict.fromkeys(stage for stage, _, _ in said)) == ["vision", "layers", "logits"]
    assert all(0 <= done <= total for _, done, total in said)
    assert said[-1][1] == said[-1][2]


def test_logits_that_are_no_numbers_are_an_error(ops: AnyBackend) -> None:
    name = "model.language_model.norm.weight"
    damaged = {**OTHER.tensors, name: DenseTensor(name, "f32", np.full(36, 3e38, np.float32))}
    with pytest.raises(CheckpointError, match=r"at 9 of 9 positions the logits .* infinite or NaN"):
        run_pair(parts(ORACLE, ops), NetworkParts(OTHER.config, ops, damaged), PROMPTS[1:2], 1)
