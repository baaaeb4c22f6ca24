"""The guard keeps control tokens out of text that users wrote (docs/model.md 8.14).

A template puts user text and its own control tokens into one string. To tell them apart afterwards, every spelling of a
control token in a user's string gets a mark character next to it before rendering; after rendering, a spelling with a
mark is text and a spelling without one is the template's. The marks are two private-use characters that occur nowhere
in the conversation. They stand *outside* the spelling (after it, or before it for closing tags such as `</think>`), so
that a template's own tests on content (`startswith('<tool_response>')`, `trim`, `split`) still work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pocketvlm.errors import PromptError

# Control tokens that an assistant's earlier answers may contain, because the model wrote them itself and the template
# finds the reasoning by them.
ASSISTANT_CONTROL = frozenset({"<think>", "</think>", "<tool_call>", "</tool_call>"})

_PRIVATE_USE = ((0xE000, 0xF8FF), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))
_USED = re.compile("[\ue000-\uf8ff\U000f0000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Segment:
    """Part of a rendered prompt: one control token written by the template, or text."""

    text: str
    control: bool


def strings_in(value: Any) -> Iterator[str]:
    """Every string inside nested lists and mappings, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings_in(key)
            yield from strings_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_in(item)


class Spellings:
    """The control tokens of one tokenizer, prepared for searching."""

    def __init__(self, spellings: Iterable[str]) -> None:
        """spellings: every added token's text."""
        # Longest first: at one position the longest spelling wins, as in the tokenizers library.
        self.texts = sorted((text for text in spellings if text), key=len, reverse=True)
        self.longest = max(map(len, self.texts), default=0)
        self.pattern = re.compile("|".join(map(re.escape, self.texts)) or r"(?!)")
        # Beginnings of spellings at the end of a string: the next string might complete them.
        starts = {text[:length] for text in self.texts for length in range(1, len(text))}
        tails = "|".join(map(re.escape, sorted(starts, key=len, reverse=True)))
        self.tail = re.compile(f"(?:{tails})(?=\\s*\\Z)" if tails else r"(?!)")


class Guard:
    """Marks spellings in user strings for one rendering and reads the marks afterwards."""

    def __init__(self, spellings: Spellings, strings: Iterable[str]) -> None:
        """strings: everything that will be rendered. Raises PromptError if they use up every private-use character."""
        self._spellings = spellings
        used = {char for text in strings for char in _USED.findall(text)}
        free = (chr(code) for low, high in _PRIVATE_USE for code in range(low, high + 1) if chr(code) not in used)
        try:
            self.before, self.after, self.end = next(free), next(free), next(free)
        except StopIteration:
            raise PromptError("the messages use every private-use character of Unicode") from None

    def protect(self, text: str, allowed: frozenset[str] = frozenset()) -> str:
        """The string with marks next to each spelling that is not in `allowed`."""

        def mark(match: re.Match[str]) -> str:
            spelling = match.group()
            if spelling in allowed:
                return spelling
            return self.before + spelling if spelling.startswith("</") else spelling + self.after

        text = self._spellings.pattern.sub(mark, text)
        tail = self._spellings.tail.search(text, max(0, len(text.rstrip()) - self._spellings.longest))
        return text if tail is None else text[: tail.end()] + self.after + text[tail.end() :]

    def protect_all(self, value: Any) -> Any:
        """The same for every string, keys included, of nested lists and mappings."""
        if isinstance(value, str):
            return self.protect(value)
        if isinstance(value, dict):
            return {self.protect_all(key): self.protect_all(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.protect_all(item) for item in value]
        return value

    def split(self, rendered: str) -> list[Segment]:
        """Control tokens of the template and the text between them, without marks; no two texts are neighbours."""
        segments: list[Segment] = []
        text: list[str] = []
        position = 0
        for match in self._spellings.pattern.finditer(rendered):
            closing = match.group().startswith("</")
            if closing and rendered[match.start() - 1 : match.start()] == self.before:
                continue
            if not closing and rendered[match.end() : match.end() + 1] == self.after:
                continue
            text.append(rendered[position : match.start()])
            self._flush(text, segments)
            segments.append(Segment(match.group(), True))
            position = match.end()
        text.append(rendered[position:])
        self._flush(text, segments)
        return segments

    def clean(self, text: str) -> str:
        """The string without marks."""
        return text.replace(self.before, "").replace(self.after, "").replace(self.end, "")

    def _flush(self, text: list[str], segments: list[Segment]) -> None:
        joined = self.clean("".join(text))
        text.clear()
        if joined:
            segments.append(Segment(joined, False))
