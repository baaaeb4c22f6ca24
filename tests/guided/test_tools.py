"""Tool calls: every draw parses, arguments fit their schemas, and the checkpoint's own way of writing is possible."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import jsonschema
import pytest
from guided_kit import follows, write
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.errors import CheckpointError, OptionError
from pocketvlm.guided import Calls, Grammar, Grammars

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 2, "maxLength": 12},
        "note": {"type": "string", "description": "anything"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"type": "string", "enum": ["C", "F", "°"]},
        "code": {"anyOf": [{"type": "string", "pattern": "^[A-Z]+$|a\\d"}, {"type": "null"}]},
        "place": {"$ref": "#/$defs/place", "description": "where"},
        "list": {"type": ["array", "null"], "items": {"type": "string"}, "maxItems": 2},
        "mixed": {"enum": ["on", 1, None, "off"]},
        "one": {"oneOf": [{"type": "boolean"}, {"type": "integer"}, {"type": "string", "maxLength": 3}]},
        "free": {},
        "maybe": {"type": ["string", "null"]},
        "whole": {"allOf": [{"$ref": "#/$defs/place"}]},
        "digits": {
            "anyOf": [{"type": "integer", "maximum": 0, "minimum": 1}, {"type": "string", "pattern": "^\\d+a?$"}]
        },
        "likes": {"enum": ["1", 2.5, "cat", "true", False]},
        "keys": {"properties": {"k": {"const": 1}}, "additionalProperties": False},
        "fixed": {"const": "so"},
        "flag": {"type": "boolean", "default": True},
    },
    "required": ["days", "city"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"x": {"type": "number"}, "next": {"$ref": "#/$defs/place"}},
            "required": ["x"],
            "additionalProperties": False,
        }
    },
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
    {"type": "function", "function": {"name": "plain-1"}},
]
CONTROLS = ("<tool_call>", "</tool_call>")
CALL = re.compile(
    r"<tool_call>\n<function=([^>\n]+)>\n(.*?)</function>\n</tool_call>(?:\n(?=<tool_call>)|$)", re.DOTALL
)
PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n((?:(?!</parameter>).)*)\n</parameter>\n", re.DOTALL)


def parsed(text: str) -> list[tuple[str, dict[str, str]]]:
    """Names and raw arguments of calls; fails where anything is left over."""
    calls = []
    assert CALL.sub("", text) == "", text
    for name, body in CALL.findall(text):
        assert PARAMETER.sub("", body) == "", body
        arguments = PARAMETER.findall(body)
        assert len(dict(arguments)) == len(arguments), "a parameter came twice"
        calls.append((name, dict(arguments)))
    return calls


def fits_schema(raw: str, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether a raw value is a text that its schema allows, or JSON that it allows."""
    validator = jsonschema.Draft202012Validator({**schema, "$defs": root.get("$defs", {})})
    try:
        value = json.loads(raw)
    except json.JSONDecodeError:
        value = raw
    return bool(validator.is_valid(raw) or (not isinstance(value, str) and validator.is_valid(value)))


def check(text: str, tools: list[dict[str, Any]] = TOOLS) -> list[tuple[str, dict[str, str]]]:
    """Parse calls and look at every argument."""
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
    calls = parsed(text)
    for name, arguments in calls:
        root = schemas[name]
        assert set(root.get("required", [])) <= set(arguments) <= set(root.get("properties", {}))
        for key, raw in arguments.items():
            assert fits_schema(raw, root["properties"][key], root), (key, raw)
    return calls


def call(name: str, **arguments: str) -> str:
    """A call as the chat template writes it."""
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"


@pytest.mark.parametrize("seed", range(30))
def test_any_draw_parses_and_fits(grammars: Grammars, seed: int) -> None:
    calls = check(write(grammars.tool_calls(Calls(TOOLS), required=True), seed, bool, CONTROLS, long=200))
    assert calls


@pytest.mark.parametrize("seed", range(12))
def test_the_named_tool_alone(grammars: Grammars, seed: int) -> None:
    grammar = grammars.tool_calls(Calls(TOOLS, parallel=False), required=False, name="get_weather")
    assert [name for name, _ in check(write(grammar, seed, bool, CONTROLS, long=200))] == ["get_weather"]


@pytest.mark.parametrize("seed", range(12))
def test_after_thinking(grammars: Grammars, seed: int) -> None:
    grammar = grammars.tool_calls(Calls(TOOLS[1:]), required=True, thinking=True)
    thought, end, rest = write(grammar, seed, None, ("</think>", *CONTROLS)).partition("</think>\n\n")
    assert end
    assert "</think>" not in thought
    assert check(rest, TOOLS[1:])


def test_what_is_possible_and_what_is_not(grammars: Grammars) -> None:
    auto = grammars.tool_calls(Calls(TOOLS), required=False)
    must = grammars.tool_calls(Calls(TOOLS), required=True)
    one = grammars.tool_calls(Calls(TOOLS, parallel=False), required=True)
    named = grammars.tool_calls(Calls(TOOLS), required=True, name="now")
    now, sun = call("now"), call("get_weather", city="Köln", days="3")

    def taken(text: str) -> list[Grammar]:
        return [grammar for grammar in (auto, must, one, named) if follows(grammar, text)]

    assert taken(now) == [auto, must, one, named]
    assert taken(sun) == [auto, must, one]
    assert taken(f"{sun}\n{now}") == [auto, must]
    assert taken("Sunny.") == taken("") == taken(f"I look.\n\n{now}") == [auto]
    for wrong in (f"{now}\n", f"{now} and", f"{now}{now}", call("none"), now.replace("\n", " "), "<tool_call>"):
        assert taken(wrong) == []


def test_functions_that_are_not_strict_are_free_where_no_call_is_required(grammars: Grammars) -> None:
    odd = tool({"properties": {"u": {"type": "array", "uniqueItems": True}}})
    strict = tool({"properties": {"n": {"type": "integer"}}, "required": ["n"]}, name="g")
    strict["function"]["strict"] = True
    calls = Calls([odd, strict])
    for grammar in (grammars.tool_calls(calls, required=False), grammars.choice(["yes"], calls=calls)):
        assert follows(grammar, call("f", u="[1, 1]"))
        assert follows(grammar, call("f", other="x", u="3"))
        assert follows(grammar, call("g", n="3"))
        assert not follows(grammar, call("g", n="x"))
        assert not follows(grammar, call("f", u="[1]") + "\n")
    with pytest.raises(OptionError, match="uniqueItems"):
        grammars.tool_calls(calls, required=True)


def test_a_form_or_calls(grammars: Grammars) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    calls = Calls(TOOLS, parallel=False)
    either = [
        grammars.json_schema(schema, calls=calls),
        grammars.regex(r'\{"a": \d\}', calls=calls),
        grammars.choice(['{"a": 3}'], calls=calls),
    ]
    now = call("now")
    for grammar in either:
        assert follows(grammar, '{"a": 3}')
        assert follows(grammar, now)
        for wrong in ("", "Sunny.", f'{{"a": 3}}{now}', f"I look. {now}", f"{now}\n{now}", call("none")):
            assert not follows(grammar, wrong)
    alone = grammars.json_schema(schema, calls=Calls(()))
    assert follows(alone, '{"a": 3}')
    assert not follows(alone, now)
    thinking = grammars.json_schema(schema, calls=calls, thinking=True)
    assert follows(thinking, f"hm</think>\n\n{now}")
    assert follows(thinking, 'hm</think>\n\n{"a": 3}')


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ({"days": "3", "city": "Bonn"}, True),
        ({"unit": "°", "city": "Bonn", "flag": "true", "days": "14"}, True),
        ({"city": "Bonn"}, False),
        ({"city": "Bonn", "days": "15"}, False),
        ({"city": "Bonn", "days": "03"}, False),
        ({"city": "B", "days": "3"}, False),
        ({"city": "Bonn", "days": "3", "unit": "K"}, False),
        ({"city": "Bonn", "days": "3", "unit": '"C"'}, False),
        ({"city": "Bonn", "days": "3", "other": "1"}, False),
        ({"city": "Bonn", "days": "3", "note": "line\n\n<b>&\u00e9</b>\n</param>\n"}, True),
        ({"city": "Bonn", "days": "3", "note": ""}, True),
        ({"city": "Bonn", "days": "3", "note": "a</parameter>b"}, False),
        ({"city": "Bonn", "days": "3", "note": "a</function>b"}, False),
        ({"city": "Bonn", "days": "3", "note": "a\n<parameter=unit>b"}, False),
        ({"city": "Bonn", "days": "3", "place": '{"x": 1.5, "next": {"x": -2}}'}, True),
        ({"city": "Bonn", "days": "3", "place": '{"x":1.5}'}, True),
        ({"city": "Bonn", "days": "3", "place": '{"x":  1.5}'}, False),
        ({"city": "Bonn", "days": "3", "code": "ABC"}, True),
        ({"city": "Bonn", "days": "3", "code": "..a7"}, True),
        ({"city": "Bonn", "days": "3", "code": "null"}, True),
        ({"city": "Bonn", "days": "3", "code": "Abc"}, False),
        ({"city": "Bonn", "days": "3", "list": '["a", "b"]'}, True),
        ({"city": "Bonn", "days": "3", "list": "null"}, True),
        ({"city": "Bonn", "days": "3", "mixed": "off"}, True),
        ({"city": "Bonn", "days": "3", "mixed": "1"}, True),
        ({"city": "Bonn", "days": "3", "mixed": "2"}, False),
        ({"city": "Bonn", "days": "3", "digits": "12a"}, True),
        ({"city": "Bonn", "days": "3", "digits": "12"}, False),
        ({"city": "Bonn", "days": "3", "likes": "cat"}, True),
        ({"city": "Bonn", "days": "3", "likes": "2.5"}, True),
        ({"city": "Bonn", "days": "3", "likes": "false"}, True),
        ({"city": "Bonn", "days": "3", "likes": "1"}, False),  # which would be read as a number
        ({"city": "Bonn", "days": "3", "likes": "true"}, False),
        ({"city": "Bonn", "days": "3", "keys": "{}"}, True),
        ({"city": "Bonn", "days": "3", "keys": "text"}, False),
    ],
)
def test_arguments(grammars: Grammars, arguments: dict[str, str], right: bool) -> None:
    grammar = grammars.tool_calls(Calls(TOOLS), required=True)
    assert follows(grammar, call("get_weather", **arguments)) == right


def tool(parameters: Any, name: str = "f") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def of(schema: Any, **more: Any) -> dict[str, Any]:
    return tool({"type": "object", "properties": {"p": schema}, **more})


def test_as_many_parameters_as_there_are_bits(grammars: Grammars) -> None:
    names = [f"p{number}" for number in range(64)]
    wide = tool({"properties": {name: {"type": "integer"} for name in names}, "required": names[::2]})
    grammar = grammars.tool_calls(Calls([wide]), required=True)
    values = dict.fromkeys(reversed(names), "1")
    assert follows(grammar, call("f", **values))
    del values["p1"]
    assert follows(grammar, call("f", **values))
    del values["p62"]
    assert not follows(grammar, call("f", **values))


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ([], "there are no tools"),
        ([{}], "tool 0 is not"),
        ([tool({}), tool({})], "two tools have the name 'f'"),
        ([tool({}, "a b")], "tool 'a b'.*no blanks"),
        ([tool({}, f"f{number}") for number in range(129)], "129 tools; at most 128"),
        ([tool({"type": "array"})], '"object"'),
        ([tool({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]})], '"anyOf" and "oneOf" are'),
        ([tool({"properties": {"a": {}, "b": {}}, "maxProperties": 1})], '"maxProperties" cannot be enforced here'),
        ([tool({"properties": {"a": {}, "b": {}}, "minProperties": 1})], '"maxProperties" cannot be enforced here'),
        ([tool({"properties": {"a>b": {}}})], "parameter 'a>b'"),
        ([tool({"properties": {f"p{number}": {} for number in range(65)}})], "65 parameters; at most 64"),
        ([tool({"properties": {}, "required": ["a"], "additionalProperties": False})], "'a' is required"),
        ([tool({"required": "a"})], '"required" must be a list'),
        ([of({"type": "array", "uniqueItems": True})], "tool 'f', parameter 'p': keyword \"uniqueItems\""),
        ([of({"type": "string", "not": {"const": "a"}})], "parameter 'p': keyword \"not\""),
        ([of({"type": "string", "pattern": "(?!a)b"})], "parameter 'p': look-around"),
        ([of({"type": "string", "pattern": "(^a|b)c"})], "parameter 'p': lookarounds"),
        ([of({"type": "string", "minLength": -1})], "minLength"),
        ([of({"type": ["string", {}], "maxLength": 1})], '"type" must be the name of a type'),
        ([of({"type": "string", "enum": []}, required=["p"])], "'p' is required, but nothing satisfies"),
        ([of({"const": "a</parameter>"}, required=["p"])], "parameter 'p': nothing satisfies"),
        ([of({"type": "string", "minLength": 3, "pattern": "^a?$"})], "parameter 'p': nothing satisfies"),
        ([of({"type": "string", "minLength": 3, "pattern": "^$"}), tool({}, "g")], "parameter 'p': nothing satisfies"),
        ([of({"$ref": "https://example.com/a"})], "begin with"),
        ([of({"$ref": "#/$defs/none"})], "leads nowhere"),
        ([of({"$ref": "#/$defs/a"}, **{"$defs": {"a": {"$ref": "#/$defs/a"}}})], 'keyword "\\$ref"'),
        ([of({"$ref": "#/$defs/a"}, **{"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}})], "without end"),
        ([of({"oneOf": [{"type": "string"}, {"const": "a"}]})], 'keyword "oneOf"'),
        ([of({"anyOf": [{"type": "string", "maxLength": 3}, {"type": "object"}]})], "a text with limits"),
        ([of({"oneOf": [{"type": "number"}, {"type": "integer"}]})], "parameter 'p': keyword \"oneOf\""),
        ([of({"type": "integer", "description": "x" * 300_000})], "at most 262144"),
    ],
)
def test_tools_that_are_refused(grammars: Grammars, tools: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(OptionError, match=text) as caught:
        grammars.tool_calls(Calls(tools), required=True)
    assert "\n" not in str(caught.value)


def test_a_name_that_no_tool_has(grammars: Grammars) -> None:
    with pytest.raises(OptionError, match=r"tool 'later' is called for, but the tools are get_weather, now, plain-1"):
        grammars.tool_calls(Calls(TOOLS), required=True, name="later")


def test_a_checkpoint_without_the_control_token(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(grammars._tokenizer.control_ids, "<tool_call>")
    with pytest.raises(CheckpointError, match="'<tool_call>' is missing"):
        grammars.tool_calls(Calls(TOOLS), required=True)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["string", "object", "#/$defs/a", ""])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(
                "type properties required enum const anyOf oneOf allOf $ref $defs items pattern minLength not".split()
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(parameters=JSON, name=st.sampled_from([None, "f"]))
def test_no_schema_makes_another_error(grammars: Grammars, parameters: Any, name: str | None) -> None:
    for tools in ([tool(parameters)], [of(parameters)]):
        with contextlib.suppress(OptionError):
            grammars.tool_calls(Calls(tools), required=True, name=name).constraint().mask()
