"""Random schemas: a grammar or an OptionError, and every text under a grammar is valid under the original schema."""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import jsonschema
import pytest
from guided_kit import EndlessError, write
from hypothesis import given, settings
from hypothesis import strategies as st
from random_schemas import RandomSchemas, clean, keys_of, names_of

from pocketvlm.errors import OptionError
from pocketvlm.guided import Calls, Grammar, Grammars
from pocketvlm.parsing import AnswerParser, CallArguments

MINUTES = 10


def walk(grammar: Grammar, seed: int, *controls: str) -> str | None:
    """A random text; None for one that does not come to an end soon."""
    try:
        return write(grammar, seed, None, controls, long=30, max_tokens=1000)
    except EndlessError:
        return None


def finite(text: str) -> float:
    """A number as the validator can compute with it: one beyond float64 is the largest one."""
    return max(-sys.float_info.max, min(sys.float_info.max, float(text)))


def check(grammars: Grammars, seed: int, opened: bool) -> bool:
    """Whether a random schema has a grammar. Fails where a text under it is wrong."""
    schema = RandomSchemas(random.Random(seed), opened=opened).root()
    try:
        grammar = grammars.json_schema(schema, pretty=seed % 5 == 0)
    except OptionError:
        return False
    validator = jsonschema.Draft202012Validator(clean(schema))
    for text in (walk(grammar, seed), walk(grammar, seed + 1)):
        if text is not None:
            value = json.loads(text, parse_float=finite)
            validator.validate(value)
            assert opened or keys_of(value) <= names_of(schema)
    return True


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), opened=st.booleans())
def test_any_text_is_valid_and_has_no_invented_names(grammars: Grammars, seed: int, opened: bool) -> None:
    check(grammars, seed, opened)


def test_most_random_schemas_have_a_grammar(grammars: Grammars) -> None:
    assert sum(check(grammars, seed, seed % 2 == 0) for seed in range(60)) >= 25


def check_tool(grammars: Grammars, seed: int) -> bool:
    """The same for the arguments of a tool, as the server's parser reads them."""
    schemas = RandomSchemas(random.Random(seed), opened=False)
    root = schemas.root()
    definitions = root.pop("$defs", {})
    properties = {"p": root, "q": schemas.schema(1)}
    parameters = {"type": "object", "properties": properties, "required": ["p"], "$defs": definitions}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    try:
        grammar = grammars.tool_calls(Calls([tool], parallel=False), required=True)
    except OptionError:
        return False
    text = walk(grammar, seed, "<tool_call>", "</tool_call>")
    if text is not None:
        parser = AnswerParser(tools=[tool])
        found = [*parser.feed(text), *parser.finish()]
        arguments = json.loads("".join(one.json for one in found if isinstance(one, CallArguments)))
        jsonschema.Draft202012Validator(clean(parameters)).validate(arguments)
        assert keys_of(arguments) <= names_of(parameters)
    return True


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_random_parameters(grammars: Grammars, seed: int) -> None:
    check_tool(grammars, seed)


@pytest.mark.long
def test_random_schemas_for_ten_minutes(grammars: Grammars) -> None:
    seed = random.SystemRandom().randrange(2**40)
    print(f"first seed: {seed}")
    end, found = time.monotonic() + 60 * MINUTES, 0
    while time.monotonic() < end:
        try:
            found += check(grammars, seed, seed % 2 == 0)
            check_tool(grammars, seed)
        except BaseException:
            print(f"seed: {seed}")
            raise
        seed += 1
    assert found


def names(value: Any) -> list[str]:
    return sorted(keys_of(value))


@pytest.mark.parametrize("seed", range(10))
def test_the_names_of_both_sides_of_a_conjunction(grammars: Grammars, seed: int) -> None:
    sides = [{"type": "object", "properties": {name: {"type": "null"}}, "required": [name]} for name in ("a", "b")]
    assert names(json.loads(write(grammars.json_schema({"allOf": sides}), seed))) == ["a", "b"]
