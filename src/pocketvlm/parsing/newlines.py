r"""The normalizer turns a written-out `\n` of the model into a real line break (docs/model.md 7).

Written-out `\r\n`, `\n` and `\r` become one newline each. These are not changed:

- after another backslash (`\\n`), and everything that follows a run of two or more backslashes directly;
- fenced code (three or more backticks up to as many or more), `$$...$$`, `\(...\)` and `\[...\]`; without their end
  they reach to the end of the text;
- inline code (one or two backticks up to as many) and `$...$` that end on the same line and within SPAN_LIMIT
  characters. As in Pandoc, `$` opens only before a non-blank, and closes only after a non-blank and not before a digit,
  so that prices open nothing. Without an end they are ordinary characters;
- `\$` and a backslash before a backtick, which open nothing;
- whole LaTeX commands outside mathematics that begin with n or r and whose rest is no word, such as `\nabla` and
  `\right` (COMMANDS). Ambiguous ones (`\ne`, `\nu`, `\not`) are newlines, because models mean a `\n` before a word.
"""

from __future__ import annotations

import re

SPAN_LIMIT = 200
# fmt: off
COMMANDS = frozenset((
    "nabla", "natural", "ncong", "nearrow", "neq", "newcommand", "newline", "newpage", "ngeq", "ngtr", "nleftarrow",
    "nleq", "noindent", "nolimits", "nonumber", "normalsize", "notin", "nprec", "nrightarrow", "nsubseteq", "nsucc",
    "nsupseteq", "nwarrow", "rangle", "rbrace", "rbrack", "rceil", "renewcommand", "rfloor", "rho", "right",
    "rightarrow", "rightharpoonup", "rtimes", "rvert",
))
# fmt: on
_BEGINNINGS = frozenset(command[:length] for command in COMMANDS for length in range(1, len(command) + 1))

_SPECIAL = re.compile(r"[`$\\]")
_TICKS = re.compile(r"`+")
_SLASHES = re.compile(r"\\+")
_LETTERS = re.compile(r"[A-Za-z]+")


class _Undecided(Exception):  # noqa: N818 - control flow, not an error
    """More text is needed."""


def normalize_newlines(text: str) -> str:
    r"""The text with written-out newlines converted; the module's docstring lists the exceptions."""
    if "\\" not in text:
        return text
    normalizer = NewlineNormalizer()
    return normalizer.feed(text) + normalizer.finish()


class NewlineNormalizer:
    """The same for a stream: the joined results of `feed` and `finish` equal `normalize_newlines` at any split.

    It holds back only text from a backslash on: an escape that may continue, or the remainder of an open inline span,
    at most SPAN_LIMIT characters.
    """

    def __init__(self) -> None:
        """Start with nothing read."""
        self._held = ""
        self._shown = 0  # characters of _held that were returned already: those before its first backslash
        self._closer = ""

    def feed(self, text: str) -> str:
        """Read a chunk of text; returns the text that is decided."""
        return self._run(text, final=False)

    def finish(self) -> str:
        """End the text; returns the remaining text and resets the normalizer."""
        rest = self._run("", final=True)
        self.__init__()  # type: ignore[misc]
        return rest

    def _run(self, text: str, final: bool) -> str:
        text = self._held + text
        out: list[str] = []
        position = 0
        try:
            while position < len(text):
                step = self._inside if self._closer else self._outside
                position = step(text, position, final, out)
        except _Undecided as pause:
            position = pause.args[0]
        ready = "".join(out)[self._shown :]
        self._shown = max(0, self._shown - position)
        self._held = text[position:]
        slash = self._held.find("\\")
        safe = len(self._held) if slash < 0 else slash
        ready += self._held[self._shown : safe]
        self._shown = max(self._shown, safe)
        return ready

    def _inside(self, text: str, position: int, final: bool, out: list[str]) -> int:
        """Copy up to and with the end of a protected region."""
        closer = self._closer
        mark = closer[0]
        at = text.find(mark, position)
        if at < 0:
            out.append(text[position:])
            return len(text)
        out.append(text[position:at])
        if mark == "`":
            end = _run_end(_TICKS, text, at, final)
            closed = end - at >= len(closer)
        else:
            # Two characters at a time: in mathematics `\\` is a line break, so `\\]` ends nothing.
            end = at + 2
            if end > len(text) and not final:
                raise _Undecided(at)
            closed = text[at:end] == closer
            if not closed and mark == "$":
                end = at + 1
        out.append(text[at:end])
        if closed:
            self._closer = ""
        return min(end, len(text))

    def _outside(self, text: str, position: int, final: bool, out: list[str]) -> int:
        """Copy ordinary text and handle the character that ends it."""
        match = _SPECIAL.search(text, position)
        if match is None:
            out.append(text[position:])
            return len(text)
        at = match.start()
        out.append(text[position:at])
        if match.group() == "\\":
            return self._backslash(text, at, final, out)
        if match.group() == "`":
            end = _run_end(_TICKS, text, at, final)
            if end - at >= 3:
                self._closer = text[at:end]
            else:
                end = _code_end(text, at, end, final) or end
        elif text[at : at + 2] == "$$":
            end = at + 2
            self._closer = "$$"
        else:
            end = _math_end(text, at, final) or at + 1
        out.append(text[at:end])
        return end

    def _backslash(self, text: str, at: int, final: bool, out: list[str]) -> int:
        end = _run_end(_SLASHES, text, at, final)
        following = text[end : end + 1]
        if end - at > 1 or following == "":
            out.append(text[at:end])
            return end
        if following in "nr":
            return _escape(text, at, final, out)
        if following in "([":
            self._closer = "\\)" if following == "(" else "\\]"
        end += following in "([$`"
        out.append(text[at:end])
        return end


def _run_end(pattern: re.Pattern[str], text: str, at: int, final: bool) -> int:
    """End of the run of equal characters at `at`; undecided while the text ends with it."""
    match = pattern.match(text, at)
    end = at if match is None else match.end()
    if end == len(text) and not final:
        raise _Undecided(at)
    return end


def _escape(text: str, at: int, final: bool, out: list[str]) -> int:
    r"""A single backslash followed by n or r."""
    match = _LETTERS.match(text, at + 1)
    word = match.group() if match else ""
    ends = at + 1 + len(word)
    if word in _BEGINNINGS and ends == len(text) and not final:
        raise _Undecided(at)
    if word in COMMANDS:
        out.append(text[at:ends])
        return ends
    end = at + 2
    if text[at + 1] == "r":
        if not final and "\\n".startswith(text[end : end + 2]) and len(text) < end + 2:
            raise _Undecided(at)
        if text.startswith("\\n", end):
            end += 2
    out.append("\n")
    return end


def _code_end(text: str, at: int, start: int, final: bool) -> int | None:
    """End of the inline code opened by text[at:start], None if it does not close."""
    limit = at + SPAN_LIMIT
    for match in re.compile(r"`+|\n").finditer(text, start, min(limit, len(text))):
        if match.group() == "\n":
            return None
        # The run is measured in the whole text: the search above may cut it at the limit.
        run = _TICKS.match(text, match.start())
        end = match.end() if run is None else run.end()
        if end - match.start() == start - at and end <= limit:
            if end == len(text) and not final:
                raise _Undecided(at)
            return end
    if len(text) < limit and not final:
        raise _Undecided(at)
    return None


def _math_end(text: str, at: int, final: bool) -> int | None:
    """End of the inline mathematics opened by the `$` at `at`, None if it does not close."""
    limit = at + SPAN_LIMIT
    position = at + 1
    if position < len(text) and text[position].isspace():
        return None
    while position < min(limit, len(text)):
        char = text[position]
        if char == "\n":
            return None
        if char == "\\":
            position += 2
            continue
        if char == "$":
            following = text[position + 1 : position + 2]
            if following == "" and not final:
                raise _Undecided(at)
            if following == "$":
                return None
            if not text[position - 1].isspace() and not following.isdigit():
                return position + 1
        position += 1
    if len(text) < limit and not final:
        raise _Undecided(at)
    return None
