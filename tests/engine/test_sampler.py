"""Sampling against transformers' logits processors and against plain counting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pocketvlm.backends import create
from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.top import largest
from pocketvlm.engine.request import Request, Sequence
from pocketvlm.engine.sampler import (
    LogitsRow,
    allowed_tokens,
    candidates,
    inverse_cdf,
    log_probabilities,
    penalise,
    sample,
    sample_token,
)
from pocketvlm.errors import OptionError
from pocketvlm.types import Prompt, SamplingParams

VOCAB = 40


def row(seed: int, vocab: int = VOCAB) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, vocab).astype(np.float32)


def on(logits: np.ndarray, backend: AnyBackend | None = None) -> LogitsRow:
    """The logits as the second row of a step on a backend."""
    backend = backend or create("native", threads=1)
    return LogitsRow(backend, backend.from_numpy(np.stack([-logits, logits])), 1)


def sequence(output: list[int] | None = None, eos: tuple[int, ...] = (), **params: Any) -> Sequence:
    prompt = Prompt(np.array([1, 2, 3], dtype=np.int32), (), (), "")
    chosen = SamplingParams(**params)
    state = Sequence(0, Request(prompt, chosen, eos), chosen.max_tokens, np.random.default_rng(chosen.seed))
    state.output = output or []
    return state


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.2, 3),
    top_k=st.integers(0, VOCAB + 5),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 0.5),
    vocab=st.sampled_from([VOCAB, 5000, 20011]),
)
def test_candidates_equal_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, vocab: int
) -> None:
    logits = row(seed, vocab)
    chain = [TemperatureLogitsWarper(temperature)]
    chain += [TopKLogitsWarper(top_k)] if top_k else []
    chain += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    chain += [MinPLogitsWarper(min_p)] if min_p else []
    scores = LogitsProcessorList(chain)(
        torch.zeros(1, 1, dtype=torch.long), torch.from_numpy(logits.astype(float))[None]
    )
    reference = scores.softmax(-1)[0].numpy()
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    ids, weights = candidates(logits, params)
    ours = np.zeros(vocab)
    ours[ids] = weights
    assert np.abs(ours - reference).max() < 1e-9


@pytest.mark.parametrize("count", [1, 7, 50, 400, 5000, 6000])
@pytest.mark.parametrize("vocab", [41, 5000])
def test_largest_equals_sorting(count: int, vocab: int) -> None:
    logits = row(3, vocab).round(2)  # some are equal
    threshold = np.sort(logits)[::-1][min(count, vocab) - 1]
    assert (largest(logits, count) == np.flatnonzero(logits >= threshold)).all()


@pytest.mark.parametrize("count", [1, 3, 4096, 5000, 20011])
def test_inverse_cdf_inverts_the_running_sum(count: int) -> None:
    random = np.random.default_rng(count)
    weights = random.random(count) * (random.random(count) < 0.3)
    weights[count // 2] = 1.0
    ends = np.cumsum(weights) / weights.sum()
    for point in [0.0, 1 - 2**-53, *random.random(200)]:
        index = inverse_cdf(weights, point)
        assert weights[index] > 0
        assert (ends[index - 1] if index else 0.0) - 1e-12 <= point <= ends[index] + 1e-12


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_equals_transformers(penalty: float) -> None:
    logits = row(1)
    seen = torch.tensor([[1, 2, 3, 9, 9, 30]])
    reference = RepetitionPenaltyLogitsProcessor(penalty)(seen, torch.from_numpy(logits.copy())[None])[0].numpy()
    params = SamplingParams(repetition_penalty=penalty)
    ours = penalise(logits, np.array([1, 2, 3], dtype=np.int32), [9, 9, 30], params)
    assert np.allclose(ours, reference, atol=1e-6)


@pytest.mark.parametrize("penalty", [1e-300, 1e-45, 99.9])
@pytest.mark.parametrize("more", [{"min_p": 0.1, "top_k": 20}, {"top_p": 0.9}, {"temperature": 1e-300}])
def test_an_extreme_penalty_leaves_numbers(penalty: float, more: dict[str, float]) -> None:
    params = SamplingParams(repetition_penalty=penalty, **more)
    logits = penalise(row(1) * 40, np.array([1, 2, 3], dtype=np.int32), [9, 9, 30], params)
    assert np.isfinite(logits).all()
    ids, weights = candidates(logits, params)
    assert len(ids)
    assert np.isfinite(weights).all()
    assert abs(weights.sum() - 1) < 1e-6


def test_presence_and_frequency_count_the_output_only() -> None:
    logits = np.zeros(VOCAB, dtype=np.float32)
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    ours = penalise(logits, np.array([1, 2], dtype=np.int32), [5, 5, 6], params)
    assert ours[5] == -1.0
    assert ours[6] == -0.75
    assert ours[1] == 0.0
    assert not logits.any()


def test_samples_follow_the_distribution_and_the_seed() -> None:
    logits = row(2)
    state = sequence(temperature=1.0, seed=4)
    sampled = [sample(logits, state) for _ in range(20_000)]
    share = np.bincount(sampled, minlength=VOCAB) / len(sampled)
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert np.abs(share - expected).max() < 0.015
    again = sequence(temperature=1.0, seed=4)
    assert [sample(logits, again) for _ in range(50)] == sampled[:50]
    other = sequence(temperature=1.0, seed=5)
    assert [sample(logits, other) for _ in range(50)] != sampled[:50]


def test_greedy_and_min_tokens() -> None:
    logits = row(3)
    best = int(logits.argmax())
    assert sample(logits, sequence(temperature=0)) == best
    early = sequence(eos=(best,), temperature=0, min_tokens=2)
    assert sample(logits, early) != best
    late = sequence(output=[1], eos=(best,), temperature=0, min_tokens=2)
    assert sample(logits, late) == best


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", -2),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("presence_penalty", 3),
        ("max_tokens", 0),
        ("min_tokens", 5000),
        ("seed", -1),
        ("stop", ("",)),
    ],
)
def test_values_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=name):
        SamplingParams(**{name: value})


class Among:
    """A constraint: one of these tokens, `count` times."""

    def __init__(self, allowed: set[int], count: int = 1, vocab: int = VOCAB) -> None:
        self.allowed, self.left, self.vocab = allowed, count, vocab
        self.seen: list[int] = []

    def mask(self) -> np.ndarray:
        words = np.zeros(-(-self.vocab // 32), np.uint32)
        for token in self.allowed:
            words[token // 32] |= np.uint32(1 << token % 32)
        return words

    def accept(self, token_id: int) -> None:
        if token_id not in self.allowed:
            raise ValueError(token_id)
        self.seen.append(token_id)
        self.left -= 1

    @property
    def finished(self) -> bool:
        return self.left == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_a_constraint_holds_and_takes_note(temperature: float) -> None:
    allowed = {3, 31, 32, 39}
    state = sequence(temperature=temperature, seed=1, top_p=0.9)
    state.constraint = constraint = Among(allowed, 30)
    sampled = [sample_token(on(row(seed)), state) for seed in range(30)]
    assert {token.id for token in sampled} <= allowed
    assert constraint.seen == [token.id for token in sampled]
    assert [token.closes for token in sampled] == [False] * 29 + [True]
    if temperature == 0.0:
        assert all(token.id == max(allowed, key=lambda t: row(s)[t]) for s, token in enumerate(sampled))


def test_a_constraint_takes_no_note_of_an_end_id_and_a_constraint_outweighs_min_tokens() -> None:
    state = sequence(eos=(7,), temperature=0.0, min_tokens=5)
    state.constraint = constraint = Among({7, 9}, 3)
    assert sample_token(on(row(1)), state).id == 9
    state.constraint = constraint = Among({7}, 3)
    assert sample_token(on(row(1)), state).id == 7
    assert constraint.seen == []


def test_masks_shorter_and_longer_than_the_vocabulary() -> None:
    full = np.full(2, 0xFFFFFFFF, np.uint32)
    assert allowed_tokens(full, 70).tolist() == [True] * 64 + [False] * 6
    assert allowed_tokens(full, 40).tolist() == [True] * 40


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 20), vocab=st.sampled_from([VOCAB, 5000]))
def test_log_probabilities_are_those_of_the_raw_logits(seed: int, count: int, vocab: int) -> None:
    logits = row(seed, vocab)
    expected = torch.log_softmax(torch.from_numpy(logits).double(), 0)
    state = sequence(seed=seed, logprobs=count, logit_bias=((3, 5.0),), repetition_penalty=1.3)
    sampled = sample_token(on(logits.copy()), state)
    assert sampled.logprob is not None
    assert sampled.logprob.token_id == sampled.id
    assert sampled.logprob.logprob == pytest.approx(float(expected[sampled.id]), abs=1e-6)
    values, ids = expected.topk(count)
    assert [token for token, _ in sampled.logprob.top] == ids.tolist()
    np.testing.assert_allclose([value for _, value in sampled.logprob.top], values.numpy(), atol=1e-6)
    assert sample_token(on(logits), sequence(seed=seed)).logprob is None


def test_equal_logits_are_reported_by_id_and_only_as_many_as_asked() -> None:
    assert [t for t, _ in log_probabilities(np.zeros(9, np.float32), 0, 3).top] == [0, 1, 2]


def test_logit_bias_changes_the_sampled_token() -> None:
    logits = row(5)
    assert sample(logits, sequence(temperature=0.0, logit_bias=((11, 100.0), (999_999, 50.0)))) == 11
    best = int(logits.argmax())
    assert sample(logits, sequence(temperature=0.0, logit_bias=((best, -100.0),))) == int(np.argsort(-logits)[1])
    for name, bad in (("logit_bias", ((1, 101.0),)), ("logit_bias", ((-1, 0.0),)), ("logprobs", 21), ("logprobs", -1)):
        with pytest.raises(OptionError, match=name):
            SamplingParams(**{name: bad})


@pytest.mark.parametrize("vocab", [VOCAB, 5000])
@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"temperature": 1.2, "top_k": 7},
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 1.0, "top_k": VOCAB},
        {"temperature": 0.0, "repetition_penalty": 1.3},
        {"temperature": 0.0, "logit_bias": ((3, 50.0),)},
        {"temperature": 1.0, "top_k": 5, "logprobs": 2},
        {"temperature": 0.0, "min_tokens": 3},
    ],
)
def test_a_backend_samples_as_the_whole_row_does(ops: AnyBackend, params: dict[str, Any], vocab: int) -> None:
    for seed in range(20):
        logits = row(seed, vocab).round(1)  # some are equal
        whole, there = (sequence(seed=seed, eos=(5,), **params) for _ in range(2))
        wanted = [sample(logits, whole) for _ in range(5)]
        assert [sample_token(on(logits, ops), there).id for _ in range(5)] == wanted


def test_only_what_needs_it_takes_the_whole_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: LogitsRow) -> None:
        raise AssertionError("the whole row")

    monkeypatch.setattr(LogitsRow, "whole", refuse)
    for params in ({"temperature": 0.0}, {"temperature": 1.0, "top_k": 4}):
        sample_token(on(row(1)), sequence(**params))
    for params in (
        {"temperature": 1.0},
        {"temperature": 0.0, "logprobs": 0},
        {"temperature": 0.0, "presence_penalty": 1},
    ):
        with pytest.raises(AssertionError, match="whole row"):
            sample_token(on(row(1)), sequence(**params))
