"""The runaway guard: exactly what it promises on ids, what real runaways look like, and what it must leave alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.errors import OptionError
from pocketvlm.parsing import RunawayGuard
from pocketvlm.processor import Tokenizer

ROOT = Path(__file__).parents[2]


def fired_at(ids: Iterable[int], guard: RunawayGuard | None = None) -> int | None:
    """How many ids the guard had seen when it first fired, None if never."""
    guard = guard or RunawayGuard()
    return next((count for count, token in enumerate(ids, 1) if guard.add(token)), None)


def repeats_without_end(ids: list[int], max_period: int, min_repeats: int, min_tokens: int) -> bool:
    """The promise, said plainly."""
    for period in range(1, max_period + 1):
        total = max(min_repeats * period, min_tokens)
        tail = ids[-total:]
        if len(ids) >= total and all(a == b for a, b in zip(tail, tail[period:], strict=False)):
            return True
    return False


@settings(max_examples=500, deadline=None)
@given(
    blocks=st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(1, 8)), max_size=6),
    max_period=st.integers(1, 5),
    min_repeats=st.integers(2, 4),
    min_tokens=st.integers(1, 12),
)
def test_it_fires_exactly_where_the_tail_repeats(blocks, max_period, min_repeats, min_tokens):
    ids = [token for block, count in blocks for token in block * count]
    guard = RunawayGuard(max_period, min_repeats, min_tokens)
    for end, token in enumerate(ids, 1):
        assert guard.add(token) == repeats_without_end(ids[:end], max_period, min_repeats, min_tokens)


@pytest.mark.parametrize("period", [1, 2, 3, 7, 63, 64, 65, 128, 199, 200])
@pytest.mark.parametrize("before", [0, 1, 777, 5000])
def test_every_period_is_found_as_soon_as_it_lasted(period, before):
    ids = [1000 + token for token in range(before)] + list(range(period)) * (1600 // period + 8)
    assert fired_at(ids) == before + max(8 * period, 512)


def test_a_longer_period_is_not_looked_for():
    assert fired_at(list(range(201)) * 30) is None
    assert fired_at(list(range(201)) * 30, RunawayGuard(max_period=201)) == 201 * 8


def test_it_goes_on_firing_until_the_repetition_ends():
    guard = RunawayGuard(max_period=4, min_repeats=3, min_tokens=6)
    assert [guard.add(token) for token in [5, 6] * 4 + [6, 5]] == [False] * 5 + [True] * 3 + [False] * 2


@pytest.mark.parametrize(
    ("name", "value"), [("max_period", 0), ("min_repeats", 1), ("min_tokens", 0), ("max_period", -3)]
)
def test_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(OptionError, match=f"{name}={value}"):
        RunawayGuard(**{name: value})


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    folder = ROOT / "src" / "pocketvlm" / "nano"
    return Tokenizer.from_files(folder / "tokenizer.json", json.loads((folder / "tokenizer_config.json").read_text()))


PARAGRAPH = (
    "The image shows a busy street in the rain. People with umbrellas cross at the lights while a red bus waits. "
    "On the left is a small shop whose sign says OPEN, on the right an old church with a green door. "
)
RUNAWAYS = {
    "a word": "the " * 2000,
    "a character": "!" * 2000,
    "line breaks": "\n" * 2000,
    "a sentence": "I cannot read this text clearly. " * 400,
    "a paragraph": PARAGRAPH * 40,
    "a list item": "The picture shows:\n\n" + "- a red apple on a table\n" * 400,
    "a table row": "| Name | Price |\n|---|---|\n" + "| Apple | 1.20 € |\n" * 400,
    "an empty table": "<table>" + "<tr><td></td><td></td><td></td></tr>" * 400,
    "a number": "The total is 10" + "0" * 4000,
    "dots": "1. Introduction " + ". " * 2000,
    "Chinese": "图片中有一只猫。" * 400,
    "a circle of thought": "Wait, let me look again. The number is 7.\n\nHmm, it might be 1.\n\n" * 200,
    "spaces inside JSON": '{"items": [' + " " * 3000,
    "a call again and again": "<tool_call>\n<function=look>\n<parameter=at>\nsky\n</parameter>\n</function>\n" * 100,
}  # fmt: skip


@pytest.mark.parametrize("name", RUNAWAYS)
def test_runaways_of_models_are_caught(tokenizer, name):
    ids = tokenizer.encode_plain(RUNAWAYS[name])
    found = fired_at(ids)
    assert found is not None
    # Not before the repetition has lasted, and the answer is cut where it still repeats.
    assert 512 <= found < len(ids)


ORDINARY = {
    "numbers": ", ".join(map(str, range(1, 1500))),
    "numbered lines": "".join(f"{n}. A red apple on the table.\n" for n in range(1, 200)),
    "a multiplication table": "\n".join("|" + "|".join(str(a * b) for b in range(1, 21)) + "|" for a in range(1, 21)),
    "a matrix of zeros": "[" + ",\n ".join("[" + ", ".join(["0"] * 10) + "]" for _ in range(10)) + "]",
    "an identity matrix": "\n".join(" ".join("1" if a == b else "0" for b in range(24)) for a in range(24)),
    "a form with empty rows": "| Date | Name | Sign |\n|---|---|---|\n" + "|  |  |  |\n" * 20,
    "an empty HTML table": "<table>" + "<tr><td></td><td></td><td></td></tr>\n" * 12 + "</table>",
    "rows with one answer": "".join(f"| {n:03} | yes | yes | yes | yes |\n" for n in range(150)),
    "lines of dashes": ("Title\n" + "-" * 80 + "\n" + PARAGRAPH + "\n" + "=" * 120 + "\n") * 4,
    "a long number": "2" + "".join(str(pow(7, n, 11)) for n in range(3)) + str(2**2000) + str(10**120),
    "one third": "0." + "3" * 300,
    "one seventh": "0." + "142857" * 60,
    "rules of a table": "|" + "---|" * 40 + "\n",
    "laughing": "ha" * 150,
    "a poem with a refrain": "".join(f"Verse {n} tells of winds\nRow, row, row your boat\nGently down the stream\n"
                                     for n in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")),
    "the same line ten times": "I will not talk in class again.\n" * 10,
    "code with switch": "".join(f"        case {n}: return table[{n}];\n        break;\n" for n in range(300)),
    "boxes": "".join(f'<rect x="{20 * n}" y="0" width="10" height="10"/>\n' for n in range(200)),
    "a data frame": "".join(f"2024-01-{n % 28 + 1:02}, {n * 37 % 101}, 0.0, 0.0, 0.0, 0.0, NaN\n" for n in range(200)),
    "hex dump": "".join(f"{16 * n:08x}  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00\n" for n in range(100)),
    "indented JSON": json.dumps([{"id": n, "tags": [], "box": [0, 0, n, n], "ok": True} for n in range(80)], indent=4),
    "deep indentation": "".join(" " * 4 * depth + "if x:\n" for depth in range(30)),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_answers_are_left_alone(tokenizer, name):
    assert fired_at(tokenizer.encode_plain(ORDINARY[name])) is None


def test_no_file_of_this_project_is_taken_for_a_runaway(tokenizer):
    files = [path for suffix in ("py", "md", "h", "cpp", "jinja") for path in ROOT.glob(f"[dnrst]*/**/*.{suffix}")]
    assert len(files) > 100
    for path in sorted(files):
        ids = tokenizer.encode_plain(path.read_text(encoding="utf-8"))
        assert fired_at(ids[:20_000]) is None, path
