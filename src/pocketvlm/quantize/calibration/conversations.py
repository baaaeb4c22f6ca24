"""Writes chat turns and tool calls from a seed: questions with answers in English and Chinese, tools and results."""

from __future__ import annotations

import json
from random import Random
from typing import Any

Messages = list[dict[str, Any]]

_SYSTEM = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a vision assistant.",
    "You are a careful translator. Keep names as they are.",
    "你是一个乐于助人的助手，请用中文回答。",
)
_FACTS = (
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Japan?", "Tokyo"),
    ("How many days are in a week?", "7"),
    ("What colour is the sky?", "blue"),
    ("What is the opposite of hot?", "cold"),
    ("Which month comes after May?", "June"),
    ("Why do we see lightning before we hear thunder?", "Light travels about a million times faster than sound."),
    ("Give me three uses of vinegar in the house.", "It removes limescale, cleans glass, and takes smells away."),
    ("Explain recursion in one sentence.", "A function calls itself on a smaller part of the problem."),
    ("Rewrite politely: send me the file now.", "Could you please send me the file when you have a moment?"),
    ("地球绕太阳一周需要多长时间？", "大约三百六十五天零六个小时。"),
    ("请把“早上好”翻译成英语。", "Good morning."),
    ("中国最长的河流是哪一条？", "长江，全长约六千三百公里。"),
    ("怎样才能睡得更好？", "固定作息时间，睡前少看手机，下午以后不喝咖啡。"),
)  # fmt: skip
_HELD_OUT_FACTS = (
    ("What is the capital of Italy?", "Rome"),
    ("How many legs does a spider have?", "8"),
    ("What is frozen water?", "ice"),
    ("Why is the sea salty?", "Rivers carry dissolved minerals into it, and water leaves it only as vapour."),
    ("月亮为什么会有圆缺？", "因为月球绕地球转动时，我们看到的被太阳照亮的部分在变化。"),
    ("一打鸡蛋有多少个？", "十二个。"),
)
_PLACES = ("Lisbon", "Osaka", "Nairobi", "Quito", "Oslo", "成都", "Winnipeg", "Adelaide")
_TOOLS: tuple[dict[str, Any], ...] = (
    {
        "name": "get_weather",
        "description": "Current weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "City and country."},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location"],
        },
    },
    {
        "name": "search_flights",
        "description": "Find flights between two cities on a day.",
        "parameters": {
            "type": "object",
            "properties": {
                "origin": {"type": "string"},
                "destination": {"type": "string"},
                "date": {"type": "string", "format": "date"},
                "max_price": {"type": "number"},
            },
            "required": ["origin", "destination", "date"],
        },
    },
    {
        "name": "create_event",
        "description": "Put an event into the calendar.",
        "parameters": {
            "type": "object",
            "properties": {"title": {"type": "string"}, "start": {"type": "string"}, "minutes": {"type": "integer"}},
            "required": ["title", "start"],
        },
    },
)


def chat(rng: Random, held_out: bool = False) -> Messages:
    """A conversation of one to three questions, perhaps with a system prompt, that ends with an answer."""
    facts = _HELD_OUT_FACTS if held_out else _FACTS
    messages = [{"role": "system", "content": rng.choice(_SYSTEM)}] if rng.random() < 0.5 else []
    for question, answer in rng.sample(facts, rng.choice((1, 1, 2, 3))):
        messages += _turn(question, answer)
    if rng.random() < 0.5:
        a, b = rng.randint(0, 60), rng.randint(0, 60)
        messages += _turn(f"What is {a} + {b}?", str(a + b))
    return messages


def about(rng: Random, paragraph: str) -> Messages:
    """A question about a text that was given, answered with words of the text."""
    words = paragraph.split() if " " in paragraph else list(paragraph)
    joint = " " if " " in paragraph else ""
    first = joint.join(words[: min(14, len(words))])
    question = rng.choice(("Continue this text.", "Repeat the beginning of this text.", "这段话讲的是什么？"))
    return _turn(f"{question}\n\n{paragraph}", first)


def tool_call(rng: Random) -> tuple[Messages, list[dict[str, Any]]]:
    """A conversation in which a tool is called and its result used, and the definitions of the tools."""
    one, other = rng.sample(_PLACES, 2)
    temperature, day = rng.randint(-8, 34), rng.randint(1, 28)
    if rng.random() < 0.5:
        question, name = f"How warm is it in {one} now?", "get_weather"
        arguments: dict[str, Any] = {"location": one, "unit": "celsius"}
        result: dict[str, Any] = {"temperature": temperature, "condition": rng.choice(("rain", "clear", "snow", "fog"))}
        answer = f"It is {temperature} degrees in {one}."
    else:
        question, name = f"Find me a flight from {one} to {other} on the {day}th of June.", "search_flights"
        arguments = {"origin": one, "destination": other, "date": f"2025-06-{day:02d}"}
        result = {"flights": [{"number": f"XA{rng.randint(100, 999)}", "price": rng.randint(80, 900)}]}
        answer = f"The best flight is {result['flights'][0]['number']} for {result['flights'][0]['price']} euros."
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    messages: Messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": json.dumps(result), "tool_call_id": "call_1"},
        {"role": "assistant", "content": answer},
    ]
    others = [tool for tool in _TOOLS if tool["name"] != name]
    chosen = [*(tool for tool in _TOOLS if tool["name"] == name), rng.choice(others)]
    rng.shuffle(chosen)
    return messages, [{"type": "function", "function": tool} for tool in chosen]


def _turn(question: str, answer: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
