"""The order of lines within a window, and its bounds."""

from __future__ import annotations

import itertools

from jobs.kit import CHAT, line

from pocketvlm.jobs import schedule
from pocketvlm.jobs.line import Line
from pocketvlm.jobs.schedule import ordered


def as_line(number, content="hello", size=10, **fields):
    return Line(number, str(number), CHAT, line(str(number), content, **fields)["body"], size=size)


def picture(name, text):
    return [{"type": "image", "path": name}, {"type": "text", "text": text}]


def test_lines_about_the_same_picture_are_neighbours():
    lines = [as_line(number, picture(f"{number % 3}.png", f"question {number}")) for number in range(12)]
    names = [each.body["messages"][0]["content"][0]["path"] for each in ordered(lines)]
    assert sorted(names) == sorted(f"{number % 3}.png" for number in range(12))
    assert sum(a != b for a, b in itertools.pairwise(names)) == 2


def test_long_lines_come_first():
    lines = [
        as_line(1, "a"),
        as_line(2, "b" * 500),
        as_line(3, picture("c.png", "c")),
        as_line(4, "d", max_tokens=9000),
    ]
    assert [each.number for each in ordered(lines)] == [4, 3, 2, 1]


def test_a_window_is_bounded(monkeypatch):
    monkeypatch.setattr(schedule, "WINDOW_BYTES", 100)
    read = []

    def source():
        for number in range(40):
            read.append(number)
            yield as_line(number, size=10)

    found = ordered(source())
    first = next(found)
    assert len(read) == 10
    assert sorted([first.number, *(each.number for each in found)]) == list(range(40))


def test_each_line_comes_once_whatever_its_body_is():
    bodies = [
        {},
        {"messages": 3},
        {"messages": [1, {"role": "user"}]},
        {"input": [{"content": None}]},
        {"prompt": [1, 2]},
        {"messages": [{"content": [[], "x", {"type": 3}]}], "max_tokens": "x"},
    ]
    lines = [Line(number, None, CHAT, body) for number, body in enumerate(bodies)]
    assert sorted(each.number for each in ordered(lines)) == list(range(len(bodies)))
