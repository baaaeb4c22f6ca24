"""Stop strings give one result at every split of the stream."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.parsing.stops import StopStrings

WORDS = st.text(alphabet="ab\n", min_size=1, max_size=4)


def whole(text: str, stops: list[str]) -> str:
    matches = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(matches)[1]] if matches else text


def streamed(text: str, stops: list[str], cuts: list[int]) -> tuple[str, StopStrings]:
    stream = StopStrings(stops)
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = "".join(stream.feed(text[a:b]) for a, b in itertools.pairwise(bounds))
    return shown + stream.finish(), stream


@settings(max_examples=1000, deadline=None)
@given(st.text(alphabet="ab\n", max_size=30), st.lists(WORDS, max_size=3), st.lists(st.integers(0, 30), max_size=8))
def test_any_split_shows_the_text_before_the_first_match(text: str, stops: list[str], cuts: list[int]) -> None:
    shown, _ = streamed(text, stops, cuts)
    one_by_one, stream = streamed(text, stops, list(range(len(text))))
    expected = whole(text, stops)
    assert one_by_one == expected
    assert (stream.matched is not None) == (expected != text)
    assert shown == expected


def test_text_that_cannot_become_a_stop_is_shown_at_once() -> None:
    stream = StopStrings(["END"])
    assert stream.feed("the E") == "the "
    assert stream.feed("gg") == "Egg"
    assert stream.feed("EN") == ""
    assert stream.feed("D more") == ""
    assert stream.matched == "END"
    assert stream.finish() == ""
