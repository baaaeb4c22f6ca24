"""Videos in the chat: the sampled part, its description, and videos that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_kit import ask, lines, run

from pocketvlm import ImageError, InputError, OptionError
from pocketvlm.chat.session import Session


def test_video_may_say_how_many_frames(session: Session, here: Path) -> None:
    assert lines(session, "/video clip.mp4").startswith("video 1: 160x120, 5 of 20 frames, ")
    (here / "clip.mp4").rename(here / "my clip.mp4")
    assert "10 of 20 frames" in lines(session, "/video my clip.mp4 2")
    parts = [medium.part() for medium in session.pending]
    assert parts[1] == {"type": "video", "video": str(here / "my clip.mp4"), "fps": 2.0}
    (here / "my clip.mp4").rename(here / "clip.mp4")
    run(session, "/undo")
    for words, options in (("2-4", {"start": 2, "end": 4}), ("2 3.5-", {"fps": 2, "start": 3.5}), ("-2", {"end": 2})):
        run(session, f"/video clip.mp4 {words}")
        assert session.pending[-1].part() == {"type": "video", "video": str(here / "clip.mp4"), **options}
        run(session, "/undo")
    with pytest.raises(OptionError, match=r"^clip\.mp4: end=2\.0 is not after start=4\.0"):
        run(session, "/video clip.mp4 4-2")
    assert "20 of 20 frames" in lines(session, "/set fps 4")
    run(session, "/set fps default")
    assert "2 of 20 frames" in lines(session, "/set end 2")
    assert "(the beginning)" in lines(session, "/set start")
    with pytest.raises(OptionError, match="start=3"):
        run(session, "/set start 3")
    run(session, "/set end default")
    assert "in 10 pictures" in lines(session, "/set stack 3")
    with pytest.raises(OptionError, match="stack=99"):
        run(session, "/set stack 99")


def test_a_video_is_watched_and_remembered(session: Session, here: Path) -> None:
    ask(session, "What happens in clip.mp4?")
    assert session.last is not None
    assert session.last.usage.image_tokens > 0
    ask(session, "And then?")
    assert session.last.cached_tokens > 0
    assert session.last.timings.vision == 0


def test_a_video_that_cannot_be_watched_does_not_wait(session: Session, here: Path) -> None:
    with pytest.raises(ImageError, match=r"no\.mp4: no such file"):
        run(session, "/video no.mp4")
    (here / "bad.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(InputError, match=r"bad\.mp4"):
        session.hear("What differs between a.png and bad.mp4?")
    assert not session.pending
