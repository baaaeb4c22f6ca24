"""Captured inputs against the inputs of transformers' own layers; AWQ's scales change nothing before rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import Oracle, config_dict, make_oracle, make_prompt

from pocketvlm import backends
from pocketvlm.backends.options import choose
from pocketvlm.quantize import blas
from pocketvlm.quantize import layer as layer_module
from pocketvlm.quantize.capture import Inputs
from pocketvlm.quantize.layer import Made, corrected, quantize_layer
from pocketvlm.quantize.runner import Runner
from pocketvlm.quantize.sites import prefix, sites
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.tensors import DenseTensor

OPS = backends.create("native", 2, scheme=choose("native", "stored", "exact"))


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return make_oracle(config_dict(text={"hidden_size": 64, "intermediate_size": 96}))


@pytest.fixture(scope="module")
def runner(oracle: Oracle) -> Runner:
    return Runner(oracle.config, OPS, [make_prompt(oracle.config, [], text=n, seed=n) for n in (7, 31, 12)])


def seen_by_transformers(oracle: Oracle, runner: Runner) -> dict[str, np.ndarray]:
    """The rows that each linear layer of the language model was called with, of all prompts."""
    found: dict[str, list[np.ndarray]] = {}
    hooks = []
    for name, module in oracle.model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".language_model.layers." in name:

            def hook(_: Any, given: tuple[torch.Tensor], name: str = name) -> None:
                found.setdefault(f"{name}.weight", []).append(given[0].reshape(-1, given[0].shape[-1]).numpy())

            hooks.append(module.register_forward_pre_hook(hook))
    with torch.no_grad():
        for prompt in runner.prompts:
            oracle.model(input_ids=torch.from_numpy(prompt.ids.astype(np.int64))[None])
    for each in hooks:
        each.remove()
    return {name: np.concatenate(rows) for name, rows in found.items()}


def test_gram_matrices_are_those_of_the_inputs_that_transformers_sees(oracle: Oracle, runner: Runner) -> None:
    expected = seen_by_transformers(oracle, runner)
    rows, found = runner.embeddings(oracle.tensors, {}), {}
    for index in range(runner.layers):
        rows, inputs = runner.captured(oracle.tensors, index, rows)
        found |= inputs
        for site in sites(oracle.config.text, index):
            assert len({id(inputs[name]) for name in site.consumers}) == 1  # captured once
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].rows == runner.tokens
        np.testing.assert_allclose(found[name].gram(), x.T @ x / len(x), atol=2e-5 * np.abs(x).max() ** 2, rtol=1e-4)


def test_the_drift_is_that_of_the_rows_from_the_reference() -> None:
    random = np.random.default_rng(1)
    x, reference = random.standard_normal((2, 5000, 6), dtype=np.float32)
    inputs = Inputs(6)
    for part in (slice(0, 1), slice(1, 4999), slice(4999, 5000)):
        inputs.add(x[part], reference[part])
    np.testing.assert_allclose(inputs.gram(), x.T @ x / 5000, atol=1e-4)
    np.testing.assert_allclose(inputs.drift(), (reference - x).T @ x / 5000, atol=1e-4)
    assert Inputs(6).drift() is None


def test_a_reference_that_equals_the_rows_has_no_drift_and_the_same_rows_after_it(
    oracle: Oracle, runner: Runner
) -> None:
    rows = runner.embeddings(oracle.tensors, {})
    expected, plain = runner.captured(oracle.tensors, 1, rows)
    after, inputs = runner.compared(oracle.tensors, 1, rows, rows)
    for name, each in inputs.items():
        assert not each.drift().any()  # type: ignore[union-attr]
        np.testing.assert_array_equal(each.gram(), plain[name].gram())
    np.testing.assert_array_equal(np.concatenate(after), np.concatenate(expected))
    np.testing.assert_array_equal(np.concatenate(runner.split(np.concatenate(after))), np.concatenate(after))


def test_corrected_weights_give_outputs_nearer_to_those_without_quantization() -> None:
    random = np.random.default_rng(2)
    reference = random.standard_normal((400, 24), dtype=np.float32)
    x = reference + 0.3 * reference @ random.standard_normal((24, 24), dtype=np.float32)
    w = random.standard_normal((10, 24), dtype=np.float32)
    inputs = Inputs(24)
    inputs.add(x, reference)
    changed = corrected({"w": w}, inputs.gram(), inputs.drift())["w"]
    before, after = (np.square(x @ each.T - reference @ w.T).sum() for each in (w, changed))
    assert after < 0.6 * before


def test_corrected_weights_do_not_depend_on_the_number_of_threads() -> None:
    functions = blas._openblas()
    if functions is None:
        pytest.skip("NumPy has no OpenBLAS here")
    get, set_threads = functions
    random, before = np.random.default_rng(4), get()
    gram = random.standard_normal((1100, 1100), dtype=np.float32)
    w, drift, gram = random.standard_normal((300, 1100), dtype=np.float32), gram[::-1].copy(), gram @ gram.T
    found = []
    try:
        for threads in (1, 2):
            set_threads(threads)
            found.append(corrected({"w": w}, gram, drift)["w"])
    finally:
        set_threads(before)
    np.testing.assert_array_equal(found[0], found[1])


def test_scaling_inputs_changes_no_logits_before_rounding(
    oracle: Oracle, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms, gates and the rows of up_proj are divided by what columns are multiplied with."""

    def unrounded(weights: Any, schemes: Any, *_: Any) -> dict[str, Made]:
        return {
            name: Made(DenseTensor(name, "f32", np.ascontiguousarray(weights[name])), "awq", 0.0) for name in schemes
        }

    monkeypatch.setattr(layer_module, "_all", unrounded)
    scheme, tensors = tensor_scheme("int4-g32"), dict(oracle.tensors)
    rows, changed = runner.embeddings(oracle.tensors, {}), set()
    for index in range(runner.layers):
        dense = {name: tensor for name, tensor in oracle.tensors.items() if name.startswith(prefix(index))}
        # The gates stay dense, and must follow the scales of their norm all the same.
        schemes = {
            name: scheme
            for name in dense
            if name.endswith(("proj.weight", "qkv.weight", "z.weight")) and "out" not in name
        }
        rows, inputs = runner.captured(oracle.tensors, index, rows)
        made = quantize_layer(oracle.config.text, index, dense, schemes, inputs, "awq")
        tensors |= {name: each.tensor for name, each in made.items()}
        changed |= {
            name.removeprefix(prefix(index))
            for name, each in made.items()
            if not np.array_equal(each.tensor.dequantize(), dense[name].float32())
        }
    assert {
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "linear_attn.in_proj_a.weight",
        "linear_attn.in_proj_b.weight",
        "self_attn.q_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
    } <= changed

    def logits(weights: dict[str, Any]) -> np.ndarray:
        x = runner.embeddings(weights, {})
        for index in range(runner.layers):
            x = runner.layer(weights, index, x)
        return runner.logits(weights, np.concatenate(x))

    expected = logits(dict(oracle.tensors))
    np.testing.assert_allclose(logits(tensors), expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("method", "limit"), [("gptq", 0.9), ("awq", 0.97), ("auto", 0.9)])
def test_each_method_has_a_smaller_output_error_than_rounding(
    oracle: Oracle, runner: Runner, method: Any, limit: float
) -> None:
    index = 1
    dense = {name: tensor for name, tensor in oracle.tensors.items() if name.startswith(prefix(index))}
    schemes = {name: tensor_scheme("int3-g32") for name in dense if "_proj" in name and "o_proj" not in name}
    rows = [x * np.geomspace(0.2, 5, 64, dtype=np.float32) for x in runner.embeddings(oracle.tensors, {})]
    _, inputs = runner.captured(oracle.tensors, index, rows)
    made = quantize_layer(oracle.config.text, index, dense, schemes, inputs, method)
    rounded = quantize_layer(oracle.config.text, index, dense, schemes, {}, "rtn")

    def error(name: str) -> float:
        w, gram = dense[name].float32(), inputs[name].gram()
        d = w - rounded[name].tensor.dequantize()
        return float(((d @ gram) * d).sum() / ((w @ gram) * w).sum())

    errors = {name: each.error for name, each in made.items() if each.error is not None}
    assert errors.keys() == schemes.keys()
    assert np.mean(list(errors.values())) < limit * np.mean([error(name) for name in errors])
