"""Metrics of texts against values worked out by hand, and properties that they have for any text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.scoring.texts import anls, contains, exact, levenshtein, normalized

TEXT = st.text(max_size=12)
FEW_LETTERS = st.text("ab ", max_size=8)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("Paris", "paris", 1),
        ("  Paris.\n", "Paris", 1),
        ("New  York", "new york", 1),
        ("是的。", "是的", 1),
        ("cafe\u0301", "caf\u00e9", 1),
        ("Straße", "STRASSE", 1),
        ("3.5", "35", 0),
        ("Paris..", "Paris", 0),
        ("Paris", "Paris, France", 0),
        (".", "", 1),
    ],
)
def test_exact(answer: str, reference: str, score: float) -> None:
    assert exact(answer, reference) == score


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("The answer is 12.", "12", 1),
        ("125 or 12", "12", 1),
        ("It is 125.", "12", 0),
        ("covered", "red", 0),
        ("a RED, round thing", "red", 1),
        ("a red round thing", "Red round.", 1),
        ("一只猫在这里", "猫", 1),
        ("แมวดำ", "ดำ", 1),
        ("$5.00", "5.00", 1),
        ("anything", "", 0),
        ("", "a", 0),
    ],
)
def test_contains(answer: str, reference: str, score: float) -> None:
    assert contains(answer, reference) == score


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("Hello", "hello", 1),
        ("hallo", "hello", 0.8),
        ("abc", "abd", 2 / 3),
        ("ab", "ac", 0),  # half of the characters: the threshold
        ("kitten", "sitting", 1 - 3 / 7),
        ("", "", 1),
        ("", "a", 0),
        ("  two  words ", "two words", 1),
        ("a", "a long text", 0),
    ],
)
def test_anls(answer: str, reference: str, score: float) -> None:
    assert anls(answer, reference) == pytest.approx(score)


@pytest.mark.parametrize(
    ("first", "second", "edits"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2), ("saturday", "sunday", 3), ("same", "same", 0)],
)
def test_levenshtein(first: str, second: str, edits: int) -> None:
    assert levenshtein(first, second) == edits


def slow_levenshtein(first: str, second: str) -> int:
    """The recursive definition."""
    if not first or not second:
        return len(first) + len(second)
    return min(
        slow_levenshtein(first[1:], second) + 1,
        slow_levenshtein(first, second[1:]) + 1,
        slow_levenshtein(first[1:], second[1:]) + (first[0] != second[0]),
    )


@settings(max_examples=40)
@given(st.text("ab", max_size=4), st.text("ab", max_size=4))
def test_levenshtein_is_its_definition(first: str, second: str) -> None:
    assert levenshtein(first, second) == slow_levenshtein(first, second)


@settings(max_examples=40)
@given(TEXT, TEXT, TEXT)
def test_levenshtein_is_a_distance(first: str, second: str, third: str) -> None:
    assert (levenshtein(first, second) == 0) == (first == second)
    assert levenshtein(first, second) == levenshtein(second, first)
    assert levenshtein(first, third) <= levenshtein(first, second) + levenshtein(second, third)


@given(TEXT, TEXT)
def test_scores_are_shares_and_a_text_is_its_own_answer(answer: str, reference: str) -> None:
    assert anls(answer, reference) == 0 or 0.5 < anls(answer, reference) <= 1
    assert exact(reference, reference) == anls(reference, reference) == 1
    assert contains(reference, reference) == bool(normalized(reference))


@given(FEW_LETTERS, FEW_LETTERS)
def test_an_exact_match_contains_the_reference(answer: str, reference: str) -> None:
    if normalized(reference):
        assert exact(answer, reference) <= contains(answer, reference)
        assert exact(answer, reference) <= anls(answer, reference)


@given(TEXT)
def test_normalizing_twice_is_normalizing_once_but_for_full_stops(text: str) -> None:
    once = normalized(text)
    assert once == once.strip()
    if not once.endswith((".", "。", "．", "｡")):
        assert normalized(once) == once
