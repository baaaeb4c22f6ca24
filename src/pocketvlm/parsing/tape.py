"""The tape reads streamed text with look-ahead and raises `NeedMore` where the next text is missing.

A reader remembers its position, reads ahead, and returns to that position on NeedMore to read again when more text has
arrived. So its result never depends on how the stream was split.
"""

from __future__ import annotations

import re

BLANK = " \t\r\n"
_SPACES = re.compile(f"[{BLANK}]*")
# Function and parameter names: on the tag's own line, no tag inside, of a sane length.
_NAME = re.compile(r"[^<>\n]{0,256}")


class NeedMore(Exception):  # noqa: N818 - control flow, not an error
    """Raised when the text that has arrived does not decide the next part."""


class Tags:
    """A set of tags to search for; none is a prefix of another."""

    def __init__(self, *tags: str) -> None:
        """tags: at least one character each."""
        self.tags = tags
        self.pattern = re.compile("|".join(map(re.escape, tags)) or r"(?!)")
        self.longest = max(map(len, tags), default=0)

    def safe(self, text: str, at: int) -> int:
        """The index, at least `at`, up to which no tag can begin that later text completes."""
        for place in range(max(at, len(text) - self.longest + 1), len(text)):
            rest = text[place:]
            if any(tag.startswith(rest) for tag in self.tags):
                return place
        return len(text)


class Tape:
    """The text that has arrived and is not read yet. text[at:] comes next; final: nothing will be added."""

    def __init__(self) -> None:
        """Start empty."""
        self.text = ""
        self.at = 0
        self.final = False

    def add(self, text: str) -> None:
        """Append what has arrived."""
        self.text = self.text[self.at :] + text
        self.at = 0

    def ended(self) -> bool:
        """Whether nothing follows."""
        if self.at < len(self.text):
            return False
        if self.final:
            return True
        raise NeedMore

    def sees(self, tag: str) -> bool:
        """Whether this comes next."""
        if self.text.startswith(tag, self.at):
            return True
        if not self.final and len(self.text) - self.at < len(tag) and tag.startswith(self.text[self.at :]):
            raise NeedMore
        return False

    def take(self, tag: str) -> bool:
        """Read past `text` if it comes next; returns whether it did."""
        seen = self.sees(tag)
        self.at += len(tag) if seen else 0
        return seen

    def spaces(self) -> str:
        """Read past the blanks that have arrived."""
        return self._match(_SPACES)

    def take_name(self, tag: str) -> str | None:
        """Read past `tag`, a name and `>`, and give the name without blanks around it; None where that is not next."""
        start = self.at
        if self.take(tag):
            name = self._match(_NAME).strip()
            if self.take(">") and name:
                return name
        self.at = start
        return None

    def until(self, tags: Tags) -> tuple[str, str]:
        """Read up to the first of the tags, or as far as holds none: that text, and the tag that follows or ""."""
        found = tags.pattern.search(self.text, self.at)
        if found:
            end = found.start()
        else:
            end = len(self.text) if self.final else tags.safe(self.text, self.at)
            if end == self.at and not self.final:
                raise NeedMore
        text, self.at = self.text[self.at : end], end
        return text, found.group() if found else ""

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        text = match.group() if match else ""
        self.at += len(text)
        return text
