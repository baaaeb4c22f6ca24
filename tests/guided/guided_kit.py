"""Writes random answers under a grammar, and looks at every mask on the way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

import pocketvlm
from pocketvlm.guided import Grammar, GrammarConstraint
from pocketvlm.processor import Tokenizer

TOKENIZER = Tokenizer.from_files(Path(pocketvlm.__file__).parent / "nano" / "tokenizer.json")
END_IDS = tuple(TOKENIZER.token_id(text) for text in ("<|endoftext|>", "<|im_end|>"))
# Not a multiple of 32, and more than there are tokens.
VOCAB = TOKENIZER.vocab_size + 45
CONTROL = frozenset(TOKENIZER.control_ids.values())
CLOSING = "\n</parameter>\n"


class EndlessError(AssertionError):
    """A text that did not end: a random walk through a recursive schema may go on for long."""


def allowed(constraint: GrammarConstraint) -> list[int]:
    """The ids of a mask, after a look at those that can never be in it."""
    mask = constraint.mask()
    assert mask.dtype == np.uint32
    assert mask.shape == ((VOCAB + 31) // 32,)
    ids = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
    assert ids
    assert all(TOKENIZER.token_bytes(token_id) for token_id in ids)
    ends = set(END_IDS) & set(ids)
    assert ends in (set(), set(END_IDS))
    return ids


def write(
    grammar: Grammar,
    seed: int,
    complete: Callable[[str], bool] | None = None,
    controls: Iterable[str] = (),
    long: int = 60,
    max_tokens: int = 4000,
) -> str:
    """A random answer; after `long` tokens whatever closes something is preferred.

    Fails where an end id is allowed although the text is not complete, or another control token than those named, and
    with `EndlessError` after `max_tokens` tokens.
    """
    draw = random.Random(seed)
    may = {TOKENIZER.token_id(text) for text in controls}
    constraint = grammar.constraint()
    ids: list[int] = []
    while True:
        choice = allowed(constraint)
        ends = set(END_IDS).intersection(choice)
        assert CONTROL.intersection(choice) - ends <= may
        text = TOKENIZER.decode(ids, skip_special_tokens=False)
        assert not constraint.finished or set(choice) == ends  # a number may end before the library knows
        if ends:
            assert complete is None or complete(text), text
            if set(choice) == ends or len(ids) > long or draw.random() < 0.3:
                constraint.accept(draw.choice(END_IDS))
                assert constraint.finished
                return text
        token_id = draw.choice([one for one in choice if one not in ends])
        if len(ids) > long:
            token_id = draw.choice([one for one in closers(text) if one in choice] or [token_id])
        if len(ids) >= max_tokens:
            raise EndlessError(text[-200:])
        constraint.accept(token_id)
        ids.append(token_id)


def closers(text: str) -> list[int]:
    """Tokens that lead to an end: the rest of a closing tag, else what closes texts, objects, lists and patterns."""
    done = next((size for size in range(len(CLOSING) - 1, 0, -1) if text.endswith(CLOSING[:size])), 0)
    if done > 1:
        return TOKENIZER.encode_plain(CLOSING[done])
    marks = [TOKENIZER.token_id(mark) for mark in ("</think>", "</tool_call>")]
    return marks + [TOKENIZER.encode_plain(char)[0] for char in '"}],\n<abc12']


def follows(grammar: Grammar, text: str) -> bool:
    """Whether a text, as the tokenizer writes it, is a whole answer."""
    constraint = grammar.constraint()
    for token_id in [*TOKENIZER.encode_template(text), END_IDS[-1]]:
        if token_id not in allowed(constraint):
            return False
        constraint.accept(token_id)
    return True


def fits(grammar: Grammar, text: str) -> bool:
    """Whether a text, byte for byte, is a whole answer, as far as single bytes are not forced to be longer tokens."""
    constraint = grammar.constraint()
    rest = text.encode()
    while rest:
        choice = [one for one in allowed(constraint) if rest.startswith(TOKENIZER.token_bytes(one))]
        if not choice:
            return False
        token_id = min(choice, key=lambda one: len(TOKENIZER.token_bytes(one)))
        rest = rest[len(TOKENIZER.token_bytes(token_id)) :]
        constraint.accept(token_id)
    return END_IDS[0] in allowed(constraint)
