"""Adapters per row: merged weights, the bits of rows without one, batch invariance, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from adapter_kit import EMBEDDING, HEAD, MERGER, TOWER, adapted, merged_network, random_adapter, replacing, shapes
from engine_kit import Run, alone, ask, check_idle, engine_of, network, pictured, text
from oracle import Oracle, make_network, make_prompt, reference_logits

from pocketvlm.adapters import Adapter, Update
from pocketvlm.backends.backend import AnyBackend
from pocketvlm.engine import Engine
from pocketvlm.errors import OptionError
from pocketvlm.model import MiniCPMV
from pocketvlm.types import Prompt

LAYER = "model.language_model.layers.0.linear_attn."
REPLACED = {
    "head": [HEAD],
    "embedding": [EMBEDDING],
    "embedding and head": [EMBEDDING, HEAD],
    "final norm": ["model.language_model.norm.weight"],
    "merger": [
        f"{MERGER}mlp.0.{name}" for name in ("linear_1.weight", "linear_1.bias", "linear_2.bias", "pre_norm.bias")
    ],
    "tower": [
        f"{TOWER}embeddings.position_embedding.weight",
        f"{TOWER}vit_merger.self_attn.q_proj.weight",
        f"{TOWER}encoder.layers.1.layer_norm1.weight",
    ],
}


def check_merged(oracle: Oracle, ops: AnyBackend, adapter: Adapter) -> None:
    """Logits of every position of a prompt with views, in both modes, are those of merged weights."""
    model = make_network(oracle, ops)
    model.add_adapter("one", adapter)
    ours, whole = Engine(model), Engine(merged_network(oracle, ops, adapter))
    for mode in ("16x", "4x"):
        prompt = make_prompt(oracle.config, [(4, 8), (8, 4)], mode, seed=3)
        found, expected = ours.prompt_logits(prompt, adapter="one"), whole.prompt_logits(prompt)
        assert np.abs(found - expected).max() < 1e-3
        assert np.abs(ours.prompt_logits(prompt) - expected).max() > 0.02


@pytest.mark.parametrize("part", ["layers", "head", "embedding", "tower", "merger", "all"])
def test_updates_equal_merged_weights(oracle: Oracle, ops: AnyBackend, part: str) -> None:
    check_merged(oracle, ops, random_adapter(oracle, 1, 3, part))


@pytest.mark.parametrize("part", REPLACED)
def test_replaced_tensors_equal_merged_weights(oracle: Oracle, ops: AnyBackend, part: str) -> None:
    check_merged(oracle, ops, replacing(oracle, 1, REPLACED[part]))


@pytest.mark.parametrize("part", REPLACED)
def test_updates_of_replaced_tensors(oracle: Oracle, ops: AnyBackend, part: str) -> None:
    own = replacing(oracle, 2, REPLACED[part]).replacements
    check_merged(oracle, ops, Adapter(random_adapter(oracle, 1, 2).updates, own))


@pytest.fixture(scope="module")
def adapters(oracle: Oracle) -> dict[str, Adapter]:
    return {
        "layers": random_adapter(oracle, 1, 1, "layers"),
        "all": random_adapter(oracle, 2, 5, "all"),
        "tower": random_adapter(oracle, 3, 2, "tower"),
        "head": replacing(oracle, 4, [HEAD]),
        "merger": replacing(oracle, 5, REPLACED["merger"]),
    }


def loaded(model: MiniCPMV, adapters: dict[str, Adapter]) -> MiniCPMV:
    for name, adapter in adapters.items():
        model.add_adapter(name, adapter)
    return model


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_mixed_batches_have_the_bits_of_single_requests(
    oracle: Oracle, adapters: dict[str, Adapter], weights: str
) -> None:
    plain, model = network(oracle, weights), loaded(network(oracle, weights), adapters)
    names = [None, *adapters, None, "all", "head", "all", "head", "head"]
    prompts = [text(i, 20 + 9 * i, [12]) if i % 3 else pictured(oracle, i % 2) for i in range(len(names))]
    requests = [
        adapted(ask(prompt, 3 + i % 4, seed=i), name)
        for i, (prompt, name) in enumerate(zip(prompts, names, strict=True))
    ]
    run = Run(engine_of(model))
    numbers = [run.add(request) for request in requests]
    run.finish()
    for number, request in zip(numbers, requests, strict=True):
        np.testing.assert_array_equal(run.rows(number), alone(model, request)[1])
        if request.adapter is None:
            np.testing.assert_array_equal(run.rows(number), alone(plain, request)[1])
    check_idle(run.engine)


def test_adapters_that_do_not_fit_are_refused(oracle: Oracle, adapters: dict[str, Adapter]) -> None:
    model = loaded(network(oracle), adapters)
    matrix, other = f"{LAYER}in_proj_qkv.weight", f"{LAYER}out_proj.weight"
    good = adapters["layers"].updates

    def refuses(message: str, adapter: Adapter, name: str = "three") -> None:
        with pytest.raises(OptionError, match=message):
            model.add_adapter(name, adapter)
        assert model.adapters == tuple(adapters)

    refuses("not empty and not taken", adapters["head"], "layers")
    refuses("not empty and not taken", adapters["head"], "")
    refuses("the model has no tensor 'lm_head.bias'", Adapter({"lm_head.bias": good[matrix]}))
    refuses(r"conv1d\.weight' is no matrix", Adapter({f"{LAYER}conv1d.weight": good[matrix]}))
    refuses(r"in_proj_qkv\.weight is 126 x 36, which updates", Adapter({matrix: good[other]}))
    broken = Update(good[matrix].a * np.float32("nan"), good[matrix].b)
    refuses(r"in_proj_qkv\.weight has values that are no finite", Adapter({matrix: broken}))
    refuses("replaces .*A_log.* `pocketvlm merge`", replacing(oracle, 1, [f"{LAYER}A_log"]))
    tensor = replacing(oracle, 1, [EMBEDDING]).replacements[EMBEDDING]
    refuses(r"norm\.weight has the shape \[36\]", Adapter({}, {"model.language_model.norm.weight": tensor}))
    engine: Engine = engine_of(model)
    with pytest.raises(OptionError, match="adapter 'nine' is not loaded: known are layers, all"):
        engine.add(adapted(ask(text(1, 10)), "nine"))


def test_every_tensor_is_updated_replaced_or_refused(oracle: Oracle) -> None:
    model = make_network(oracle, network(oracle).backend)
    for name, shape in shapes(oracle.config).items():
        old = oracle.tensors[EMBEDDING if name == HEAD else name]
        runs = name.startswith((TOWER, MERGER)) or name in (EMBEDDING, HEAD, "model.language_model.norm.weight")
        adapter = Adapter({}, {name: old})
        assert old.shape == shape
        if runs:
            model.load_adapter("one", adapter)
        else:
            with pytest.raises(OptionError, match="pocketvlm merge"):
                model.load_adapter("one", adapter)


def test_without_adapters_nothing_changes(oracle: Oracle, ops: AnyBackend, adapters: dict[str, Adapter]) -> None:
    model = loaded(make_network(oracle, ops), adapters)
    prompt = Prompt(text(1, 30).ids, (), (), "")
    logits = Engine(model).prompt_logits(prompt)
    np.testing.assert_array_equal(logits, Engine(make_network(oracle, ops)).prompt_logits(prompt))
    assert np.abs(logits - reference_logits(oracle, prompt)).max() < 1e-2
