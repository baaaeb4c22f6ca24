"""The meaning of a typed line: paths in all spellings, addresses, and words that only look like them."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketvlm.chat.typed import Absent, kind_of, understand


def read(line: str) -> tuple[list[str], str]:
    """The media of a line, and its sentence with #1, #2 ... for them."""
    typed = understand(line)
    names = tuple(f"#{number + 1}" for number in range(len(typed.found)))
    return [found.location for found in typed.found], typed.sentence(names)


@pytest.mark.parametrize(
    ("line", "found", "sentence"),
    [
        ("a.png", ["a.png"], ""),
        ("  ./a.png  ", ["./a.png"], ""),
        ("What is this? a.png", ["a.png"], "What is this?"),
        ("a.png What is this?", ["a.png"], "What is this?"),
        ("a.png: what is this?", ["a.png"], "what is this?"),
        ("What is in a.png?", ["a.png"], "What is in #1?"),
        ("Describe a.png.", ["a.png"], "Describe #1."),
        ("a.png shows what?", ["a.png"], "#1 shows what?"),
        ("What differs between a.png and b.JPG?", ["a.png", "b.JPG"], "What differs between #1 and #2?"),
        ("a.png, b.JPG What differs?", ["a.png", "b.JPG"], "What differs?"),
        ("a.png and b.JPG: what differs?", ["a.png", "b.JPG"], "#1 and #2: what differs?"),
        ("What differs? a.png b.JPG", ["a.png", "b.JPG"], "What differs?"),
        ("Compare:\na.png\nb.JPG", ["a.png", "b.JPG"], "Compare:"),
        ("one a.png\ntwo b.JPG", ["a.png", "b.JPG"], "one #1\ntwo #2"),
        ("a.png a.png", ["a.png", "a.png"], ""),
        ("(a.png)", ["a.png"], ""),
        ("is it (a.png)?", ["a.png"], "is it (#1)?"),
        ("`a.png` what?", ["a.png"], "what?"),
        # blanks, with and without quotes
        ("look at my cat.png now", ["my cat.png"], "look at #1 now"),
        ("deep er/c d.webp", ["deep er/c d.webp"], ""),
        ("'my cat.png' what?", ["my cat.png"], "what?"),
        ('What is "my cat.png"?', ["my cat.png"], "What is #1?"),
        ("“my cat.png” what?", ["my cat.png"], "what?"),
        (r"my\ cat.png what?", ["my cat.png"], "what?"),
        (r"it\'s\ \(1\).png what?", ["it's (1).png"], "what?"),
        (r"'it'\''s (1).png' what?", ["it's (1).png"], "what?"),
        ("don't show a.png", ["a.png"], "don't show #1"),
        ("What's in 'my cat.png'?", ["my cat.png"], "What's in #1?"),
        # no suffix, but a directory and the first bytes of a picture
        ("./photo what?", ["./photo"], "what?"),
        # files that are no media are found too
        ("notes.txt and ./notes.txt", ["notes.txt", "./notes.txt"], "#1 and #2"),
        ("read 'my notes.txt'.", ["my notes.txt"], "read #1."),
        ("no/notes.txt", [], "no/notes.txt"),
        # other kinds
        ("read paper.pdf", ["paper.pdf"], "read #1"),
        ("clip.mp4 what happens?", ["clip.mp4"], "what happens?"),
        # addresses
        ("see https://example.com/a.jpg?w=3, ok?", ["https://example.com/a.jpg?w=3"], "see #1, ok?"),
        ("(https://example.com/a_(1).png)", ["https://example.com/a_(1).png"], ""),
        ("https://example.com/picture", ["https://example.com/picture"], ""),
        ("data:image/png;base64,AAAA what?", ["data:image/png;base64,AAAA"], "what?"),
        # words that only look like files or addresses
        ("hello", [], "hello"),
        ("", [], ""),
        ("what is a .png file?", [], "what is a .png file?"),
        ("photo", [], "photo"),
        ("either/or 3/4 km/h", [], "either/or 3/4 km/h"),
        ("see https://example.com/page today", [], "see https://example.com/page today"),
        ("ftp://example.com/a.png", [], "ftp://example.com/a.png"),
        ("an unclosed 'quote", [], "an unclosed 'quote"),
    ],
)
def test_media_and_what_is_left_to_say(here: Path, line: str, found: list[str], sentence: str) -> None:
    assert read(line) == (found, sentence)


def test_absolute_paths_file_addresses_and_the_home_directory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cat = str(here / "my cat.png")
    assert read(f"{cat} what?") == ([cat], "what?")
    assert read(f"'{cat}'") == ([cat], "")
    assert read(f"file://{here}/my%20cat.png what?") == ([cat], "what?")
    assert read(f'"file://{here}/my%20cat.png" what?') == ([cat], "what?")
    assert read(f"see {(here / 'a.png').as_uri()}.") == ([str(here / "a.png")], "see #1.")
    monkeypatch.setenv("HOME", str(here))
    assert read("~/a.png what?") == (["~/a.png"], "what?")


def test_videos_may_say_how_many_frames(here: Path) -> None:
    (found,) = understand("video:clip.mp4:0.5 what happens?").found
    assert (found.kind, found.location, found.fps) == ("video", "clip.mp4", 0.5)
    (found,) = understand("What happens in video:clip.mp4?").found
    assert (found.location, found.fps) == ("clip.mp4", None)
    assert understand("video: clip").found == ()
    (found,) = understand("video:https://example.com/watch?v=1, what happens?").found
    assert (found.kind, found.location) == ("video", "https://example.com/watch?v=1")


def test_the_kind_of_a_file(here: Path) -> None:
    assert [kind_of(name) for name in ("a.png", "b.JPG", "clip.mp4", "paper.pdf")] == ["image", "image", "video", "pdf"]
    assert kind_of("photo") is None, "a word is not worth opening a file for"
    assert kind_of("./photo") == "image"
    assert [kind_of(name) for name in ("", ".", "/", "deep er", "no.png", "a\0b/c")] == [None] * 6
    assert [kind_of(name) for name in ("./deep er", "./deep er/", str(here))] == ["folder"] * 3
    assert [kind_of(name) for name in ("./notes.txt", "notes.txt", "README")] == ["other", "other", None]
    (here / "photo.mp4").write_bytes((here / "a.png").read_bytes())
    (here / "clip.jpg").write_bytes((here / "clip.mp4").read_bytes())
    (here / "odd.png").write_bytes(b"no picture at all")
    kinds = [kind_of(name) for name in ("photo.mp4", "clip.jpg", "odd.png")]
    assert kinds == ["image", "video", "image"], "the first bytes count more than the name"


@pytest.mark.parametrize(
    ("line", "absent"),
    [
        ("see no.png", [Absent("no.png", False)]),
        ("see no/such.png, please", [Absent("no/such.png", True)]),
        ("'no such/dir/x y.png' what?", [Absent("no such/dir/x y.png", True)]),
        (r"/no/such\ file.png what?", [Absent("/no/such file.png", True)]),
        ("file:///no/such%20file.png", [Absent("/no/such file.png", True)]),
        ("a .png file", []),
        ("a.png", []),
    ],
)
def test_files_that_are_not_there(here: Path, line: str, absent: list[Absent]) -> None:
    assert list(understand(line).absent) == absent


LINES = st.text(
    st.one_of(
        st.sampled_from(["a.png", " ", "'", '"', "\\", "/", "(", ")", "\n", "file://", "https://", "video:"]).flatmap(
            lambda text: st.sampled_from(list(text))
        ),
        st.sampled_from(string.ascii_letters + " .,?é红"),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.one_of(LINES, st.sampled_from(["a.png", "'my cat.png'", "no.png", "https://a.b/c.png"]))))
def test_any_line_is_understood(here: Path, parts: list[str]) -> None:
    """Places are in order and apart, and a line without media is left as it is."""
    line = "".join(parts)
    typed = understand(line)
    ends = [place for found in typed.found for place in (found.start, found.end)]
    assert ends == sorted(ends)
    assert all(0 <= found.start < found.end <= len(line) for found in typed.found)
    sentence = typed.sentence(tuple("X" for _ in typed.found))
    if not typed.found and any(map(str.isalnum, line)):
        assert sentence == line.strip(" \t\r\n")
