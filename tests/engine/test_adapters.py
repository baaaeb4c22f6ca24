"""Adapters per row: the sum that they state, the bits of rows without one, batch invariance, and caches apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine_kit import Run, alone, ask, check_idle, engine_of, network, pictured, text
from oracle import Oracle, make_network, reference_logits

from pocketvlm.adapters import Update
from pocketvlm.backends.backend import AnyBackend
from pocketvlm.engine import Engine, Request
from pocketvlm.errors import OptionError
from pocketvlm.model import MiniCPMV
from pocketvlm.tensors import DenseTensor
from pocketvlm.types import Prompt

LAYER = "model.language_model.layers."
MATRICES = (
    f"{LAYER}0.linear_attn.in_proj_qkv.weight",
    f"{LAYER}0.linear_attn.in_proj_b.weight",
    f"{LAYER}0.linear_attn.out_proj.weight",
    f"{LAYER}1.self_attn.q_proj.weight",
    f"{LAYER}1.self_attn.o_proj.weight",
    f"{LAYER}2.mlp.up_proj.weight",
    f"{LAYER}2.mlp.down_proj.weight",
)


def updates(oracle: Oracle, seed: int, rank: int = 1) -> dict[str, Update]:
    random = np.random.default_rng(seed)
    made = {}
    for name in MATRICES:
        outputs, inputs = oracle.tensors[name].shape
        a, b = (random.standard_normal(shape).astype(np.float32) for shape in ((rank, inputs), (outputs, rank)))
        made[name] = Update(a / np.float32(inputs**0.5), b, 0.5)
    return made


def merged(oracle: Oracle, adapter: dict[str, Update]) -> dict[str, DenseTensor]:
    """The weights with the adapter's updates added."""
    tensors = dict(oracle.tensors)
    for name, update in adapter.items():
        whole = tensors[name].float32() + np.float32(update.scale) * update.b @ update.a
        tensors[name] = DenseTensor(name, "f32", whole)
    return tensors


def with_adapters(model: MiniCPMV, oracle: Oracle) -> MiniCPMV:
    model.add_adapter("one", updates(oracle, 1))
    model.add_adapter("two", updates(oracle, 2, rank=3))
    return model


def adapted(request: Request, adapter: str | None) -> Request:
    return replace(request, adapter=adapter)


def rows_of(model: MiniCPMV, request: Request) -> np.ndarray:
    return alone(model, request)[1]


@pytest.mark.parametrize("name", ["one", "two"])
def test_an_adapter_equals_merged_weights(oracle: Oracle, ops: AnyBackend, name: str) -> None:
    model = with_adapters(make_network(oracle, ops), oracle)
    adapter = updates(oracle, 1) if name == "one" else updates(oracle, 2, rank=3)
    whole = MiniCPMV(oracle.config, ops, merged(oracle, adapter))
    request = replace(ask(text(1, 40), 4), params=replace(ask(text(1, 40), 4).params, temperature=0.0))
    rows, expected, plain = (
        rows_of(network_, wanted)
        for network_, wanted in ((model, adapted(request, name)), (whole, request), (model, request))
    )
    assert np.abs(rows - expected).max() < 1e-3
    assert np.abs(plain[0] - expected[0]).max() > 0.1


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_mixed_batches_have_the_bits_of_single_requests(oracle: Oracle, weights: str) -> None:
    plain, model = network(oracle, weights), with_adapters(network(oracle, weights), oracle)
    names = [None, "one", "two", None, "one"]
    requests = [adapted(ask(text(i, 20 + 9 * i, [12]), 6, seed=i), name) for i, name in enumerate(names)]
    run = Run(engine_of(model))
    numbers = [run.add(request) for request in requests]
    run.finish()
    for number, request in zip(numbers, requests, strict=True):
        np.testing.assert_array_equal(run.rows(number), rows_of(model, request))
        if request.adapter is None:
            np.testing.assert_array_equal(run.rows(number), rows_of(plain, request))
    assert not np.array_equal(rows_of(model, requests[1])[0], rows_of(model, adapted(requests[1], None))[0])
    check_idle(run.engine)


def test_an_entry_of_one_adapter_is_not_used_for_another(oracle: Oracle) -> None:
    model = with_adapters(network(oracle), oracle)
    run = Run(engine_of(model))
    prompt = text(3, 60, [40])
    for name in ("one", None, "two", "one", None):
        request = adapted(ask(prompt, 5), name)
        number = run.add(request)
        run.finish()
        np.testing.assert_array_equal(run.rows(number), rows_of(model, request))
    assert (run.engine.stats().prefix_hits, run.engine.stats().prefix_misses) == (2, 3)
    check_idle(run.engine)


def test_features_are_cached_for_each_adapter(oracle: Oracle) -> None:
    model = with_adapters(network(oracle), oracle)
    run = Run(engine_of(model, prefix_cache=0))
    prompt = pictured(oracle, 1)
    for name in ("one", None, "one"):
        run.add(adapted(ask(prompt), name))
        run.finish()
    assert (run.engine.vision.misses, run.engine.vision.hits) == (4, 2)
    run.add(adapted(ask(prompt), "two"))
    run.add(adapted(ask(prompt), "two"))
    run.finish()
    assert (run.engine.vision.misses, run.engine.vision.hits) == (6, 4)


def test_adapters_that_do_not_fit_are_refused(oracle: Oracle) -> None:
    model = with_adapters(network(oracle), oracle)
    good = updates(oracle, 1)
    with pytest.raises(OptionError, match="not empty and not taken"):
        model.add_adapter("one", good)
    with pytest.raises(OptionError, match=r"embed_tokens\.weight' is no matrix"):
        model.add_adapter("three", {"model.language_model.embed_tokens.weight": good[MATRICES[0]]})
    with pytest.raises(OptionError, match="do not fit"):
        model.add_adapter("three", {MATRICES[0]: good[MATRICES[2]]})
    engine: Engine = engine_of(model)
    with pytest.raises(OptionError, match="adapter 'nine' is not loaded: known are one, two"):
        engine.add(adapted(ask(text(1, 10)), "nine"))


def test_without_adapters_nothing_changes(oracle: Oracle, ops: AnyBackend) -> None:
    model = with_adapters(make_network(oracle, ops), oracle)
    prompt = Prompt(text(1, 30).ids, (), (), "")
    logits = Engine(model).prompt_logits(prompt)
    np.testing.assert_array_equal(logits, Engine(make_network(oracle, ops)).prompt_logits(prompt))
    assert np.abs(logits - reference_logits(oracle, prompt)).max() < 1e-2
