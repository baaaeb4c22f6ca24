"""A chat: lines with media, streamed answers, stopping, thinking, and caches for the next question."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chat_kit import lines
from PIL import Image

from pocketvlm import ImageError, InputError, OptionError, PocketVLMError
from pocketvlm.answers.choice import AnswerOptions, Choice, Delta, opens_reasoning
from pocketvlm.chat import media
from pocketvlm.chat.figures import resident_bytes, stats, status
from pocketvlm.chat.session import AnswerSummary, Session
from pocketvlm.engine.request import Request, TokenEvent
from pocketvlm.parsing import AnswerParser, Content, Reasoning
from pocketvlm.types import Prompt, SamplingParams, Timings, Usage


def say(session: Session, line: str) -> tuple[str, AnswerSummary]:
    """Type a line and read the whole answer."""
    heard = session.hear(line)
    *events, summary = session.ask(heard.text)
    assert isinstance(summary, AnswerSummary)
    return "".join(event.text for event in events if isinstance(event, Content)), summary


def texts(session: Session) -> list[tuple[str, str, int]]:
    """Role, text and number of media of each message."""
    return [(message.role, message.text, len(message.media)) for message in session.conversation.messages]


class Words:
    """A tokenizer whose tokens are given texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, self.control_ids = [*texts, ""], {}

    def is_skipped(self, token_id: int) -> bool:
        return False

    def token_bytes(self, token_id: int) -> bytes:
        return self.texts[token_id].encode()


class Scripted:
    """The stream of an answer whose tokens are given texts."""

    def __init__(self, texts: Sequence[str], reason: str = "stop", error: Exception | None = None) -> None:
        self.texts, self.reason, self.error = list(texts), reason, error
        self.cancelled = False

    def answer(self, prompt: Prompt, *, began: float, **params: Any) -> Scripted:
        thinking = opens_reasoning(prompt)
        options = AnswerOptions(
            Words(self.texts),  # type: ignore[arg-type]
            partial(AnswerParser, thinking=thinking),
            thinking=thinking,
            guard=True,
        )
        self.choice = Choice(0, Request(prompt, SamplingParams()), options, began)
        return self

    def events(self) -> Iterator[TokenEvent]:
        for number in range(len(self.texts)):
            yield TokenEvent(0, number, None)
        if self.error is not None:
            raise self.error
        yield TokenEvent(0, len(self.texts), self.reason)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Delta]:
        for event in self.events():
            yield self.choice.feed([TokenEvent(0, -1, "abort") if self.cancelled else event])
            if self.choice.finish_reason is not None:
                return

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None:
        pass


@pytest.fixture
def script(session: Session, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the model say something given: script(texts, reason, error) -> the stream."""

    def prepare(*arguments: Any) -> Scripted:
        stream = Scripted(*arguments)
        monkeypatch.setattr(session.model, "deltas", stream.answer)
        return stream

    return prepare


def test_a_line_says_what_was_understood(session: Session, here: Path) -> None:
    heard = session.hear("What differs between a.png and my cat.png?")
    assert heard.text == "What differs between image 1 and image 2?"
    assert heard.notes[0].startswith("image 1: 100x80, ")
    assert heard.notes[1].startswith("image 2: 120x80, ")
    assert heard.notes[1].endswith(" tokens (my cat.png)")
    assert len(session.pending) == 2


def test_one_picture_is_this_image_and_the_next_one_has_a_number(session: Session, here: Path) -> None:
    assert session.hear("What is in a.png?").text == "What is in this image?"
    list(session.ask("What is in this image?"))
    assert session.hear("And in b.JPG?").text == "And in image 2?"


def test_pages_of_a_document(session: Session, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = session.hear("Summarise paper.pdf")
    assert heard.text == "Summarise these pages"
    assert [medium.name for medium in session.pending] == [f"paper.pdf page {number}" for number in (1, 2, 3)]
    monkeypatch.setattr(media, "PDF_PAGES", 2)
    heard = session.hear("And paper.pdf?")
    assert heard.text == "And images 4 to 5?"
    assert heard.notes[-1] == "pages 1 to 2 of 3; more with /pdf paper.pdf 3-3"


def test_the_counted_tokens_are_those_of_the_prompt(session: Session, here: Path) -> None:
    lines = session.hear("What is this? a.png b.JPG").notes
    list(session.ask("What is this?"))
    prompt = session.model.processor(session.conversation.prompt()[:1])
    assert [f"{image.tokens} tokens" in line for image, line in zip(prompt.images, lines, strict=True)] == [True, True]
    views = sum(int(line.split(", ")[1].split()[0]) for line in lines)
    assert views == len(prompt.views)


def test_media_alone_wait_for_the_question(session: Session, here: Path) -> None:
    assert session.hear("a.png").text == ""
    text, summary = say(session, "What is this?")
    assert texts(session) == [("user", "What is this?", 1), ("assistant", text, 0)]
    assert not session.pending
    assert summary.usage.image_tokens > 0
    assert session.model.chat(session.conversation.prompt()[:1], **session.settings.arguments()).text == text


def test_the_second_question_about_a_picture_reads_little(session: Session, here: Path) -> None:
    Image.new("RGB", (500, 400), "green").save(here / "large.png")
    _, first = say(session, "What is this? large.png")
    _, second = say(session, "Which colour has it?")
    assert second.cached_tokens > second.usage.image_tokens
    assert second.timings.vision == 0
    assert f"({second.cached_tokens} cached)" in status(second)
    assert f"{second.cached_tokens} of them cached" in " ".join(stats(session))
    assert first.timings.ttft > 0


def test_a_file_that_is_not_there_is_refused_once(session: Session, here: Path) -> None:
    line = f"What is {here}/aa.png?"
    with pytest.raises(InputError, match=r"no file .*/aa.png \(there is a.png\): nothing was sent; the same line"):
        session.hear(line)
    assert session.hear(line).text == line
    with pytest.raises(InputError, match="nothing was sent"):
        session.hear(line)
    heard = session.hear("what is no.png?")
    assert heard.text == "what is no.png?"
    assert heard.notes == ("there is no file no.png here: it was sent as text",)


def test_transparency_follows_the_setting_in_the_middle_of_a_chat(session: Session, here: Path) -> None:
    Image.new("RGBA", (60, 60)).save(here / "logo.png")
    session.hear("logo.png")
    seen = {}
    for value in ("white", "reference", "white"):
        session.settings.change("alpha", value)
        alpha = session.settings.media_options["alpha"]
        (medium,) = session.pending
        part = medium.part(alpha)
        assert seen.setdefault(value, part["image"]) is part["image"], "the same object, so that it is not cut again"
    assert seen["white"].getpixel((0, 0)) == (255, 255, 255)
    assert seen["reference"].getpixel((0, 0)) == (0, 0, 0)
    list(session.ask("What?"))
    session.settings.change("alpha", "reference")
    list(session.again())
    pictures = [picture for _, picture in session._image_cache._images.values()]
    assert [picture.options.alpha for picture in pictures] == ["white", "reference"]
    assert pictures[0].views[0].digest != pictures[1].views[0].digest


def test_a_file_that_is_no_media_is_refused(session: Session, here: Path) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match=r"^notes.txt: no picture, video or PDF file: nothing was sent$"):
            session.hear("notes.txt")
    with pytest.raises(InputError, match=r"nothing was sent; the same line once more sends it as text"):
        session.hear("What is in notes.txt and a.png?")
    assert not session.pending
    heard = session.hear("What is in notes.txt and a.png?")
    assert heard.text == "What is in notes.txt and this image?"
    assert session.hear("What is a README?").text == "What is a README?"
    assert session.hear("README").text == "README", "a bare name is text, as docs/chat.md says"


def test_a_folder_is_refused_with_the_way_out(session: Session, here: Path) -> None:
    for name, way in (("./deep er", "/video './deep er'"), (f"{here}", f"video:{here}"), ("../", "video:../")):
        line = f"'{name}'" if " " in name else name
        for _ in range(2):
            with pytest.raises(
                InputError, match=rf"^{name} is a folder: {way} shows its pictures .*: nothing was sent$"
            ):
                session.hear(line)
    with pytest.raises(InputError, match=r"nothing was sent; the same line once more sends it as text"):
        session.hear(f"What is in {here}?")
    assert session.hear(f"What is in {here}?").text == f"What is in {here}?"
    assert not session.pending
    assert session.hear("either / or").text == "either / or"
    (here / "frames").symlink_to(here / "deep er")
    assert session.hear("video:./frames").notes[0].startswith("video 1: 140x80, 1 of 1 frames")
    assert lines(session, "/video './deep er'").startswith("video 2: 140x80, 1 of 1 frames")


def test_an_address_without_a_picture_in_its_name_stays_text(session: Session) -> None:
    heard = session.hear("see https://example.com/page now")
    assert heard.text == "see https://example.com/page now"
    assert heard.notes == (
        "https://example.com/page was sent as text; /url https://example.com/page shows it to the model",
    )


def test_a_picture_that_cannot_be_read_takes_nothing(session: Session, here: Path) -> None:
    (here / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    with pytest.raises(ImageError, match="damaged"):
        session.hear("a.png and bad.png")
    assert not session.pending
    with pytest.raises(InputError, match="not UTF-8"):
        session.hear("caf\udce9")


def test_a_question_that_fails_is_taken_back_with_its_media(session: Session, here: Path, script: Any) -> None:
    session.hear("a.png")
    script([], "stop", PocketVLMError("no luck"))
    with pytest.raises(PocketVLMError, match="no luck"):
        list(session.ask("What is this?"))
    assert not session.conversation.messages
    assert [medium.name for medium in session.pending] == ["a.png"]


def test_a_question_that_does_not_fit_is_taken_back(session: Session, here: Path) -> None:
    session.hear("a.png")
    with pytest.raises(InputError, match="context holds"):
        list(session.ask("word " * 3000))
    assert not session.conversation.messages
    assert len(session.pending) == 1


def test_stopping_keeps_what_was_said(session: Session, script: Any) -> None:
    script(["one", " two", " three"])
    events = session.ask("Count")
    assert next(events) == Content("one")
    session.stop()
    *_, summary = events
    assert isinstance(summary, AnswerSummary)
    assert summary.reason == "abort"
    assert "stopped" in status(summary)
    assert texts(session) == [("user", "Count", 0), ("assistant", "one", 0)]


def test_stopping_before_the_first_token_takes_the_question_back(session: Session, here: Path, script: Any) -> None:
    session.hear("a.png")
    script(["one"]).cancel()
    (summary,) = session.ask("Count")
    assert isinstance(summary, AnswerSummary)
    assert summary.reason == "abort"
    assert not session.conversation.messages
    assert len(session.pending) == 1


def test_stopping_while_the_prompt_is_made(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = session.settings.arguments

    def interrupted() -> dict[str, Any]:
        session.stop()
        return arguments()

    monkeypatch.setattr(session.settings, "arguments", interrupted)
    (summary,) = session.ask("Hello")
    assert isinstance(summary, AnswerSummary)
    assert summary.reason == "abort"
    monkeypatch.undo()
    assert say(session, "Hello")[1].reason != "abort"


def test_leaving_an_answer_frees_it(session: Session) -> None:
    session.settings.change("temperature", "3")
    session.settings.change("max_tokens", "500")
    session.settings.change("min_tokens", "400")
    events = session.ask("Hello")
    next(events)
    assert session.model.engine.sequences
    events.close()  # type: ignore[attr-defined]
    assert not session.model.engine.sequences
    assert [message.role for message in session.conversation.messages] == ["user", "assistant"]


def test_thinking_is_separate_and_not_in_the_next_prompt(session: Session, script: Any) -> None:
    session.settings.change("thinking", "on")
    script(["Let me", " see.", "\n</think>\n\n", "Four", "."])
    events = list(session.ask("2 + 2?"))
    assert "".join(event.text for event in events if isinstance(event, Reasoning)) == "Let me see."
    summary = events[-1]
    assert isinstance(summary, AnswerSummary)
    assert summary.thought_tokens == 3
    answer = session.conversation.messages[-1]
    assert (answer.text, answer.reasoning) == ("Four.", "Let me see.")
    assert (
        "Let me see"
        not in session.model.processor([*session.conversation.prompt(), {"role": "user", "content": "?"}]).text
    )


def test_an_answer_that_only_repeats_itself_is_ended(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Scripted):
        def events(self) -> Iterator[TokenEvent]:
            return itertools.repeat(TokenEvent(0, 0, None))

    monkeypatch.setattr(session.model, "deltas", Endless(["x"]).answer)
    *_, summary = session.ask("Hello")
    assert isinstance(summary, AnswerSummary)
    assert summary.reason == "repetition"
    assert "repeated itself" in status(summary)


def test_answering_again_replaces_the_answer(session: Session, script: Any) -> None:
    with pytest.raises(OptionError, match="no question yet"):
        session.again()
    script(["one"])
    list(session.ask("Count"))
    script(["two"])
    list(session.again())
    assert texts(session) == [("user", "Count", 0), ("assistant", "two", 0)]
    script([], "stop", PocketVLMError("no luck"))
    with pytest.raises(PocketVLMError):
        list(session.again())
    assert texts(session) == [("user", "Count", 0), ("assistant", "two", 0)]


def test_the_system_prompt_is_sent(session: Session) -> None:
    session.settings.change("system", "Be brief.")
    say(session, "Hello")
    assert session.conversation.prompt()[0] == {"role": "system", "content": "Be brief."}


def test_figures(session: Session) -> None:
    assert "no answer yet" in next(iter(stats(session)))
    summary = AnswerSummary("length", Usage(600, 500, 11), Timings(vision=1.25, decode=2.0, ttft=1.5), 0, 0, 0.0)
    line = status(summary)
    assert line.startswith("ttft 1.50 s · vision 1.25 s · 5.0 tok/s · 600 + 11 tokens · ")
    assert line.endswith(" · stopped at the limit (/set max_tokens)")
    assert resident_bytes() > 10_000_000
