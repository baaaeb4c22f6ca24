"""Regular expressions and choices: exactly their texts."""

from __future__ import annotations

import re

import pytest
from guided_kit import END_IDS, TOKENIZER, allowed, fits, follows, write
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.errors import OptionError
from pocketvlm.guided import Grammar, GrammarConstraint, Grammars


def everything(grammar: Grammar) -> set[bytes]:
    """All texts of a grammar that has few."""
    found = set()
    paths: list[tuple[int, ...]] = [()]
    while paths:
        path = paths.pop()
        constraint = grammar.constraint()
        for token_id in path:
            constraint.accept(token_id)
        for token_id in allowed(constraint):
            if token_id in END_IDS:
                found.add(b"".join(map(TOKENIZER.token_bytes, path)))
            else:
                paths.append((*path, token_id))
    return found


@settings(max_examples=60, deadline=None)
@given(choices=st.lists(st.text(max_size=8), min_size=1, max_size=5))
def test_choices_are_exact(grammars: Grammars, choices: list[str]) -> None:
    assert everything(grammars.choice(choices)) == {text.encode() for text in choices}


@pytest.mark.parametrize(
    "choices",
    [
        ["yes", "no", "yesterday"],
        ["", "a"],
        ['"', "\\", "/", "a//b", "# x", "\n", "\0\t"],
        # Composed and not: the tokenizer would make both the first.
        ["\u00e9", "e\u0301"],
        ["e\u0301"],
        ["<think>", "</tool_call>", "<|im_end|>"],
    ],
)
def test_choices_that_are_prefixes_or_look_like_something_else(grammars: Grammars, choices: list[str]) -> None:
    assert everything(grammars.choice(choices)) == {text.encode() for text in choices}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "pattern",
    [
        r"[A-Z][a-z]{2,6} \d{4}",
        r"^(yes|no)(, \w+)?$",
        r"a/b|\"c\"|[\w-]{1,9}@\w{1,9}\.(com|org)",
        r"(?i)maybe\s?",
        r"(?s)<a>.{0,20}</a>",
        "line\nbreak|ü+",
    ],
)
def test_draws_match_the_whole_pattern(grammars: Grammars, pattern: str, seed: int) -> None:
    whole = re.compile(pattern)
    write(grammars.regex(pattern), seed, lambda text: whole.fullmatch(text) is not None, long=20)


@pytest.mark.parametrize(
    ("pattern", "right", "wrong"),
    [
        (r"\d+", ["7", "0123"], ["", "7a", "٣"]),
        (r"a|bc*", ["a", "b", "bcc"], ["ab", "c"]),
        (r"^ab$", ["ab"], ["a", "^ab$"]),
        (r"(cat|dog)( and (cat|dog))*", ["cat", "dog and cat and cat"], ["cat and", "catdog"]),
        (r".*", ["", "any thing"], ["two\nlines"]),
        ("", [""], ["a"]),
    ],
)
def test_patterns_take_and_refuse(grammars: Grammars, pattern: str, right: list[str], wrong: list[str]) -> None:
    grammar = grammars.regex(pattern)
    assert [text for text in [*right, *wrong] if fits(grammar, text)] == right
    # What the tokenizer writes for them is allowed too.
    assert all(follows(grammar, text) for text in right)


def test_text_after_thinking(grammars: Grammars) -> None:
    grammar = grammars.choice(["yes", "no"], thinking=True)
    assert follows(grammar, "so\n</think>\n\nyes")
    assert follows(grammar, "</think>\n\nno")
    assert not follows(grammar, "yes")
    assert not follows(grammar, "so</think>yes")
    constraint = grammar.constraint()
    for token_id in TOKENIZER.encode_plain("</think"):
        constraint.accept(token_id)
    assert TOKENIZER.encode_plain(">")[0] not in allowed(constraint), "only the control token ends the thought"


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(a", "unclosed group"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "backreferences"),
        (r"\bword", "lookarounds"),
        ("a^b", "lookarounds"),
        ("abc\\", "single backslash"),
        ("[^\\s\\S]", "nothing satisfies"),
        ("\ud800", "not JSON"),
        ("a" * 9000, "at most 8192"),
    ],
)
def test_patterns_that_are_refused(grammars: Grammars, pattern: str, text: str) -> None:
    with pytest.raises(OptionError, match=f"regex.*{text}"):
        grammars.regex(pattern)


@pytest.mark.parametrize(
    ("choices", "text"),
    [([], "at least one"), ("yes", "list of texts"), (["a", 1], "list of texts"), (["a" * 70000], "at most 65536")],
)
def test_choices_that_are_refused(grammars: Grammars, choices: list[str], text: str) -> None:
    with pytest.raises(OptionError, match=f"^choice.*{text}"):
        grammars.choice(choices)


def test_a_constraint_names_what_it_refuses(grammars: Grammars) -> None:
    constraint: GrammarConstraint = grammars.choice(["yes"]).constraint()
    with pytest.raises(ValueError, match="token 1 is not allowed here"):
        constraint.accept(1)
    with pytest.raises(ValueError, match="guided output cannot go on"):
        constraint.mask()
    assert not constraint.finished
    for wrong in (-1, 10**9):
        with pytest.raises(ValueError, match=f"no token {wrong}"):
            grammars.choice(["yes"]).constraint().accept(wrong)


def test_forced_tokens_are_the_tokenizers_own(grammars: Grammars) -> None:
    constraint = grammars.choice(["basketball and guitar"]).constraint()
    assert constraint.forced() == TOKENIZER.encode_plain("basketball and guitar")
    for token_id in constraint.forced():
        assert allowed(constraint) == [token_id]
        constraint.accept(token_id)
    assert constraint.finished
    assert constraint.forced() == []
