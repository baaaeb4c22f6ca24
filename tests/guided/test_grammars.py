"""The grammars as a whole: cached by content, independent of each other, and safe from hostile input."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from guided_kit import END_IDS, VOCAB, allowed, fits, write

from pocketvlm.errors import OptionError
from pocketvlm.guided import Grammars
from pocketvlm.guided import grammars as module
from pocketvlm.processor import Tokenizer


def test_the_vocabulary_is_what_tokens_stand_for(tokenizer: Tokenizer) -> None:
    words = tokenizer.vocabulary(VOCAB)
    assert words == [tokenizer.token_bytes(token_id) for token_id in range(VOCAB)]
    assert tokenizer.vocabulary(7) == words[:7]


def test_equal_grammars_are_compiled_once(grammars: Grammars) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}}
    turned = {"type": "object", "properties": {"b": {"const": 2}, "a": {"const": 1}}}
    assert grammars.json_schema(schema) is grammars.json_schema(dict(schema))
    assert grammars.json_schema(schema) is not grammars.json_schema(turned), "the order of properties counts"
    assert grammars.json_schema(schema) is not grammars.json_schema(schema, thinking=True)


def test_only_the_last_ones_are_cached(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHED", 2)
    first = grammars.choice(["first"])
    second = grammars.choice(["second"])
    assert grammars.choice(["first"]) is first
    grammars.choice(["third"])
    assert grammars.choice(["first"]) is first
    assert grammars.choice(["second"]) is not second
    assert len(grammars._cache) == 2


def test_sequences_do_not_share_their_place(grammars: Grammars) -> None:
    grammar = grammars.regex("[ab]{3}c")
    one, two = grammar.constraint(), grammar.constraint()
    before = two.mask().copy()
    one.accept(next(token_id for token_id in allowed(one)))
    assert np.array_equal(two.mask(), before)
    assert one.mask() is not two.mask()


def test_many_threads(grammars: Grammars) -> None:
    def work(seed: int) -> str:
        return write(grammars.json_schema({"type": "integer", "minimum": seed % 3, "maximum": 9}), seed)

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(work, range(32)))
    assert texts == [work(seed) for seed in range(32)]
    assert all(seed % 3 <= int(text) <= 9 for seed, text in enumerate(texts))


@pytest.mark.parametrize(
    ("end_ids", "vocab_size", "text"),
    [
        ((), VOCAB, "that end an answer"),
        ((VOCAB,), VOCAB, "that end an answer"),
        (END_IDS, VOCAB - 50, "the model only"),
    ],
)
def test_sizes_that_do_not_fit(tokenizer: Tokenizer, end_ids: tuple[int, ...], vocab_size: int, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        Grammars(tokenizer, end_ids, vocab_size).prepare()


def test_without_the_library(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    made = Grammars(tokenizer, END_IDS, VOCAB)
    for ask in (made.prepare, made.json_object, lambda: made.regex("a"), lambda: made.choice(["a"])):
        with pytest.raises(OptionError, match=r'pip install "pocketvlm\[serve\]"'):
            ask()


def chain(link: Any, length: int) -> dict[str, Any]:
    """Definitions that refer to one another, one after the other."""
    definitions = {f"d{number}": link({"$ref": f"#/$defs/d{number + 1}"}) for number in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{length}": {"type": "object"}}}


def nested(length: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(length):
        schema = {"type": "array", "items": schema}
    return schema


HOSTILE = {
    "a long chain of references": chain(lambda inner: inner, 4000),
    "a long chain of objects": chain(lambda inner: {"type": "object", "properties": {"a": inner}}, 4000),
    "a long chain of choices": chain(lambda inner: {"anyOf": [inner, {"type": "null"}]}, 3000),
    "a long chain of sums": chain(lambda inner: {"allOf": [inner, {"type": "object"}]}, 3000),
    "products without end": {"allOf": [{"type": "integer", "multipleOf": prime} for prime in (9973, 9967, 9949, 9941)]},
    "a large divisor": {"type": "integer", "multipleOf": 999_999_937},
    "a grammar that explodes": {
        "allOf": [{"anyOf": [{"properties": {f"a{one}": {"const": two}}} for two in range(3)]} for one in range(14)]
    },
    "thousands of optional properties": {
        "type": "object",
        "properties": {f"property{number}": {"type": "string"} for number in range(5000)},
    },
    "deep nesting": nested(500),
    "deeper nesting": nested(100_000),
    "a large schema": {"enum": ["x" * 300_000]},
}
HOSTILE_PATTERNS = [
    "(a{1000}){1000}",
    "((((((a{10}){10}){10}){10}){10}){10})",
    "a{4294967295}",
    "(" * 4000 + ")" * 4000,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_are_refused_and_harm_nobody(grammars: Grammars, name: str) -> None:
    with pytest.raises(OptionError, match=r"^json schema"):
        grammars.json_schema(HOSTILE[name])
    assert fits(grammars.json_schema({"const": name}), f'"{name}"')


@pytest.mark.parametrize("pattern", HOSTILE_PATTERNS, ids=[pattern[:20] for pattern in HOSTILE_PATTERNS])
def test_hostile_patterns_are_refused(grammars: Grammars, pattern: str) -> None:
    with pytest.raises(OptionError, match=r"^regex"):
        grammars.regex(pattern)


@pytest.mark.parametrize("pattern", [r"(a|aa)+b", r"(.*a){25}", r"(a|b)*a(a|b){200}", r"(\w\W\d\D){300}"])
def test_patterns_that_hurt_other_engines_work(grammars: Grammars, pattern: str) -> None:
    constraint = grammars.regex(pattern).constraint()
    for _ in range(100):
        ids = [token_id for token_id in allowed(constraint) if token_id not in END_IDS]
        if not ids:
            break
        constraint.accept(ids[0])


def test_a_step_that_costs_too_much_ends_the_sequence_alone(grammars: Grammars) -> None:
    schema = {"type": "string", "pattern": "^(.*a){200}$", "maxLength": 1000}
    constraint = grammars.json_schema(schema).constraint()

    def go_on() -> None:
        for _ in range(50):
            constraint.accept(allowed(constraint)[-1])

    with pytest.raises(ValueError, match="guided output cannot go on: "):
        go_on()
    assert fits(grammars.choice(["a"]), "a")


def test_the_helper_process_is_started_again(tokenizer: Tokenizer) -> None:
    made = Grammars(tokenizer, END_IDS, VOCAB)
    made.choice(["a"])
    process = made._trial._process
    assert process is not None
    process.kill()
    process.wait()
    assert fits(made.choice(["b"]), "b")
    made.close()
    made.close()
    assert fits(made.choice(["c"]), "c")
    made.close()


def test_a_helper_that_cannot_run_is_not_the_grammars_fault(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Grammars(tokenizer, END_IDS, VOCAB)
    made.prepare()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="helper process of guided output ended with 1"):
        made.choice(["a"])
