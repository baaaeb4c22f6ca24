"""KL divergence, top-1 agreement and errors of rows, against SciPy-free textbook formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest

from pocketvlm.quantize.divergence import Divergence, RowError, compare_rows, counted_positions, kl_divergence

RANDOM = np.random.default_rng(0)


def plain_kl(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """The definition, a row at a time."""
    found = []
    for a, b in zip(reference.astype(np.float64), candidate.astype(np.float64), strict=True):
        log_p, log_q = (x - np.logaddexp.reduce(x) for x in (a, b))
        found.append(float(np.sum(np.exp(log_p) * (log_p - log_q))))
    return np.array(found)


def test_the_divergence_is_that_of_the_definition() -> None:
    a = RANDOM.standard_normal((7, 301), np.float32) * 8
    b = a + RANDOM.standard_normal((7, 301), np.float32)
    np.testing.assert_allclose(kl_divergence(a, b), plain_kl(a, b), rtol=1e-9, atol=1e-12)
    # The reference's probabilities come first: the other order gives something else.
    assert not np.allclose(kl_divergence(a, b), kl_divergence(b, a), rtol=1e-2)


def test_small_divergences_of_large_logits_are_exact() -> None:
    a = RANDOM.standard_normal((4, 5000), np.float32) + 1000
    b = a.copy()
    b[:, 0] += 0.01
    np.testing.assert_allclose(kl_divergence(a, b), plain_kl(a, b), rtol=1e-2)
    assert kl_divergence(a, a).max() == 0
    assert kl_divergence(a, a + 3).max() < 1e-12  # softmax does not see a shift


def test_logits_that_are_no_numbers_give_no_number() -> None:
    a = RANDOM.standard_normal((3, 40), np.float32)
    b = a.copy()
    b[1, 5] = np.nan
    found = kl_divergence(a, b)
    assert np.isfinite(found).tolist() == [True, False, True]


def test_rows_are_compared_in_chunks_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from pocketvlm.quantize import divergence

    vocabulary, rows = 50, RANDOM.standard_normal((23, 50), np.float32)
    other = rows + RANDOM.standard_normal(rows.shape, np.float32) * 0.5
    monkeypatch.setattr(divergence, "_ROWS_BYTES", 4 * vocabulary * 5)
    monkeypatch.setattr(divergence, "_CHUNK", vocabulary * 2)
    sizes, steps = [], []

    def logits(some: np.ndarray) -> np.ndarray:
        sizes.append(len(some))
        return some

    values, agrees = compare_rows(rows, other, logits, logits, vocabulary, 2, steps.append)
    np.testing.assert_allclose(values, plain_kl(rows, other), rtol=1e-9, atol=1e-12)
    assert agrees.tolist() == (rows.argmax(-1) == other.argmax(-1)).tolist()
    assert 0 < agrees.sum() < len(rows)
    assert max(sizes) == 5
    assert steps == [5, 10, 15, 20, 23]


def test_the_summary_has_mean_quantiles_and_share() -> None:
    values = np.arange(101, dtype=np.float64)
    found = Divergence.of(values, np.arange(101) < 25)
    assert (found.positions, found.mean, found.median, found.p99, found.maximum) == (101, 50.0, 50.0, 99.0, 100.0)
    assert found.top1 == pytest.approx(25 / 101)


def test_errors_of_rows_add_up() -> None:
    a = RANDOM.standard_normal((600, 12), np.float32)
    b = a + RANDOM.standard_normal(a.shape, np.float32) * 0.1
    error = RowError()
    error.add(a[:500], b[:500])
    error.add(a[500:], b[500:])
    assert error.rows == 600
    assert error.relative == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-5)
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    assert error.cosine == pytest.approx(cosines.mean(), rel=1e-5)


def test_rows_of_zeros_have_errors_too() -> None:
    error = RowError()
    error.add(np.zeros((2, 3), np.float32), np.array([[0, 0, 0], [1, 0, 0]], np.float32))
    assert error.relative == np.inf
    assert error.cosine == 0.5
    assert RowError().relative == 0


@pytest.mark.parametrize(
    ("tokens", "placeholders", "counted"),
    [
        (5, [], [0, 1, 2, 3, 4]),
        (8, [(2, 3)], [0, 4, 5, 6, 7]),  # the last placeholder predicts the first token of text
        (6, [(0, 2)], [1, 2, 3, 4, 5]),
        (7, [(1, 2), (3, 2)], [4, 5, 6]),
        (3, [(1, 2)], [2]),
    ],
)
def test_positions_before_placeholders_do_not_count(tokens, placeholders, counted) -> None:
    assert counted_positions(tokens, placeholders).tolist() == counted
