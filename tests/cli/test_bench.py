"""`pocketvlm bench`: the embedded model for real; the released shape with random weights as a full-size case."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pocketvlm.bench.roofline import PRODUCTS
from pocketvlm.bench.scenarios import SCENARIOS, Prompts, Spread
from pocketvlm.bench.shape import random_tensors, released_config
from pocketvlm.model import expected_tensors


def check(result: dict[str, Any], view_tokens: int) -> None:
    """Figures that hang together."""
    assert [row["name"] for row in result["scenarios"]] == [scenario.name for scenario in SCENARIOS]
    for row, scenario in zip(result["scenarios"], SCENARIOS, strict=True):
        assert row["tokens"] == scenario.words + scenario.views * view_tokens
        assert row["image_tokens"] == scenario.views * view_tokens
        assert row["chunks"] == -(-row["tokens"] // 256)
        for spread in (row["ttft"], row["decode"]):
            assert 0 < spread["least"] <= spread["median"] <= spread["most"]
    for row in (result["decode"], result["batch"], *result["vision_seconds"].values()):
        assert 0 < row["least"] <= row["median"] <= row["most"]
    assert result["batch"]["sequences"] == 8
    card = result["roofline"]
    assert sorted(card["limits"].keys() - {"bfloat16"}) == ["float32", "int8", "read_bandwidth"]
    assert all(rate > 0 for rate in card["limits"].values())
    assert list(card["phases"]) == ["decode", "prefill", "vision"]
    for phase in card["phases"].values():
        parts = phase["operations"].values()
        assert all(part["calls"] >= 1 and part["seconds"] > 0 for part in parts)
        assert phase["seconds"] > 0
        products = [part for name, part in phase["operations"].items() if name in PRODUCTS]
        rate = sum(part["operations"] for part in products) / sum(part["seconds"] for part in products)
        assert phase["products_share"] == pytest.approx(rate / card["limits"]["int8"])
        bandwidth = sum(part["bytes"] for part in products) / phase["seconds"]
        assert phase["bandwidth_share"] == pytest.approx(bandwidth / card["limits"]["read_bandwidth"])
        assert [p["seconds"] for p in parts] == sorted((p["seconds"] for p in parts), reverse=True)
    assert result["memory_bytes"]["peak"] >= result["memory_bytes"]["resident"] > 1 << 20


def test_the_embedded_model(invoke):
    outcome = invoke("bench", "nano", "--runs", "1", "--threads", "2")
    assert outcome.code == 0, outcome.err
    *page, last = outcome.out.strip().splitlines()
    check(json.loads(last), view_tokens=9)
    text = "\n".join(page)
    for words in ("weights     int8", "image in 18 slices", "8 sequences together", "168x168", "of the read bandwidth"):
        assert words in text
    alone = invoke("bench", "nano", "--runs", "1", "--json", "--weights", "int4")
    check(json.loads(alone.out), view_tokens=9)
    assert "int4" in json.loads(alone.out)["backend"]["weights"]


@pytest.mark.parametrize("kv_cache", ["bf16", "int8"])
def test_depths(invoke, kv_cache):
    depths = ("--depth", "512", "--depth", "70", "--runs", "1", "--threads", "2")
    outcome = invoke("bench", "nano", *depths, "--kv-cache-dtype", kv_cache)
    assert outcome.code == 0, outcome.err
    *page, last = outcome.out.strip().splitlines()
    rows = json.loads(last)["depths"]
    assert [row["depth"] for row in rows] == [512, 70]
    for row in rows:
        for spread in (row["prefill"], row["decode"]):
            assert 0 < spread["least"] <= spread["median"] <= spread["most"]
        assert row["bandwidth_share"] == pytest.approx(
            row["decode"]["median"] * row["bytes"] / row["read_bandwidth"], rel=0.01
        )
    per_token = (rows[0]["bytes"] - rows[1]["bytes"]) / (512 - 70)
    facts = json.loads(invoke("info", "nano", "--kv-cache-dtype", kv_cache, "--json").out)
    assert per_token == pytest.approx(facts["kv_cache_bytes_per_token"], rel=0.01)
    assert any(line.startswith("depth") for line in page)
    assert any(line.startswith("512") for line in page)


def test_wrong_options(invoke):
    for arguments, words in (
        (("--runs", "0"), "runs=0 is out of range: give at least 1"),
        (("--weights", "int3"), "int3"),
        (("--kv-cache-dtype", "int3"), "int3"),
        (("--depth", "0"), "depth=0 is out of range: give 1 to"),
        (("--depth", "70000000"), "depth=70000000 is out of range"),
        (("--prefill-chunk", "0"), "--prefill-chunk=0 is out of range"),
        (("nowhere/at-all-x",), "nowhere/at-all-x"),
    ):
        outcome = invoke("bench", *arguments)
        assert outcome.code in (1, 2)
        assert words in outcome.err
        assert outcome.out == ""


def test_random_weights_have_the_released_shape():
    config = released_config()
    shapes = expected_tensors(config)
    assert config.text.vocab_size == 248_094
    parameters = sum(a * b for a, b in ((shape[0], int(size_of(shape[1:]))) for shape in shapes.values()))
    assert 1.2e9 < parameters < 1.4e9


def size_of(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product


def test_prompts_and_spread():
    prompts = Prompts(released_config(), 32)
    prompt = prompts.prompt(19, 55)
    assert len(prompt.ids) == 1271
    assert prompt.image_tokens == 1216
    for view in prompt.views:
        assert (prompt.ids[view.start : view.start + view.tokens] == 248_056).all()
    assert (prompt.ids == 248_056).sum() == 1216
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


@pytest.mark.full
def test_the_released_shape(invoke):
    outcome = invoke("bench", "--random", "--weights", "int4", "--runs", "1", "--json")
    assert outcome.code == 0, outcome.err
    check(json.loads(outcome.out), view_tokens=64)


@pytest.mark.full
def test_random_weights_are_close_to_normal():
    tensors = random_tensors(released_config())
    weight = tensors["model.language_model.layers.0.mlp.gate_proj.weight"].float32()
    assert weight.shape == (3584, 1024)
    assert abs(float(weight.std()) * 32 - 1) < 0.01
