"""Round trip: the parser reads an assistant's reasoning, text and calls as the chat template writes them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_answer import read

from pocketvlm.processor import ChatTemplate

ROOT = Path(__file__).parents[2]
# The checkpoint's own template is not part of the repository; it is tested if a copy is at hand.
TEMPLATES = {
    "hub": ROOT.parent / "shared" / "hub" / "chat_template.jinja",
    "embedded": ROOT / "src" / "pocketvlm" / "nano" / "chat_template.jinja",
}
QUESTION = {"role": "user", "content": "What is there?"}
TYPES = {"s": "string", "i": "integer", "f": "number", "b": "boolean", "o": "object", "l": "array", "n": "null"}
PROPERTIES: dict[str, Any] = {
    **{name: {"type": kind} for name, kind in TYPES.items()},
    "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": PROPERTIES}}}
    for name in ("look", "find_it")
]
TEXTS = [
    "<", ">", "</", "<b>", "<tool_call", "<tool_call>", "</tool_call>", "<function=", "<function=x>", "</function>",
    "<parameter=", "<parameter=x>", "</parameter>", "\n", "\n\n", " ", "a", "é", "中", '"', "\\", "\\n", "null", "True",
    "12",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(TEXTS), max_size=10).map("".join) | st.text(max_size=10)
# Where the form itself cannot tell: a value with the end of a value and what follows one inside, or the end of a call
# and the beginning of the next.
AMBIGUOUS = re.compile(
    r"</parameter>\s*(<parameter=|</function>|</?tool_call>)|(</function>|</tool_call>)\s*<tool_call>"
)
# Text that begins as a call does is one: an answer may have been cut off there.
BEGUN = re.compile(r"<tool_call>\s*<function=[^>\s]*>")
VALUE = TEXT.filter(lambda text: not AMBIGUOUS.search(text) and "\r" not in text)
SHOWN = TEXT.filter(lambda text: "think>" not in text and not BEGUN.search(text) and text == text.strip())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | VALUE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(VALUE, inner, max_size=3),
    max_leaves=5,
).filter(lambda value: not AMBIGUOUS.search(repr(value)))
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "s": VALUE,
        "i": st.integers(),
        "f": st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
        "b": st.booleans(),
        "n": st.none(),
        "o": st.dictionaries(VALUE, JSON, max_size=3),
        "l": st.lists(JSON, max_size=3),
        "maybe": st.integers() | st.none(),
        "not listed": st.sampled_from(["", "sky", "3", "None"]),
    },
)
# Nothing is known of a tool that does not exist, so what is neither an object nor a list comes back as text.
UNKNOWN = st.dictionaries(st.sampled_from(["s", "i"]), VALUE.filter(lambda text: text.strip()[:1] not in ("{", "[")))
CALLS = st.lists(
    st.tuples(st.sampled_from(["look", "find_it"]), ARGUMENTS) | st.tuples(st.just("unknown"), UNKNOWN), max_size=3
)


@cache
def template(name: str) -> ChatTemplate:
    return ChatTemplate.load(TEMPLATES[name].read_text(encoding="utf-8"), {})


def written(name: str, message: dict[str, Any], thinking: bool) -> str:
    """What the template expects the model to write behind the prompt for this message to be the answer."""
    prompt = template(name).render([QUESTION], tools=TOOLS, enable_thinking=thinking)
    whole = template(name).render([QUESTION, message], tools=TOOLS, add_generation_prompt=False)
    assert whole.startswith(prompt)
    return whole.removeprefix(prompt).removesuffix("<|im_end|>\n")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("thinking", [False, True], ids=["plain", "thinking"])
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(reasoning=SHOWN, content=SHOWN, calls=CALLS)
def test_what_the_template_writes_is_read_back(name, thinking, reasoning, content, calls):
    if not TEMPLATES[name].is_file():
        pytest.skip("this template is not at hand")
    reasoning = reasoning if thinking else ""
    message = {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "tool_calls": [{"type": "function", "function": {"name": f, "arguments": given}} for f, given in calls],
    }
    answer = written(name, message, thinking)
    assert read(answer, tools=TOOLS, thinking=thinking) == (reasoning, content, calls)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_says_the_form_that_is_read(name):
    if not TEMPLATES[name].is_file():
        pytest.skip("this template is not at hand")
    prompt = template(name).render([QUESTION], tools=TOOLS)
    shown = re.search(r"<tool_call>\n<function=.*?</tool_call>", prompt, re.DOTALL)
    assert shown is not None
    wanted = {
        "example_parameter_1": "value_1",
        "example_parameter_2": "This is the value for the second parameter\nthat can span\nmultiple lines",
    }
    assert read(shown.group(), tools=TOOLS) == ("", "", [("example_function_name", wanted)])
