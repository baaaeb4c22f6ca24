"""A session turns a typed line into messages and streams the model's answer."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pocketvlm.answers.answer import Answer
from pocketvlm.answers.stream import ChoiceStream
from pocketvlm.api import Model
from pocketvlm.chat.conversation import Conversation, Message
from pocketvlm.chat.media import Medium, names_of, open_media
from pocketvlm.chat.settings import Settings
from pocketvlm.chat.typed import Absent, Found, understand
from pocketvlm.errors import InputError, OptionError
from pocketvlm.options.request import PROCESSOR_OPTIONS
from pocketvlm.parsing import Content, Reasoning
from pocketvlm.processor.image_cache import ImageCache
from pocketvlm.suggest import nearest
from pocketvlm.types import FinishReason, Timings, Usage


@dataclass(frozen=True, slots=True)
class AnswerSummary:
    """Figures of one answer. Seconds and tokens as in Result; ttft counts from the question, loading images included.

    cached_tokens: tokens of the prompt that came from the prefix cache. thought_tokens, thought_seconds: of thinking.
    """

    reason: FinishReason
    usage: Usage
    timings: Timings
    cached_tokens: int
    thought_tokens: int
    thought_seconds: float


@dataclass(frozen=True, slots=True)
class Heard:
    """A typed line that was read: the text to send (empty if the line only named media), and notes for the user."""

    text: str
    notes: tuple[str, ...]


# A pasted text may have many names; the first ones suffice.
_MAX_NOTES = 3

ChatEvent = Content | Reasoning | AnswerSummary


class Session:
    """One conversation with one model. Used by one thread; `stop` may be called from any, and by signal handlers."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model = model
        self.settings = settings
        self.conversation = Conversation()
        self.pending: list[Medium] = []
        self.last: AnswerSummary | None = None
        self.file: Path | None = None
        self._image_cache = ImageCache()
        self._refused = ""
        self._stream: ChoiceStream | None = None
        self._stopped = False

    def hear(self, line: str) -> Heard:
        """Read a typed line and attach its media. If it raises InputError, nothing was attached.

        A path is refused once if nothing is there, or if it leads to a folder or to a file that is no media. The same
        line typed again is sent as text, unless it consists of such a path alone.
        """
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError("the line is not UTF-8 text: check the terminal's encoding") from None
        typed = understand(line)
        meant = [absent for absent in typed.absent if absent.meant]
        if meant and line.strip() != self._refused:
            self._refused = line.strip()
            raise InputError(f"{_not_there(meant)}: nothing was sent; the same line once more sends it as text")
        others = [found for found in typed.found if found.kind in ("folder", "other")]
        is_path = bool(others) and not any(map(str.isalnum, typed.sentence(("",) * len(typed.found))))
        if others and (is_path or line.strip() != self._refused):
            self._refused = line.strip()
            again = "" if is_path else "; the same line once more sends it as text"
            raise InputError(f"{_not_shown(others)}: nothing was sent{again}")
        typed = replace(typed, found=tuple(found for found in typed.found if found not in others))
        self._refused = ""
        absent = list(dict.fromkeys(one.name for one in typed.absent))[:_MAX_NOTES]
        addresses = list(dict.fromkeys(typed.addresses))[:_MAX_NOTES]
        notes = [f"there is no file {name} here: it was sent as text" for name in absent]
        notes += [f"{address} was sent as text; /url {address} shows it to the model" for address in addresses]
        groups: list[tuple[Medium, ...]] = []
        for found in typed.found:
            options = {} if found.fps is None else {"fps": found.fps}
            opened = open_media(found.location, found.kind, options=options)
            groups.append(opened.media)
            notes += [opened.note] if opened.note else []
        alone = not self.conversation.media and not self.pending and len(groups) == 1
        shown = self.attach(tuple(medium for media in groups for medium in media))
        names = [names_of(media, [self._number(medium) for medium in media], alone) for media in groups]
        return Heard(typed.sentence(tuple(names)), (*shown, *notes))

    def attach(self, media: tuple[Medium, ...]) -> list[str]:
        """Attach media to the next question; returns a description of each. If it raises InputError for a video that
        cannot be read, none of them is attached.
        """
        before = list(self.pending)
        self.pending += media
        try:
            return [self.describe(medium) for medium in media]
        except BaseException:
            self.pending = before
            raise

    def describe(self, medium: Medium) -> str:
        """One line that says what the model will see of a medium of this chat."""
        number, options = self._number(medium), self.settings.media_options
        if medium.kind == "image":
            return medium.describe(self.model.processor.config, options, number)
        # This reads only the index of the video; its frames are decoded when the engine needs them.
        try:
            (info,) = self.model.processor([{"role": "user", "content": [medium.part()]}], **options).videos
        except OptionError as error:
            raise OptionError(str(error).replace("messages[0].content[0]", medium.name)) from None
        taken = len({number for frames in info.pictures for number in frames})
        frames = f"{taken} of {info.frames} frames" + (
            f" in {len(info.pictures)} pictures" if taken != len(info.pictures) else ""
        )
        return f"video {number}: {info.width}x{info.height}, {frames}, {info.tokens} tokens ({medium.name})"

    def _number(self, medium: Medium) -> int:
        """The number of a medium among the media of its kind, from 1."""
        same = [one for one in (*self.conversation.media, *self.pending) if one.kind == medium.kind]
        return next(at for at, one in enumerate(same, 1) if one is medium)

    def ask(self, text: str) -> Iterator[ChatEvent]:
        """Send a text with the attached media; yields the parts of the answer, then an AnswerSummary.

        If there is no answer, the question is removed and its media stay attached. Raises InputError, PocketVLMError.
        """
        media, self.pending = self.pending, []
        self.conversation.messages.append(Message("user", (*media, text)))
        try:
            yield from self._answer()
        finally:
            if self.conversation.messages[-1].role == "user":
                self.conversation.messages.pop()
                self.pending = [*media, *self.pending]

    def again(self) -> Iterator[ChatEvent]:
        """Answer the last question again; without a new answer the old one stays. Raises OptionError without one."""
        taken = self.conversation.undo()
        if not taken:
            raise OptionError("there is no question yet to answer again")
        self.conversation.messages.append(taken[0])
        return self._replace(taken[1:])

    def _replace(self, old: list[Message]) -> Iterator[ChatEvent]:
        try:
            yield from self._answer()
        finally:
            if self.conversation.messages[-1].role == "user":
                self.conversation.messages += old

    def stop(self) -> None:
        """End the running answer after the current step."""
        self._stopped = True
        if self._stream is not None:
            self._stream.cancel()

    def _answer(self) -> Iterator[ChatEvent]:
        """Stream the answer to the conversation; when it ends, also early, its text becomes a message."""
        began = time.perf_counter()
        self._stopped = False
        self.conversation.system = self.settings.system
        arguments = self.settings.arguments()
        chosen = {name: value for name, value in arguments.items() if name in PROCESSOR_OPTIONS}
        prompt = self.model.processor(
            self.conversation.prompt(arguments.get("alpha", "white")), image_cache=self._image_cache, **chosen
        )
        others = {name: value for name, value in arguments.items() if name not in chosen}
        stream = self._stream = self.model.deltas(prompt, began=began, **others)
        if self._stopped:
            stream.cancel()
        answer = Answer()
        ttft, thought_tokens, thought_seconds = 0.0, 0, 0.0
        try:
            for delta in stream:
                ttft = ttft or time.perf_counter() - began
                answer.add(delta)
                for part in delta.parts:
                    if isinstance(part, Content | Reasoning):
                        yield part
                if answer.reasoning and not answer.text:
                    thought_tokens += len(delta.token_ids)
                    thought_seconds = time.perf_counter() - began - ttft
        finally:
            self._stream = None
            stream.close()
            said, thought = "".join(answer.text), "".join(answer.reasoning)
            if said or thought:
                self.conversation.messages.append(Message("assistant", (said,), thought))
        assert answer.finish_reason is not None
        if not (said or thought) and answer.finish_reason != "abort":
            self.conversation.messages.append(Message("assistant", ("",)))
        choice = stream.choice
        self.last = AnswerSummary(
            answer.finish_reason,
            choice.usage,
            replace(choice.timings(), ttft=ttft),
            0 if choice.ticket is None else choice.ticket.cached_tokens,
            thought_tokens,
            thought_seconds,
        )
        yield self.last


def _not_shown(others: list[Found]) -> str:
    """Why existing paths are no media, and what to do instead."""
    folder = next((found.location for found in others if found.kind == "folder"), None)
    if folder is None:
        return f"{', '.join(found.location for found in others)}: no picture, video or PDF file"
    # `video:` takes the rest of the word literally.
    way = f"/video {shlex.quote(folder)}" if re.search(r"\s", folder) else f"video:{folder}"
    return f"{folder} is a folder: {way} shows its pictures as the frames of a video"


def _not_there(meant: list[Absent]) -> str:
    """Names the missing files, each with an existing file of nearly the same name, if there is one."""
    texts = []
    for absent in meant:
        path = Path(absent.name)
        try:
            names = [entry.name for entry in path.expanduser().parent.iterdir()]
        except (OSError, RuntimeError, ValueError):
            names = []
        near = nearest(path.name, names)
        texts.append(f"{absent.name}{f' (there is {near})' if near else ''}")
    return f"there is no file {', '.join(texts)}"
