"""Fast arithmetic in the engine: batch-invariant results, no drift, close to exact arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracle import Oracle, config_dict, make_network, make_oracle, make_prompt

from pocketvlm import _native
from pocketvlm.backends import native
from pocketvlm.backends.native import NativeBackend
from pocketvlm.backends.options import choose
from pocketvlm.engine import Engine, Request
from pocketvlm.engine.sampler import LogitsRow
from pocketvlm.options.load import Weights
from pocketvlm.types import Prompt, SamplingParams

Logits = dict[int, list[NDArray[np.float32]]]
WEIGHTS = sorted({*get_args(Weights)} - {"auto"})


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return make_oracle(config_dict(), seed=9, dtype=torch.bfloat16)


def make_engine(oracle: Oracle, ops: NativeBackend, **options: int) -> Engine:
    return Engine(make_network(oracle, ops), **options)


def backend(weights: str, isa: str | None = None) -> NativeBackend:
    """Such weights with fast arithmetic, or weights as stored with "exact"."""
    scheme = choose("native", precision="exact") if weights == "exact" else choose("native", weights)
    return native.create(2, isa, scheme=scheme)


def has_bfloat16() -> bool:
    """Whether the backend multiplies pairs of bfloat16 numbers."""
    return native.create(1).describe()["isa"].startswith(("avx512bf16", "amx", "plaintiles"))


def record(engine: Engine) -> Logits:
    """Every row of logits that the engine makes from now on, by request."""
    seen: Logits = {}
    run: Callable[..., dict[int, LogitsRow]] = engine.runner.run

    def listen(plan: object) -> dict[int, LogitsRow]:
        made = run(plan)
        for number, row in made.items():
            seen.setdefault(number, []).append(row.whole().copy())
        return made

    engine.runner.run = listen  # type: ignore[method-assign, assignment]
    return seen


def answer(engine: Engine, requests: list[Request], seen: Logits) -> list[NDArray[np.float32]]:
    """Logits [tokens, vocab] of each request, all of them added at once."""
    numbers = [engine.add(request) for request in requests]
    while engine.scheduler.waiting or engine.scheduler.running:
        engine.step()
    for number in numbers:
        engine.release(number)
    return [np.stack(seen[number]) for number in numbers]


def request(prompt: Prompt, seed: int, count: int = 10) -> Request:
    return Request(prompt, SamplingParams(temperature=1.0, seed=seed, max_tokens=count, ignore_eos=True))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_results_are_batch_invariant(oracle: Oracle, weights: str) -> None:
    """Bit for bit: logits of a request alone and in batches of any size."""
    if weights == "bf16" and not has_bfloat16():
        pytest.skip("bfloat16 weights have float32 products on this processor: equal within rounding only")
    make = [
        make_prompt(oracle.config, [(4, 8), (8, 4)], "16x", 20, seed=1),
        make_prompt(oracle.config, [], "16x", 70, seed=2),
        make_prompt(oracle.config, [(2, 6)], "4x", 1, seed=3),
        make_prompt(oracle.config, [], "16x", 1, seed=4),
        *(make_prompt(oracle.config, [], "16x", 3 + 5 * i, seed=10 + i) for i in range(12)),
    ]
    requests = [request(prompt, seed) for seed, prompt in enumerate(make)]
    engine = make_engine(oracle, backend(weights), prefill_chunk=32)
    seen = record(engine)
    together = answer(engine, requests, seen)
    for i in (0, 1, 2, 3, 9):
        (alone,) = answer(engine, [requests[i]], seen)
        np.testing.assert_array_equal(alone, together[i])
    some = answer(engine, requests[1:6], seen)
    for a, b in zip(some, together[1:6], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif("plaintiles" not in _native.usable_isas(for_tests=True), reason="needs AVX-512 with BF16")
@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_tiles_answer_alike_alone_and_in_a_batch(oracle: Oracle, weights: str) -> None:
    """A request alone, whose decoding has few rows and no tiles, and among others, whose prompts do."""
    engine = make_engine(oracle, backend(weights, "plaintiles"), prefill_chunk=64)
    requests = [request(make_prompt(oracle.config, [], "16x", 3 + 5 * i, seed=i), i) for i in range(20)]
    seen = record(engine)
    together = answer(engine, requests, seen)
    for i in (0, 7, 19):
        np.testing.assert_array_equal(answer(engine, [requests[i]], seen)[0], together[i])


@pytest.mark.parametrize("weights", [*WEIGHTS, "exact"])
def test_long_decoding_does_not_drift(oracle: Oracle, weights: str) -> None:
    """After 2,000 single steps the logits are those of prefilling the same tokens."""
    engine = make_engine(oracle, backend(weights))
    seen = record(engine)
    prompt = make_prompt(oracle.config, [], "16x", 5, seed=6)
    number = engine.add(request(prompt, 1, 2001))
    sequence = engine.sequences[number]
    while engine.scheduler.waiting or engine.scheduler.running:
        engine.step()
    ids = np.concatenate([prompt.ids, np.array(sequence.output[:-1], np.int32)])
    read = engine.prompt_logits(Prompt(ids, (), (), ""))[len(prompt.ids) - 1 :]
    decoded = np.stack(seen[number])
    assert decoded.shape == read.shape == (2001, oracle.config.text.vocab_size)
    error = np.linalg.norm(decoded - read, axis=1) / np.linalg.norm(read, axis=1)
    if weights == "exact":
        assert error.max() < 1e-4
        return
    # The codes of an activation may fall on either side of a step of 1/127: such differences come and go, small.
    early, late = error[:400].mean(), error[-400:].mean()
    assert late < 0.05, (early, late)
    assert late < 1.5 * early + 0.002, (early, late)


@pytest.mark.parametrize("isa", [None, "plaintiles"])
@pytest.mark.parametrize(("weights", "limit"), [("int8", 0.15), ("int4", 0.8), ("bf16", 0.03)])
def test_close_to_exact(
    oracle: Oracle, weights: str, limit: float, isa: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative error of logits and features; the tiny random model amplifies every rounding."""
    if isa:
        if isa not in _native.usable_isas(for_tests=True):
            pytest.skip(f"this processor cannot run {isa}")
        monkeypatch.setenv("POCKETVLM_ISA", isa)
    exact, fast = (make_engine(oracle, backend(which)) for which in ("exact", weights))
    prompt = make_prompt(oracle.config, [], "16x", 60, seed=5)
    a, b = exact.prompt_logits(prompt), fast.prompt_logits(prompt)
    assert np.linalg.norm(a - b) < limit * np.linalg.norm(a)
    assert (a != b).any() or (weights == "bf16" and not has_bfloat16())
    views = make_prompt(oracle.config, [(8, 8), (4, 8)], "16x", 1, seed=5).views
    x, y = (np.concatenate(engine.runner.encode(views)) for engine in (exact, fast))
    assert np.linalg.norm(x - y) < 0.05 * np.linalg.norm(x)
