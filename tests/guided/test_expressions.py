"""Expressions of requests against texts: in linear time, and with an error in one sentence."""

from __future__ import annotations

import pytest

from pocketvlm.errors import OptionError
from pocketvlm.guided.expressions import matches


@pytest.mark.parametrize(
    ("pattern", "text", "wanted"),
    [
        ("b", "abc", True),
        ("^b", "abc", False),
        (r"^\d+\/\w$", "12/a", True),
        (r"^\w$", "é", False),
        (r"^(?:[\n ]?)$", "\n", True),
        ("^$", "", True),
        ("^(a|a)*$", "a" * 100 + "!", False),
        ("(" * 20 + r"\s*" + ")*" * 20 + "x", "\n  ", False),
    ],
)
def test_whether_an_expression_matches(pattern: str, text: str, wanted: bool) -> None:
    assert matches(pattern, text) is wanted


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "(" * 3000 + ")" * 3000, "(a{1000}){1000}", "x" * 9000])
def test_bad_expressions(pattern: str) -> None:
    with pytest.raises(OptionError) as raised:
        matches(pattern, "a")
    assert 0 < len(str(raised.value)) < 200
    assert "\n" not in str(raised.value)
