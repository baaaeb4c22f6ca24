"""System messages move to where the template accepts them: several become one, later ones text of the user's turn."""

from __future__ import annotations

from typing import Any

import pytest

import pocketvlm
from pocketvlm.processor.chat import ChatTemplate
from pocketvlm.processor.system import place_system_messages

SYSTEM_A = {"role": "system", "content": "A"}
SYSTEM_B = {"role": "system", "content": "B"}
USER = {"role": "user", "content": "hello"}
ANSWER = {"role": "assistant", "content": "Hi."}
B = "<system>\nB\n</system>"


def said(*messages: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in place_system_messages(messages)]


@pytest.mark.parametrize(
    ("messages", "wanted"),
    [
        ([SYSTEM_A, USER], [("system", "A"), ("user", "hello")]),
        ([SYSTEM_A, SYSTEM_B, USER], [("system", "A\n\nB"), ("user", "hello")]),
        ([SYSTEM_A, {"role": "system", "content": ""}, USER], [("system", "A"), ("user", "hello")]),
        ([USER, SYSTEM_B], [("user", f"hello\n\n{B}")]),
        ([USER, SYSTEM_B, USER], [("user", "hello"), ("user", f"{B}\n\nhello")]),
        ([USER, SYSTEM_B, ANSWER, USER], [("user", f"hello\n\n{B}"), ("assistant", "Hi."), ("user", "hello")]),
        ([USER, ANSWER, SYSTEM_A, SYSTEM_B, USER],
         [("user", "hello"), ("assistant", "Hi."), ("user", f"<system>\nA\n</system>\n\n{B}\n\nhello")]),
        ([USER, ANSWER, SYSTEM_B], [("user", "hello"), ("assistant", "Hi."), ("user", B)]),
        ([SYSTEM_A, ANSWER, SYSTEM_B, ANSWER],
         [("system", "A"), ("assistant", "Hi."), ("user", B), ("assistant", "Hi.")]),
        ([SYSTEM_A, SYSTEM_B], [("system", "A\n\nB")]),
        ([], []),
    ],
)  # fmt: skip
def test_where_system_messages_go(messages: list[dict[str, Any]], wanted: list[tuple[str, Any]]) -> None:
    before = [dict(message) for message in messages]
    assert said(*messages) == wanted
    assert messages == before  # the caller's messages are as they were


def test_parts_stay_in_their_order() -> None:
    picture = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    ((_, content),) = said(picture, SYSTEM_B)
    assert [part.get("text", part["type"]) for part in content] == ["image", "What?", "", B]
    ((_, content),) = said({"role": "system", "content": [{"type": "text", "text": "A"}]}, SYSTEM_B)
    assert [part["text"] for part in content] == ["A", "", "B"]


def test_prompts_of_the_embedded_model() -> None:
    with pocketvlm.load("nano") as model:

        def text(*messages: dict[str, Any]) -> str:
            return str(model.processor(list(messages)).text)

        assert text(SYSTEM_A, SYSTEM_B, USER) == text({"role": "system", "content": "A\n\nB"}, USER)
        developer = {"role": "developer", "content": "B"}
        assert text(SYSTEM_A, developer, USER) == text(SYSTEM_A, SYSTEM_B, USER)
        parts = {"role": "system", "content": [{"type": "text", "text": "A"}]}
        assert text(parts, SYSTEM_B, USER) == text(SYSTEM_A, SYSTEM_B, USER)
        assert text(USER, SYSTEM_B) == text({"role": "user", "content": f"hello\n\n{B}"})
        called = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
        answered = [text(USER, called, {"role": role, "name": "f", "content": "1"}) for role in ("function", "tool")]
        assert answered[0] == answered[1]
        with pytest.raises(pocketvlm.PromptError, match="No user query"):
            text(SYSTEM_A, SYSTEM_B)


def test_a_template_that_takes_them_gets_them_as_they_are() -> None:
    every = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    first = "{% for m in messages %}{% if m.role != 'system' or loop.first %}{{ m.content }}{% endif %}{% endfor %}"
    assert ChatTemplate(every).takes_system_anywhere
    assert not ChatTemplate(first).takes_system_anywhere
    with pocketvlm.load("nano") as model:
        assert not model.processor.template.takes_system_anywhere
        model.processor.template = ChatTemplate(every)
        assert model.processor([SYSTEM_A, SYSTEM_B, USER]).text == "<system>A<system>B<user>hello"
