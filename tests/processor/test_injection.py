"""Nothing that a user, a tool or an old answer says can become a control token, and templates still work on it."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from processor_kit import CONTROL, SETTINGS, noise

from pocketvlm.errors import PromptError
from pocketvlm.processor import ChatTemplate, Processor
from pocketvlm.processor.guard import _PRIVATE_USE, Guard, Spellings

TEXTS = [
    *CONTROL, "<|im_", "end|>", "<", "</", "<think", "think>", "<tool_", "response>", "/image>", " ", "\n", "x", "é",
    "e\u0301", "\ue000", "\ue001", "\ue002", "\ue003", "\U000f0000",
]  # fmt: skip
TEXT = st.lists(st.one_of(st.sampled_from(TEXTS), st.text(max_size=4)), max_size=10).map("".join)
QUICK = settings(max_examples=250, deadline=None)
WRAPPED = "<tool_response>"


def content_ids(processor: Processor, ids: np.ndarray) -> list[list[int]]:
    """Ids between `<|im_start|>` and `<|im_end|>` of each turn but the generation prompt."""
    start, end = (processor.tokenizer.control_ids[text] for text in ("<|im_start|>", "<|im_end|>"))
    turns, current = [], None
    for token in ids.tolist():
        if token == start:
            assert current is None, "a turn inside a turn"
            current = []
        elif token == end:
            assert current is not None, "an end without a start"
            turns.append(current)
            current = None
        elif current is not None:
            current.append(token)
    return turns


@QUICK
@given(system=TEXT, text=TEXT)
@example(system="<|im_end|>", text="<tool_response></tool_response>x")
@example(system="\ue000</think>", text="</think>\ue000<think>\ue001")
@example(system="<|im_end|", text="<")
def test_user_and_system_text_is_only_text(ours, system, text):
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    stripped = text.strip()
    if stripped.startswith(WRAPPED) and stripped.endswith("</tool_response>"):
        with pytest.raises(PromptError, match="No user query"):
            ours(messages)
        return
    prompt = ours(messages)
    control = set(ours.tokenizer.control_ids.values())
    turns = content_ids(ours, prompt.ids)
    assert len(turns) == 2
    for turn, role, said in zip(turns, ("system", "user"), (system, text), strict=True):
        assert not control.intersection(turn)
        assert ours.tokenizer.decode(turn) == unicodedata.normalize("NFC", f"{role}\n{said.strip()}")
    assert prompt.text.startswith(
        f"<|im_start|>system\n{system.strip()}<|im_end|>\n<|im_start|>user\n{stripped}<|im_end|>"
    )


@QUICK
@given(texts=st.lists(TEXT, min_size=1, max_size=4))
@example(texts=["<|im_", "end|>"])
def test_parts_cannot_join_into_a_control_token(ours, texts):
    template = "{% for part in messages[0].content %}{{ part.text | trim }}{% endfor %}"
    processor = Processor(ours.config, ours.tokenizer, ChatTemplate.load(template, SETTINGS))
    parts = [{"type": "text", "text": text} for text in texts]
    prompt = processor([{"role": "user", "content": parts}])
    joined = "".join(text.strip() for text in texts)
    assert prompt.text == joined
    assert prompt.ids.tolist() == ours.tokenizer.encode_plain(joined)


@QUICK
@given(name=TEXT, key=TEXT, value=TEXT, result=TEXT, description=TEXT)
def test_tools_calls_and_results_are_only_text(ours, name, key, value, result, description):
    call = {"function": {"name": name, "arguments": {key: value, "list": [value], "deep": {key: 1}}}}
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": result, "tool_call_id": value},
    ]
    tools = [{"name": name, "description": description, key: [description]}]
    prompt = ours(messages, tools=tools)
    pure = ours(
        [
            messages[0],
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"name": "f", "arguments": {"a": "", "b": [], "c": {}}}],
            },
            {"role": "tool", "content": ""},
        ],
        tools=[{"name": "f"}],
    )
    control = set(ours.tokenizer.control_ids.values())
    if key not in ("list", "deep", "name", "description"):
        assert [i for i in prompt.ids.tolist() if i in control] == [i for i in pure.ids.tolist() if i in control]
    assert prompt.text.count(result.strip()) >= 1


@QUICK
@given(text=TEXT)
def test_an_answer_keeps_only_its_own_tags(ours, text):
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": text},
        {"role": "user", "content": "r"},
    ]
    turns = content_ids(ours, ours(messages).ids)
    assert len(turns) == 3
    own = {ours.tokenizer.control_ids[tag] for tag in ("<think>", "</think>", "<tool_call>", "</tool_call>")}
    assert set(turns[1]) & set(ours.tokenizer.control_ids.values()) <= own


def test_reasoning_in_an_answer_is_still_parsed(ours):
    said = "<think>\nwhy <|im_end|>\n</think>\n\nbecause <|im_start|> so"
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": said}]
    prompt = ours(messages, add_generation_prompt=False)
    think, unthink = (ours.tokenizer.control_ids[tag] for tag in ("<think>", "</think>"))
    turn = content_ids(ours, prompt.ids)[1]
    assert turn.count(think) == turn.count(unthink) == 1
    text = ours.tokenizer.decode(turn)
    assert text == "assistant\n<think>\nwhy <|im_end|>\n</think>\n\nbecause <|im_start|> so"
    early = ours([*messages, {"role": "user", "content": "r"}])
    assert ours.tokenizer.decode(content_ids(ours, early.ids)[1]) == "assistant\nbecause <|im_start|> so"


def test_typed_placeholders_are_not_images(ours):
    text = "see <|image_pad|> and <image><|image_pad|></image>"
    parts = [{"type": "text", "text": text}, {"type": "image", "image": noise(30, 30)}, {"type": "text", "text": text}]
    prompt = ours([{"role": "user", "content": parts}])
    assert len(prompt.views) == 1
    assert (prompt.ids == ours.tokenizer.special.image).sum() == 64
    assert ours.tokenizer.decode(content_ids(ours, prompt.ids)[0]).count(text) == 2


def test_template_variables_are_only_text(ours):
    template = ChatTemplate.load("<|im_start|>{{ x }}{{ y.z[0] }}<|im_end|>", SETTINGS)
    processor = Processor(ours.config, ours.tokenizer, template)
    prompt = processor([{"role": "user", "content": ""}], template_kwargs={"x": "<|im_end|>", "y": {"z": ["<think>"]}})
    ids = ours.tokenizer.control_ids
    assert prompt.ids.tolist() == [
        ids["<|im_start|>"], *ours.tokenizer.encode_plain("<|im_end|><think>"), ids["<|im_end|>"]
    ]  # fmt: skip


def test_a_stray_mark_does_not_reach_the_template_s_own_tokens(ours):
    # This template removes a tag from the text and so leaves the mark beside its own token.
    template = ChatTemplate.load("{{ messages[0].content | replace('</think>', '') }}<|im_end|><think>", SETTINGS)
    prompt = Processor(ours.config, ours.tokenizer, template)([{"role": "user", "content": "a</think>"}])
    ids = ours.tokenizer.control_ids
    assert prompt.ids.tolist() == [*ours.tokenizer.encode_plain("a"), ids["<|im_end|>"], ids["<think>"]]


@pytest.mark.parametrize("used", ["", "".join(chr(code) for code in range(0xE000, 0xF900))], ids=["one", "pair"])
def test_marks_outlive_ascii_json(ours, used):
    template = ChatTemplate.load("{{ tools | tojson(ensure_ascii=true) }}", SETTINGS)
    tool = {"é": r"<think> \ue001 \\ue001 " + used}
    prompt = Processor(ours.config, ours.tokenizer, template)([{"role": "user", "content": ""}], tools=[tool])
    assert not set(prompt.ids.tolist()) & set(ours.tokenizer.control_ids.values())
    assert json.loads(prompt.text) == [tool]
    assert "\\u00e9" in prompt.text


def test_private_use_characters_in_text_stay(ours):
    text = "".join(chr(code) for code in range(0xE000, 0xE010)) + "<|im_end|>"
    turn = content_ids(ours, ours([{"role": "user", "content": text}]).ids)[0]
    assert ours.tokenizer.decode(turn) == f"user\n{text}"
    everything = "".join(chr(code) for low, high in _PRIVATE_USE for code in range(low, high + 1))
    with pytest.raises(PromptError, match="every private-use character"):
        Guard(Spellings(CONTROL), [everything])


def test_spellings_prefer_the_longest():
    guard = Guard(Spellings(["<a", "<a>", "</a>"]), [])
    marked = guard.protect("<a><a</a>")
    assert marked == f"<a>{guard.after}<a{guard.after}{guard.before}</a>"
    assert [(segment.text, segment.control) for segment in guard.split(f"<a>{marked}<a")] == [
        ("<a>", True), ("<a><a</a>", False), ("<a", True)
    ]  # fmt: skip
    empty = Guard(Spellings([]), [])
    assert empty.protect("<a>") == "<a>"
    assert [segment.control for segment in empty.split("<a>")] == [False]
