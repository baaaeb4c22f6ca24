"""One pipeline from token events to answers: the fold of its deltas is the same however the events arrive."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from pocketvlm.answers.answer import Answer
from pocketvlm.answers.choice import AnswerOptions, Choice, Delta, opens_reasoning
from pocketvlm.engine.driver import Ticket
from pocketvlm.engine.request import Request, StageSeconds, TokenEvent
from pocketvlm.parsing import AnswerParser
from pocketvlm.types import MediaSeconds, Prompt, SamplingParams, TokenLogprob

END = 1000  # the id that ends answers
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}}}}
CALL = "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>"


class Bytes:
    """A tokenizer whose tokens are the bytes, and `</think>` beside them."""

    def __init__(self) -> None:
        self.control_ids = {"</think>": 256}

    def is_skipped(self, token_id: int) -> bool:
        return False

    def token_bytes(self, token_id: int) -> bytes:
        return {256: b"</think>", END: b"<|end|>"}.get(token_id, bytes([token_id % 256]))

    def ids(self, text: str) -> list[int]:
        head, tag, tail = text.partition("</think>")
        return [*head.encode(), *([256] if tag else []), *tail.encode()]


def choice(options: dict[str, Any] | None = None, **params: Any) -> Choice:
    prompt = Prompt(np.array([1, 2, 3], np.int32), (), (), "")
    how = AnswerOptions(Bytes(), **(options or {}))  # type: ignore[arg-type]
    return Choice(0, Request(prompt, SamplingParams(**params), (END,)), how)


def events(text: str, end: str | None = "stop", *, logprobs: bool = False) -> list[TokenEvent]:
    """Events of a text, then one that ends it: with an end id, at the limit of tokens, or without a token."""
    ids = Bytes().ids(text)
    found = [TokenEvent(0, id_, None, TokenLogprob(id_, -0.5, ()) if logprobs else None) for id_ in ids]
    match end:
        case "stop":
            found.append(TokenEvent(0, END, "stop", TokenLogprob(END, -0.5, ()) if logprobs else None))
        case "length":
            found[-1] = replace(found[-1], finish_reason="length")
        case "abort":
            found.append(TokenEvent(0, -1, "abort"))
    return found


def fold(deltas: Sequence[Delta]) -> dict[str, Any]:
    answer = Answer()
    for delta in deltas:
        answer.add(delta)
    return {
        "text": "".join(answer.text),
        "reasoning": "".join(answer.reasoning),
        "calls": [(call.name, "".join(call.arguments)) for call in answer.calls],
        "logprobs": answer.logprobs,
        "ids": answer.token_ids,
        "finish": answer.finish_reason,
        "stop": answer.stop,
    }


CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("plain: ä€😀 and more", "stop", {}, {}),
    ("cut at the limit 😀"[:-1] + "é", "length", {}, {}),
    ("ended by the user, sto", "abort", {}, {"stop": ("stop",)}),
    ("a stop string: xxSTOPyy", "stop", {}, {"stop": ("STOP", "OPy")}),
    (r"written \n newlines, `code\n`, \r\n and \\" + "\\", "stop", {"normalize": True}, {}),
    ("\nhm, I see\n</think>\n\nFour.", "stop", {"parser": partial(AnswerParser, thinking=True), "thinking": True}, {}),
    (
        rf"\nLet me.\n{CALL}" + f"\n{CALL}\n",
        "stop",
        {"parser": partial(AnswerParser, tools=[TOOL]), "normalize": True},
        {},
    ),
    (f"one {CALL} two", "stop", {"parser": partial(AnswerParser, tools=[TOOL], parallel=False)}, {}),
    ("so " + "ab" * 700, "length", {"guard": True}, {}),
]


@pytest.mark.parametrize(("text", "end", "options", "params"), CASES)
def test_any_cut_of_the_events_folds_to_the_whole(
    text: str, end: str, options: dict[str, Any], params: dict[str, Any]
) -> None:
    found = events(text, end, logprobs=True)
    whole = fold([choice(options, **params).feed(found)])
    assert whole["finish"] is not None
    for seed in range(20):
        cuts = sorted(random.Random(seed).sample(range(len(found) + 1), min(seed * 3, len(found))))
        one = choice(options, **params)
        starts = [0, *cuts]
        deltas = [one.feed(found[a:b]) for a, b in zip(starts, [*cuts, len(found)], strict=True)]
        assert fold(deltas) == whole
    single = choice(options, **params)
    assert fold([single.feed([event]) for event in found]) == whole


def test_what_the_parts_of_the_pipeline_do_together() -> None:
    plain = fold([choice().feed(events("hello"))])
    assert (plain["text"], plain["finish"], plain["ids"][-1]) == ("hello", "stop", END)
    stopped = choice(stop=("lo",))
    assert fold([stopped.feed(events("hello, you"))])["text"] == "hel"
    assert (stopped.matched, stopped.finish_reason, stopped.tokens) == ("lo", "stop", 5)
    thought = choice({"parser": partial(AnswerParser, thinking=True), "thinking": True, "normalize": True})
    both = fold([thought.feed(events("\na\\nb\n</think>\n\nc\\nd"))])
    assert (both["reasoning"], both["text"]) == ("a\\nb", "c\nd")
    assert (thought.reasoning_tokens, thought.tokens) == (7, 14)
    called = choice({"parser": partial(AnswerParser, tools=[TOOL], parallel=False)})
    assert fold([called.feed(events(f"one {CALL} two"))])["calls"] == [("f", '{"x": 1}')]
    assert called.called
    assert called.finish_reason == "stop"
    repeats = choice({"guard": True})
    assert fold([repeats.feed(events("x" * 2000, "length"))])["finish"] == "repetition"
    assert repeats.tokens < 600
    held = choice({"guard": True}, stop=("xxY",))
    assert fold([held.feed(events("x" * 2000, "length"))])["text"] == "x" * held.tokens
    assert fold([choice().feed(events("x" * 2000, "length"))])["finish"] == "length"


def test_what_is_held_back_comes_out_when_an_answer_is_aborted() -> None:
    one = choice(stop=("stop",))
    assert one.feed(events("no sto", None)).text == "no "
    last = one.feed([TokenEvent(0, -1, "abort")])
    assert (last.text, last.finish_reason, last.token_ids, one.tokens) == ("sto", "abort", (), 6)


def test_a_failure_is_told_with_its_cause_and_later_events_are_ignored() -> None:
    one, cause = choice(), OSError("gone")
    delta = one.feed([*events("a", None), TokenEvent(0, -1, "error", error="it failed", cause=cause), *events("b")])
    assert (delta.text, delta.finish_reason, delta.error, delta.cause) == ("a", "error", "it failed", cause)
    assert one.feed(events("c")).text == ""
    assert one.tokens == 1


def test_usage_and_timings_are_of_this_request_alone() -> None:
    clip = MediaSeconds(decode=5.0, resize=1.0)
    prompt = Prompt(np.arange(4, dtype=np.int32), (), (), "", decode_seconds=1.0, resize_seconds=0.5, later=(clip,))
    one = Choice(0, Request(prompt, SamplingParams(), (END,)), AnswerOptions(Bytes()), began=0.0)  # type: ignore[arg-type]
    assert one.timings().ttft == 0.0
    one.begin(Ticket(0, seconds=StageSeconds(vision=1.0, prefill=2.0, decode=3.0)))
    clip.decode, clip.resize = 7.0, 1.25  # frames that were decoded for this request
    one.feed(events("abc"))
    assert (one.usage.prompt_tokens, one.usage.completion_tokens, one.usage.total_tokens) == (4, 4, 8)
    times = one.timings(load_seconds=9.0)
    assert (times.load, times.decode_media, times.resize) == (9.0, 3.0, 0.75)
    assert (times.vision, times.prefill, times.decode) == (1.0, 2.0, 3.0)
    assert times.ttft == one.first


@pytest.mark.parametrize(("text", "opens"), [("...<think>\n", True), ("<think>\n\n</think>\n\n", False), ("", False)])
def test_a_prompt_may_open_reasoning(text: str, opens: bool) -> None:
    assert opens_reasoning(Prompt(np.zeros(1, np.int32), (), (), text)) is opens
