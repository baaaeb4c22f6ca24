"""The grammar of tool calls follows the chat template and each parameter's schema.

    <tool_call>
    <function=NAME>
    <parameter=P>
    value
    </parameter>
    </function>
    </tool_call>

`<tool_call>` and `</tool_call>` are control tokens, everything else is text. Parameters come in any order, each at most
once; required parameters must be there, and parameters that the schema does not name are not allowed. A value whose
schema is a string is written raw and cannot contain one of these tags; any other value is JSON on one line. If a schema
allows any string and other types too, the value is raw text. Raw texts obey enum, const, minLength, maxLength and
pattern; their `format` is not enforced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pocketvlm.errors import OptionError
from pocketvlm.guided import lark
from pocketvlm.guided.cases import Case, Conjunction
from pocketvlm.guided.keywords import named, shown
from pocketvlm.guided.schemas import ClosedSchemas
from pocketvlm.guided.values import value_of

TOOLS = 128
PARAMETERS = 64  # bits of the mask of parameters that were given
CLOSE = "</parameter>"
END = lark.literal("</function>")
# A raw text that contained one of these would be read as several values, or as the end of the call.
FORBIDDEN = (CLOSE, "<parameter=", "</function>", "</tool_call>")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a grammar that stands alone: the body of its rule, and what to call it in an error.

    `may_be_empty`: perhaps no text matches it; the library notices that only when it compiles the part alone.
    """

    rule: str
    what: str
    may_be_empty: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """The body of the rule `answer` in Lark's form, the rules that it needs, and parts of them."""

    answer: str
    rules: str = ""
    parts: tuple[Part, ...] = ()

    def __or__(self, other: Written) -> Written:
        """A grammar for what one of two allows, whose rules have different names."""
        rules = f"one: {self.answer}\n{self.rules}\nother: {other.answer}\n{other.rules}"
        return Written("one | other", rules, self.parts + other.parts)


def tool_grammar(
    tools: Sequence[Mapping[str, Any]],
    *,
    required: bool,
    name: str | None = None,
    parallel: bool = True,
    strict_only: bool = False,
) -> Written:
    """The rules of some tools and the parts for their parameters. Raises OptionError.

    strict_only: only calls of functions with `strict: true` must satisfy their schemas; other calls may hold any text.
    """
    functions = [_function(tool, index) for index, tool in enumerate(tools)]
    lark.dump([*tools], "tools", lark.SCHEMA_BYTES)
    if len(functions) > TOOLS:
        raise OptionError(f"there are {len(functions)} tools; at most {TOOLS} are accepted")
    names = [str(function["name"]) for function in functions]
    if twice := next((one for one in names if names.count(one) > 1), None):
        raise OptionError(f"two tools have the name {twice!r}")
    if name is not None:
        if name not in names:
            raise OptionError(f"tool {shown(name)} is called for, but the tools are {', '.join(names) or 'none'}")
        functions = [functions[names.index(name)]]
    if not functions:
        raise OptionError("tool calls are asked for, but there are no tools")
    rules: list[str] = []
    parts: list[Part] = []
    for index, function in enumerate(functions):
        if strict_only and function.get("strict") is not True:
            rules.append(_any_call(function, index))
        else:
            _Function(function, index, rules, parts).write()
    bodies = " | ".join(f"f_{index}" for index in range(len(functions)))
    more = ' ("\\n" call)*' if parallel else ""
    answer = f"call{more}"
    if not (required or name is not None):
        answer = f"TEXT ({answer})?"
        rules.append(f"TEXT: {lark.without('<tool_call>')}")
    rules.append(f'call: <tool_call> "\\n<function=" ({bodies}) "\\n" </tool_call>')
    return Written(answer, "\n".join(rules), tuple(parts))


def _function(tool: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    """The function of a tool in OpenAI's form, or alone."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise OptionError(f'tool {index} is not {{"type": "function", "function": {{"name": ...}}}}')
    return function


def _any_call(function: Mapping[str, Any], index: int) -> str:
    """The rule of a call that holds any text."""
    begin = lark.literal(_tag(function["name"], "tool") + ">\n")
    text = lark.without("</function>", "<tool_call>", "</tool_call>")
    return f"f_{index}: {begin} ANY_{index}\nANY_{index}: {text} {END}"


class _Function:
    """Writes the rules of one tool."""

    def __init__(self, function: Mapping[str, Any], index: int, rules: list[str], parts: list[Part]) -> None:
        self.name = _tag(function["name"], "tool")
        self.index = index
        self.rules = rules
        self.parts = parts
        self.schema = function.get("parameters") or {}
        self.closed = ClosedSchemas(self.schema)
        self.what = f"tool {self.name!r}"

    def write(self) -> None:
        properties, required = self._arguments()
        # Required parameters come first, so that the lowest bits of the mask say whether all of them are there.
        order = [*required, *(name for name in properties if name not in required)]
        if len(order) > PARAMETERS:
            raise OptionError(f"{self.what} has {len(order)} parameters; at most {PARAMETERS} are accepted")
        arguments = f"a_{self.index}"
        start = f" {arguments}::0x0" if order else ""
        self.rules.append(f"f_{self.index}: {lark.literal(self.name + '>' + chr(10))}{start} {END}")
        if not order:
            return
        lines = [f'{arguments}::_ : ""' + (f" %if is_ones([0:{len(required)}])" if required else "")]
        for bit, name in enumerate(order):
            value = f"v_{self.index}_{bit}"
            begin = lark.literal(f"<parameter={_tag(name, f'{self.what}: parameter')}>\n")
            lines.append(f"  | {begin} {value} {arguments}::set_bit({bit}) %if bit_clear({bit})")
            self._value(properties[name], value, f"{self.what}, parameter {name!r}")
        self.rules.append("\n".join(lines))

    def _arguments(self) -> tuple[dict[str, Conjunction], list[str]]:
        """The parameters that can be given, and the names of the required ones."""
        what = f"{self.what}: parameters"
        with named(what):
            conjunction = self.closed.conjunction(self.schema)
            first = self.closed.first(conjunction) if conjunction else [Case("object")]
        for name, one in ((name, one) for case in first for name, one in case.properties.items() if one):
            with named(f"{self.what}, parameter {name!r}"):
                self.closed.cases(one)
        with named(what):
            cases = self.closed.cases(conjunction) if conjunction else first
            if not cases:
                raise OptionError(self.closed.reason(conjunction))
            cases = [case for case in cases if case.kind == "object" and case.values is None]
            if len(cases) != 1:
                raise OptionError(
                    'they must have one schema of the type "object"; "anyOf" and "oneOf" are supported only in its '
                    "properties"
                )
            found = {name: one for name, one in cases[0].properties.items() if self.closed.works(one)}
            self._counted(cases[0], len(found))
            return found, list(cases[0].required)

    def _counted(self, case: Case, given: int) -> None:
        """Refuse limits on the number of parameters that could be broken."""
        if case.min_size > len(case.required) or (case.max_size is not None and case.max_size < given):
            raise OptionError('keywords "minProperties" and "maxProperties" cannot be enforced here; leave them out')

    def _value(self, conjunction: Conjunction, rule: str, what: str) -> None:
        """The rule of one value with its end."""
        end = lark.literal(f"\n{CLOSE}\n")
        with named(what):
            value = value_of(self.closed, conjunction)
        if value.texts:
            texts = f"(({' | '.join(value.texts)}) & {lark.without(*FORBIDDEN)})"
            self.rules.append(f"{rule}: {rule.upper()}\n{rule.upper()}: {texts} {end}")
            self.parts.append(Part(f"V\nV: {texts}", what, may_be_empty=value.texts != [lark.ANY_TEXT]))
        else:
            body = lark.json_rule(value.schema, what)
            self.rules.append(f"{rule}: {rule}_json {end}\n{rule}_json: {body}")
            self.parts.append(Part(f"j\nj: {body}", what))


def _tag(name: str, what: str) -> str:
    """A name that can stand in a tag."""
    if not name or re.search(r"[\s<>]", name):
        raise OptionError(f"{what} {shown(name)}: the name must have no blanks and none of < and >")
    return name
