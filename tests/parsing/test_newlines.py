"""The newline normalizer: which text it converts, which it does not, and the same result when streamed."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pocketvlm.parsing import NewlineNormalizer, normalize_newlines
from pocketvlm.parsing.newlines import SPAN_LIMIT

TEXTS = [
    "\\n", "\\r\\n", "\\r", "\\", "\\\\", "\\nabla", "\\neq", "\\rho", "\\(", "\\)", "\\[", "\\]", "\\$", "\\`", "$",
    "$$", "`", "``", "```", "````", "\n", " ", "n", "r", "a", "5", "text ", "\\nab", "\\right", "x" * 90,
]  # fmt: skip
TEXT = st.lists(st.sampled_from(TEXTS), max_size=25).map("".join)
SHORT = st.text(st.sampled_from("$` x\\n"), max_size=30)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (r"First\nSecond\r\nThird\rFourth", "First\nSecond\nThird\nFourth"),
        (r"\n\n- one\n- two\n", "\n\n- one\n- two\n"),
        (r"kept \\n and \\\n", r"kept \\n and \\\n"),
        ("a real\nnewline", "a real\nnewline"),
        # Code
        ("```py\nprint('a\\nb')\n```\\nx", "```py\nprint('a\\nb')\n```\nx"),
        (r"```a\nb``c\n```\nx", "```a\\nb``c\\n```\nx"),
        (r"````a\n```\n````\nx", "````a\\n```\\n````\nx"),
        (r"```a\n````\nx", "```a\\n````\nx"),
        (r"unclosed ```a\nb", r"unclosed ```a\nb"),
        (r"`a\nb`\nx", "`a\\nb`\nx"),
        (r"``a`\nb``\nx", "``a`\\nb``\nx"),
        ("`a\\nb\n`\\nx", "`a\nb\n`\nx"),
        (r"a ` alone\nx", "a ` alone\nx"),
        (r"a \`b\nc`", "a \\`b\nc`"),
        # Mathematics
        (r"$x\neq y\n$\nx", "$x\\neq y\\n$\nx"),
        (r"$$a\nb$c\n$$\nx", "$$a\\nb$c\\n$$\nx"),
        (r"\(a\nb\)\n\[c\nd\]\n", "\\(a\\nb\\)\n\\[c\\nd\\]\n"),
        (r"\[a\\\n]\\]\n\]\n", "\\[a\\\\\\n]\\\\]\\n\\]\n"),
        (r"\[open\nend", r"\[open\nend"),
        (r"$ 5\nand 6$\n", "$ 5\nand 6$\n"),
        (r"$5\nand $6\n", "$5\nand $6\n"),
        (r"$5\n$6\nor so", "$5\n$6\nor so"),
        (r"cost \$5\nand\n$", "cost \\$5\nand\n$"),
        (r"$a \$\nb$\n", "$a \\$\\nb$\n"),
        (r"$a\nb$$c\n$$", "$a\nb$$c\\n$$"),
        # LaTeX commands in the open
        (r"\nabla f \neq \rho\right)", r"\nabla f \neq \rho\right)"),
        (r"\nablaz\nabl\neqs", "\nablaz\nabl\neqs"),
        (r"\r\nabla", "\nabla"),
        (r"\nu\ne\not", "\nu\ne\not"),
        (r"C:\temp\(x86\)\new", "C:\\temp\\(x86\\)\new"),
        ("", ""),
        ("\\", "\\"),
        ("$", "$"),
        (r"\r", "\n"),
        ("\\r\\", "\n\\"),
    ],
)
def test_rules(text, wanted):
    assert normalize_newlines(text) == wanted
    stream = NewlineNormalizer()
    assert "".join(map(stream.feed, text)) + stream.finish() == wanted


@settings(max_examples=1500, deadline=None)
@given(text=st.one_of(TEXT, SHORT, st.text(st.sampled_from("\\nr$`()[]ab \n5"), max_size=40)), data=st.data())
@example(text="$x and `y and text $$ z\\n` a\\n", data=None)
@example(text="$" + "a" * (SPAN_LIMIT - 3) + "\\n$\\n", data=None)
@example(text="`" + "a" * (SPAN_LIMIT - 1) + "`\\n", data=None)
@example(text="``\\n" + "a" * (SPAN_LIMIT - 5) + "``", data=None)
def test_any_split_gives_the_same(text, data):
    wanted = normalize_newlines(text)
    cuts = [] if data is None else sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    stream = NewlineNormalizer()
    parts = [stream.feed(text[start:end]) for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert "".join(parts) + stream.finish() == wanted
    letters = NewlineNormalizer()
    assert "".join(map(letters.feed, text)) + letters.finish() == wanted
    # Finishing makes the object new again.
    assert letters.feed(text) + letters.finish() == wanted


@settings(max_examples=500, deadline=None)
@given(text=TEXT)
def test_only_escapes_change(text):
    restored = normalize_newlines(text).replace("\n", "")
    assert restored == text.replace("\n", "") or len(restored) < len(text)
    if "\\n" not in text and "\\r" not in text:
        assert normalize_newlines(text) == text


def test_text_without_escapes_is_never_held_back():
    stream = NewlineNormalizer()
    for char in "plain $x and `y and ``` text $$ z":
        assert stream.feed(char) == char


def test_an_escape_is_decided_as_soon_as_it_can_be():
    stream = NewlineNormalizer()
    assert [stream.feed(chunk) for chunk in ("a\\", "n", "S", "ee\\n", "ab", "out")] == [
        "a",
        "",
        "\nS",
        "ee",
        "",
        "\nabout",
    ]


def test_what_is_held_back_is_bounded():
    stream = NewlineNormalizer()
    longest = shown = 0
    text = "$5 and\\n" + "a long story without an end " * 40
    for read, char in enumerate(text):
        shown += len(stream.feed(char))
        longest = max(longest, read + 1 - shown)
    assert longest <= SPAN_LIMIT


@pytest.mark.parametrize(("size", "converted"), [(SPAN_LIMIT - 4, False), (SPAN_LIMIT - 3, True)])
@pytest.mark.parametrize("mark", ["$", "`"])
def test_long_spans_protect_nothing(mark, size, converted):
    text = mark + "a" * size + "\\n" + mark
    assert ("\n" in normalize_newlines(text)) is converted
