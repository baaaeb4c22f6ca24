"""Parsed answers: reasoning, text and calls, with the same result at any split of the stream."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pocketvlm.errors import OptionError
from pocketvlm.parsing import AnswerParser, AnswerPart, CallArguments, CallBegin, CallEnd, Content, Reasoning


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [
    tool("look", at={"type": "string"}, n={"type": "integer"}, maybe={"type": ["string", "null"]}, deep={}),
    tool("write", path={"type": "string"}, text={"type": "string"}),
]
LOOK = "<tool_call>\n<function=look>\n<parameter=at>\nsky\n</parameter>\n</function>\n</tool_call>"
SKY = ("look", {"at": "sky"})


def joined(deltas: list[AnswerPart]) -> list[AnswerPart]:
    """Neighbours of one kind as one, however the stream was cut."""
    result: list[AnswerPart] = []
    for delta in deltas:
        last = result[-1] if result else None
        if isinstance(delta, Content) and isinstance(last, Content):
            result[-1] = Content(last.text + delta.text)
        elif isinstance(delta, Reasoning) and isinstance(last, Reasoning):
            result[-1] = Reasoning(last.text + delta.text)
        elif isinstance(delta, CallArguments) and isinstance(last, CallArguments):
            result[-1] = CallArguments(last.index, last.json + delta.json)
        else:
            result.append(delta)
    return result


def streamed(text: str, cuts: list[int] | None = None, **options: Any) -> list[AnswerPart]:
    parser = AnswerParser(**options)
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts or ()), len(text)]
    deltas = [delta for a, b in itertools.pairwise(bounds) for delta in parser.feed(text[a:b])]
    assert not parser.done or options.get("parallel") is False
    deltas += parser.finish()
    assert parser.done
    return joined(deltas)


def read(text: str, **options: Any) -> tuple[str, str, list[tuple[str, Any]]]:
    """Reasoning, text and calls; checks the order of a call's deltas and that arguments are JSON objects."""
    reasoning, content, calls = "", "", []
    open_call: CallBegin | None = None
    chunks = ""
    for delta in streamed(text, list(range(len(text))), **options):
        if isinstance(delta, CallBegin):
            assert open_call is None
            assert delta.index == len(calls)
            open_call, chunks = delta, ""
        elif isinstance(delta, CallArguments):
            assert open_call is not None
            assert delta.index == open_call.index
            chunks += delta.json
        elif isinstance(delta, CallEnd):
            assert open_call is not None
            assert delta.index == open_call.index
            arguments = json.loads(chunks, object_pairs_hook=unique)
            assert isinstance(arguments, dict)
            calls.append((open_call.name, arguments))
            open_call = None
        else:
            assert open_call is None
            assert delta.text
            reasoning += delta.text if isinstance(delta, Reasoning) else ""
            content += delta.text if isinstance(delta, Content) else ""
    assert open_call is None
    return reasoning, content, calls


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


def arguments(body: str, name: str = "look") -> Any:
    _, content, calls = read(f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>", tools=TOOLS)
    assert content == ""
    assert [called for called, _ in calls] == [name]
    return calls[0][1]


@pytest.mark.parametrize(
    ("text", "thinking", "reasoning", "content"),
    [
        ("because\n</think>\n\nsky", True, "because", "sky"),
        ("\n\nbecause\n\n\n</think>sky\n", True, "because", "sky\n"),
        ("a\n\n b \n</think>\n\n  c", True, "a\n\n b ", "  c"),
        ("<think>\nbecause</think>\n", True, "because", ""),
        ("\n</think>\n\nsky", True, "", "sky"),
        ("</think>", True, "", ""),
        ("never closed\n", True, "never closed\n", ""),
        ("never closed </thi", True, "never closed </thi", ""),
        ("a <think> b </think> c </think> d", True, "a <think> b ", " c </think> d"),
        ("", True, "", ""),
        ("<think>\nwhy\n</think>\n\nsky", False, "why", "sky"),
        ("\n <think>why</think> <think>more</think> sky", False, "whymore", " sky"),
        ("sky <think>no</think>", False, "", "sky <think>no</think>"),
        (" \n sky\n", False, "", " \n sky\n"),
        (" <thin", False, "", " <thin"),
        ("</think>\n", False, "", "</think>\n"),
        ("", False, "", ""),
    ],
)
@pytest.mark.parametrize("tools", [(), TOOLS], ids=["no_tools", "tools"])
def test_reasoning(text, thinking, reasoning, content, tools):
    assert read(text, thinking=thinking, tools=tools) == (reasoning, content, [])


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (LOOK, "", [SKY]),
        (f"Let me look.\n\n{LOOK}", "Let me look.", [SKY]),
        (f"{LOOK}\n{LOOK}\n", "", [SKY, SKY]),
        (f"\n\n{LOOK}\n\nDone.", "Done.", [SKY]),
        (f"First.\n\n{LOOK}\n{LOOK}\n Then. {LOOK} ", "First.\n\nThen.", [SKY, SKY, SKY]),
        (f"First{LOOK} then", "First then", [SKY]),
        (LOOK.replace("\n", ""), "", [SKY]),
        (LOOK.replace(">\n<", ">  \n\n <"), "", [SKY]),
        (LOOK.replace("look", " look "), "", [SKY]),
        (LOOK.replace("look", "find_it"), "", [("find_it", {"at": "sky"})]),
        ("<tool_call><function=look></function></tool_call>", "", [("look", {})]),
        # Two functions in one tag, forgotten tags around a function
        (LOOK.replace("</function>", f"</function>\n{LOOK[12:-13]}"), "", [SKY, SKY]),
        (f"Well:\n{LOOK[12:]}", "Well:", [SKY]),
        (LOOK[12:-13], "", [SKY]),
        (LOOK.removesuffix("\n</tool_call>") + f"\n{LOOK}", "", [SKY, SKY]),
        (LOOK.replace("</function>\n", "") + "\nDone", "Done", [SKY]),
        (f"{LOOK.partition('</function>')[0]}{LOOK}", "", [SKY, SKY]),
        # No calls
        ("1 < 2 <= 3 << 4 <tool_calls> <function> <tool", "1 < 2 <= 3 << 4 <tool_calls> <function> <tool", []),
        ("Write <tool_call> before it.", "Write <tool_call> before it.", []),
        ('<tool_call>\n{"name": "look"}\n</tool_call>', '<tool_call>\n{"name": "look"}\n</tool_call>', []),
        ("<tool_call>\n<function=>\n", "<tool_call>\n<function=>\n", []),
        ("<tool_call>\n<function=a b>", "<tool_call>\n<function=a b>", []),
        ("<tool_call>\n<function=a\n>", "<tool_call>\n<function=a\n>", []),
        ("in a line <function=look>", "in a line <function=look>", []),
        ("\n<function=find_it>", "\n<function=find_it>", []),
        (f"<tool_call>\n<tool_call>\n<fun {LOOK}", "<tool_call>\n<tool_call>\n<fun", [SKY]),
        # The answer ends before it is a call
        ("Hm.\n<tool_call>\n<function=loo", "Hm.\n<tool_call>\n<function=loo", []),
        ("Hm.\n<tool_ca", "Hm.\n<tool_ca", []),
    ],
)
def test_calls_and_text(text, content, calls):
    assert read(text, tools=TOOLS) == ("", content, calls)
    assert read(f"hm\n</think>\n\n{text}", tools=TOOLS, thinking=True)[1:] == (content.lstrip("\n"), calls)


def test_without_tools_their_tags_are_text():
    text = f" Look:\n\n{LOOK}\n"
    assert read(text) == ("", text, [])
    assert read(text, thinking=True) == (text, "", [])


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("", {}),
        ("<parameter=at>\n\n</parameter>\n", {"at": ""}),
        ("<parameter=at>\n</parameter>\n", {"at": ""}),
        ("<parameter=at></parameter>", {"at": ""}),
        ("<parameter=at>\n\n a\n\n</parameter>\n", {"at": "\n a\n"}),
        ('<parameter=at>\n"quoted" \\ \u00e9 \u2028\n</parameter>\n', {"at": '"quoted" \\ \u00e9 \u2028'}),
        ("<parameter= at >x</parameter>", {"at": "x"}),
        ("<parameter=at>null</parameter><parameter=maybe>null</parameter>", {"at": "null", "maybe": None}),
        ("<parameter=n>\n 12 \n</parameter>\n<parameter=at>\nb\n</parameter>\n", {"n": 12, "at": "b"}),
        ("<parameter=at>1</parameter><parameter=at>2</parameter><parameter=n>3</parameter>", {"at": "1", "n": 3}),
        ("<parameter=more words>\n3\n</parameter>\n", {"more words": "3"}),
        ("stray <b> <parameter=at>\nx\n</parameter>\n", {"at": "x"}),
        ("<parameter=>\nx\n</parameter>\n<parameter=at>\ny\n</parameter>", {"at": "y"}),
        ("<parameter=at\nx\n</parameter>\n<parameter=n>\n1\n</parameter>", {"n": 1}),
        # Tags inside values
        ("<parameter=at>\na</parameter>b\n</parameter>\n", {"at": "a</parameter>b"}),
        ("<parameter=at>\nx\n</parameter> more </parameter>\n", {"at": "x\n</parameter> more "}),
        ("<parameter=at>\n<parameter=x>\n</parameter>\n", {"at": "<parameter=x>"}),
        ("<parameter=at>\na <parameter=n> <parameter=no>\n<parameter=x>\n</parameter>",
         {"at": "a <parameter=n> <parameter=no>\n<parameter=x>"}),
        (f"<parameter=at>\n{LOOK[:12]}{LOOK[-24:]}\n</parameter>\n", {"at": LOOK[:12] + LOOK[-24:]}),
        ("<parameter=at>\n<function=look></function></tool_call>!\n</parameter>\n",
         {"at": "<function=look></function></tool_call>!"}),
        # Forgotten ends of values
        ("<parameter=at>\nsky\n<parameter=n>\n4\n</parameter>\n", {"at": "sky", "n": 4}),
        ("<parameter=n>\n4\n<parameter=at>\nsky\n", {"n": 4, "at": "sky"}),
    ],
)  # fmt: skip
def test_parameters(body, wanted):
    assert arguments(body) == wanted


def test_one_more_line_break_than_the_syntax_has_belongs_to_the_value():
    assert arguments("<parameter=text>\n\nx\n\n\n</parameter>\n", "write") == {"text": "\nx\n\n"}


@pytest.mark.parametrize(
    ("end", "wanted"),
    [
        ("", {}),
        ("\n<parameter=at", {}),
        ("\n<parameter=at>", {"at": ""}),
        ("\n<parameter=at>\nsk", {"at": "sk"}),
        ("\n<parameter=at>\nsky\n", {"at": "sky"}),
        ("\n<parameter=at>\nsky\n</param", {"at": "sky"}),
        ("\n<parameter=at>\nsky\n</parameter>", {"at": "sky"}),
        ("\n<parameter=at>\nsky\n</parameter>\n</func", {"at": "sky"}),
        ("\n<parameter=at>\nsky\n</parameter>\n<parameter=n>\n1", {"at": "sky"}),
        ("\n<parameter=maybe>\nNo", {}),
        ("\n<parameter=maybe>\nNor", {"maybe": "Nor"}),
        ("\n<parameter=n>\n1", {}),
    ],
)
def test_an_answer_that_ends_inside_a_call_is_closed_and_says_so(end, wanted):
    text = f"Hm.\n\n<tool_call>\n<function=look>{end}"
    assert read(text, tools=TOOLS) == ("", "Hm.", [("look", wanted)])
    parser = AnswerParser(tools=TOOLS)
    parser.feed(text)
    parser.finish()
    assert parser.unfinished


@pytest.mark.parametrize("end", ["", "\n</tool_call>", "\n</tool_call>\nDone", "\n</tool"])
def test_a_call_is_finished_with_its_function(end):
    parser = AnswerParser(tools=TOOLS)
    parser.feed(LOOK.removesuffix("\n</tool_call>") + end)
    parser.finish()
    assert not parser.unfinished


@pytest.mark.parametrize(
    ("text", "reasoning", "content", "calls"),
    [
        (f"I look:\n{LOOK}\nyes\n</think>\n\n{LOOK}", f"I look:\n{LOOK}\nyes", "", [SKY]),
        (f"I look:\n{LOOK}\n</think>\n\n{LOOK}", f"I look:\n{LOOK}", "", [SKY]),
        (f"I look:\n{LOOK}\n</think>\n\nNo.", f"I look:\n{LOOK}", "No.", []),
        (f"I look:\n{LOOK}\n", "I look:", "", [SKY]),
        (f"I look:\n{LOOK}\n{LOOK.removesuffix('</tool_call>')}", "I look:", "", [SKY, SKY]),
        (f"I look:\n{LOOK}\n</think>\n\n", "I look:", "", [SKY]),
        (f"I look:\n{LOOK[:-20]}", f"I look:\n{LOOK[:-20]}", "", []),
        (f"I look:\n{LOOK[:-30]}</think>ok", f"I look:\n{LOOK[:-30]}", "ok", []),
        (LOOK.replace("look", "find_it"), LOOK.replace("look", "find_it"), "", []),
        (f"A <tool_call> is due.\n{LOOK}", "A <tool_call> is due.", "", [SKY]),
    ],
)
def test_calls_inside_reasoning(text, reasoning, content, calls):
    assert read(text, tools=TOOLS, thinking=True) == (reasoning, content, calls)


@pytest.mark.parametrize("after", ["", "\n</tool_call>", f"\n</tool_call>\n{LOOK}", "\n</tool_call>\n\nDone"])
def test_one_call_at_most(after):
    text = "Hm. " + LOOK.removesuffix("\n</tool_call>")
    assert read(text + after, tools=TOOLS, parallel=False) == ("", "Hm.", [SKY])
    parser = AnswerParser(tools=TOOLS, parallel=False)
    parser.feed(text)
    assert parser.done
    assert parser.feed(after) == []
    assert parser.finish() == []


def test_what_is_certain_comes_at_once():
    parser = AnswerParser(tools=TOOLS, thinking=True)
    assert parser.feed("why <") == [Reasoning("why ")]
    assert parser.feed("b>\n</think>\n\nA") == [Reasoning("<b>"), Content("A")]
    assert parser.feed("\n<tool_call>\n<function=look>") == [CallBegin(0, "look")]
    assert parser.feed("\n<parameter=at>\n") == [CallArguments(0, '{"at": "')]
    assert parser.feed('one "word') == [CallArguments(0, 'one \\"word')]
    assert parser.feed("\n") == []
    assert parser.feed("more\n</parameter>\n") == [CallArguments(0, "\\nmore")]
    assert parser.feed("<parameter=maybe>\nNot") == [CallArguments(0, '", "maybe": "Not')]
    assert parser.feed("\n</parameter>\n<parameter=n>\n1") == [CallArguments(0, '"')]
    assert parser.feed("2\n</parameter>\n</function>") == [CallArguments(0, ', "n": 12}'), CallEnd(0)]
    assert parser.feed("\n</tool_call>") == []
    assert AnswerParser().feed("a\n") == [Content("a\n")]


def test_a_tool_without_a_name_is_refused():
    with pytest.raises(OptionError, match=r"tools\[1\] has no function name"):
        AnswerParser(tools=[TOOLS[0], {"type": "function", "function": {}}])


TEXTS = [
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<function=look>", "<function=", "</function>",
    "<function=find>", "<parameter=at>", "<parameter=n>", "<parameter=maybe>", "<parameter=deep>",
    "<parameter=", "</parameter>", "look>",
    "\n", "\n\n", " ", "<", ">", "</", "sky", "12", "null", "None", "{", "}", "[1, ", "]", '"', "\\", "'", "é", LOOK,
    "<tool_call>\n<function=look>\n", "\n</parameter>\n", "\n</function>\n</tool_call>",
]  # fmt: skip
ANSWER = st.lists(st.sampled_from(TEXTS), max_size=25).map("".join)
OPTIONS = st.fixed_dictionaries(
    {"tools": st.sampled_from([(), TOOLS]), "thinking": st.booleans(), "parallel": st.booleans()}
)


@settings(max_examples=2000, deadline=None)
@given(text=ANSWER, options=OPTIONS, cuts=st.lists(st.integers(0, 200), max_size=10))
@example(text=f"<think>a\n</think>\n\nb\n{LOOK}\nc", options={"tools": TOOLS}, cuts=[])
def test_any_split_gives_the_same(text, options, cuts):
    whole = streamed(text, **options)
    assert streamed(text, cuts, **options) == whole
    assert streamed(text, list(range(len(text))), **options) == whole
    read(text, **options)


@settings(max_examples=500, deadline=None)
@given(text=st.lists(st.sampled_from([*TEXTS, "\t"]), max_size=20).map("".join), tools=st.booleans())
def test_text_without_whole_tags_is_left_alone(text, tools):
    if tools:
        text = text.replace("<function", "<function ")
    if text.lstrip(" \t\r\n").startswith("<think>"):
        text = f"x{text}"
    assert read(text, tools=TOOLS if tools else ()) == ("", text, [])
