"""A conversation of n answers becomes n samples, each under the messages before its answer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal

from pocketvlm.errors import DataError
from pocketvlm.train.data.records import Conversation
from pocketvlm.train.sample import THINK_END, Sample

Turns = Literal["all", "last"]

_THINK = "<think>"
# Roles that may come before each role; None is the beginning.
_BEFORE: dict[str, tuple[str | None, ...]] = {
    "system": (None,),
    "user": (None, "system", "user", "assistant", "tool"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def samples_of(talk: Conversation, place: str, strict: bool, turns: Turns = "all") -> list[Sample]:
    """The samples of a conversation. strict: a question must not follow a question. Raises DataError."""
    _check_order(talk.messages, strict)
    found = []
    for index, message in enumerate(talk.messages):
        if message["role"] != "assistant":
            continue
        where = f"answer {sum(each['role'] == 'assistant' for each in talk.messages[: index + 1])}"
        answer, thinking = _answer(message, where)
        if talk.thinking and not thinking and message["learn"]:
            raise DataError(f"{where} has no reasoning, but chat_template_kwargs says enable_thinking=true: add it")
        if talk.thinking is False and thinking:
            answer, thinking = answer.split(f"{THINK_END}\n\n", 1)[1], False
        if message["learn"]:
            before = [_plain(each) for each in talk.messages[:index]]
            calls = tuple(message.get("tool_calls", ()))
            found.append((before, answer, thinking, calls))
    if not found:
        raise DataError("no answer is learnt (loss or weight is 0 everywhere): remove the record")
    return [
        Sample(
            tuple(before),
            answer,
            place,
            tuple(talk.tools),
            thinking,
            MappingProxyType(_count(before)),
            calls,
            turn,
            MappingProxyType(dict(talk.extra)),
        )
        for turn, (before, answer, thinking, calls) in enumerate(found)
    ][-1 if turns == "last" else 0 :]


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != "learn"}


def _count(messages: Sequence[dict[str, Any]]) -> dict[str, int]:
    kinds = [
        part["type"].removesuffix("_url")
        for message in messages
        if isinstance(message["content"], list)
        for part in message["content"]
    ]
    return {"images": kinds.count("image"), "videos": kinds.count("video")}


def _check_order(messages: Sequence[dict[str, Any]], strict: bool) -> None:
    roles = [None, *(message["role"] for message in messages)]
    for number, (before, role) in enumerate(pairwise(roles)):
        allowed = _BEFORE[str(role)]
        if before not in allowed or (strict and before == role == "user"):
            after = "at the beginning" if before is None else f"after {before!r}"
            way = "begin with a question of the user, then let questions and answers alternate"
            raise DataError(f"message {number + 1}: role {role!r} {after} is out of order: {way}")
        if role == "tool" and before == "assistant" and not messages[number - 1].get("tool_calls"):
            raise DataError(f"message {number + 1}: a tool's result without a tool call before it: add the call")
    if roles[-1] != "assistant":
        raise DataError(f"the last message is of role {roles[-1]!r}: the last one must be an answer of the assistant")


def _answer(message: dict[str, Any], where: str) -> tuple[str, bool]:
    """The text of an answer as the model shall write it after the prompt, and whether the prompt opens reasoning."""
    content = message["content"]
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content)
    text, thought = content.strip(), message.get("reasoning_content", "").strip()
    begins = text.startswith(_THINK)
    if begins and THINK_END not in text:
        raise DataError(f"{where}: <think> has no </think>: close the reasoning, and put the answer after it")
    if begins or THINK_END in text:
        inside, _, text = text.removeprefix(_THINK).partition(THINK_END)
        if thought and inside.strip():
            raise DataError(f"{where}: reasoning in the text and in reasoning_content: give it once")
        thought, text = thought or inside.strip(), text.strip()
    if _THINK in thought or THINK_END in thought or _THINK in text or THINK_END in text:
        raise DataError(f"{where}: more than one <think> block: give the reasoning once, before the answer")
    if not text and not message.get("tool_calls"):
        raise DataError(f"{where} is empty{' after its reasoning' if thought else ''}: write it, or remove the record")
    return (f"{thought}\n{THINK_END}\n\n{text}", True) if thought else (text, False)
