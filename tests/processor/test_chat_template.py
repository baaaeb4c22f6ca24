"""Templates: loading, the sandbox, the filters, and the same text as transformers for many conversations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processor_kit import SETTINGS, TEMPLATE
from transformers.utils.chat_template_utils import render_jinja_template

from pocketvlm.errors import CheckpointError, PromptError
from pocketvlm.processor import ChatTemplate
from pocketvlm.processor.messages import read_messages, read_tools

ROOT = Path(__file__).parents[2]
# The checkpoint's own template, if a copy is at hand outside the repository, and the embedded one.
OTHERS = [ROOT.parent / "shared" / "hub" / "chat_template.jinja", ROOT / "src/pocketvlm/nano/chat_template.jinja"]

CALL = {
    "id": "1",
    "type": "function",
    "function": {"name": "look", "arguments": {"at": "sky", "n": 3, "deep": {"é": [True]}}},
}
TOOLS = [
    {"type": "function", "function": {"name": "look", "description": "<b> & 'é'", "parameters": {"z": 1, "a": None}}},
    {"name": "other"},
]
CONVERSATIONS = {
    "plain": [{"role": "user", "content": "Hi"}],
    "system": [{"role": "system", "content": " be brief \n"}, {"role": "user", "content": "\n Hi \t"}],
    "parts": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": " a "},
                {"type": "image"},
                {"type": "image"},
                {"type": "text", "text": "b"},
                {"type": "text", "text": ""},
            ],
        }
    ],
    "history": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nfoo\n</think>\n\nbar"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "reasoning_content": " because "},
    ],
    "tools": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "blue"},
        {"role": "tool", "content": [{"type": "text", "text": "grey"}, {"type": "image"}]},
        {"role": "assistant", "content": "text first", "reasoning_content": "r", "tool_calls": [CALL]},
        {"role": "tool", "content": "end"},
    ],
    "tool_text": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "<tool_response>\nx\n</tool_response>"},
    ],
}
ARGUMENTS = [
    {},
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"tools": TOOLS},
    {"add_generation_prompt": False},
]


@pytest.mark.parametrize("where", ["test", *OTHERS], ids=["test", "hub", "embedded"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_text_is_that_of_transformers(name, arguments, where):
    if where != "test" and not where.is_file():
        pytest.skip("this template is not at hand")
    source = TEMPLATE if where == "test" else where.read_text(encoding="utf-8")
    messages = CONVERSATIONS[name]
    arguments = {"add_generation_prompt": True, **arguments}
    (wanted,), _ = render_jinja_template([messages], chat_template=source, **arguments)
    conversation = read_messages([fill(message) for message in messages])
    arguments["tools"] = read_tools(arguments.get("tools"))
    assert ChatTemplate.load(source, SETTINGS).render(conversation.messages, **arguments) == wanted


def fill(message):
    """Give image parts something to show, as our messages must have."""
    if not isinstance(message["content"], list):
        return message
    parts = [{**part, "image": "x.png"} if part["type"] == "image" else part for part in message["content"]]
    return {**message, "content": parts}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "assistant", "content": "x"}], "No user query found in messages."),
        ([{"role": "user", "content": "<tool_response>x</tool_response>"}], "No user query found in messages."),
    ],
)
def test_refusals_keep_the_words_of_the_template(messages, words):
    with pytest.raises(PromptError, match=words):
        ChatTemplate(TEMPLATE).render(messages)


def test_sources_of_a_template():
    jinja = "{{ eos_token }}{{ image_token }}"
    assert ChatTemplate.load(jinja, {**SETTINGS, "chat_template": "other"}).render([]) == "<|im_end|><|image_pad|>"
    assert ChatTemplate.load(None, {"chat_template": jinja, "eos_token": {"content": "E"}}).render([]) == "E"
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    template = ChatTemplate.load(None, {"chat_template": named})
    assert template.render([]) == "D"
    assert template.render([], tools=[{}]) == "T"
    assert ChatTemplate.load(None, {"chat_template": named[1:]}).render([], tools=[{}]) == "D"
    with pytest.raises(CheckpointError, match=r"no entry named 'default'.*tool_use"):
        ChatTemplate.load(None, {"chat_template": named[:1]})
    with pytest.raises(CheckpointError, match="no chat template"):
        ChatTemplate.load(None, {})


def test_filters_and_extensions():
    def render(source, **variables):
        return ChatTemplate(source).render([], **variables)

    data = {"b": "<é> & '\"", "a": [1, 2.5, True, None]}
    assert render("{{ x | tojson }}", x=data) == json.dumps(data, ensure_ascii=False)
    assert render("{{ x | tojson(indent=2) }}", x=data) == json.dumps(data, ensure_ascii=False, indent=2)
    assert render("{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}") == "13"
    assert render("a{% generation %}b{{ 1 }}{% endgeneration %}c") == "ab1c"
    assert len(render("{{ strftime_now('%Y-%m-%d') }}")) == 10
    assert render("  {% if true %}\n  x\n  {% endif %}\n") == "  x\n"
    with pytest.raises(PromptError, match="out of luck"):
        render("{{ raise_exception('out of luck') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ strftime_now.__globals__['sys'] }}",
        "{{ none + 1 }}",
        "{{ missing.field }}",
        "{% include 'file' %}",
        "{% for i in range(999999999) %}{% endfor %}",
    ],
)
def test_templates_stay_in_their_sandbox(source):
    with pytest.raises(PromptError, match="the chat template refused the messages"):
        ChatTemplate(source).render([])


def test_syntax_errors_name_the_line():
    with pytest.raises(CheckpointError, match=r"chat template: line 2: "):
        ChatTemplate("a\n{% if %}")
