"""A typed line is split into media (paths and URLs) and the remaining text.

A word counts as a file only if that file exists, so that a sentence about files stays text. Existing directories and
files that are no media are found too, so that their paths are not sent as text by mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pocketvlm.processor.formats import HEAD, recognize
from pocketvlm.processor.frames import SUFFIXES as PICTURES

Kind = Literal["image", "video", "pdf", "folder", "other"]

# Includes picture formats that are not supported, because opening such a file says what to do instead.
SUFFIXES: dict[str, Kind] = {
    **dict.fromkeys(PICTURES, "image"),
    **dict.fromkeys((".svg", ".ico", ".jp2", ".jxl", ".psd", ".ppm", ".eps", ".dng", ".cr2", ".nef", ".arw"), "image"),
    **dict.fromkeys((".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".ogv"), "video"),
    **dict.fromkeys((".3gp", ".flv", ".wmv", ".asf", ".mts", ".m2ts"), "video"),
    ".pdf": "pdf",
}
# Names of files with blanks are looked for over so many words.
_WORDS = 16
_LONGEST = 1000
# A name in quotes may have such quotes in it.
_CLOSINGS = 4
_DIRECTORIES = ("/", "./", "../", "~/")
_END_MARKS = ".,;:!?)]}>\"'”’»`"
_OPENERS = "([{<"
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`"}
# Words between listed media; marks that end a sentence; marks that continue a sentence after media.
_SEPARATOR = re.compile(r"[\s,;&+]*")
_ENDED = re.compile(r"[.!?:。？！：…]\s*$|\n\s*$")
_JOINS = re.compile(
    r"\s*(and|or|vs\.?|versus|with|to|from|in|on|is|are|was|were|has|have|does|do|shows?|looks?|und|et|y|,)\b",
    re.IGNORECASE,
)
_BLANKS = " \t\r\n"
# A line without these names no files.
_WORTH_IT = re.compile(r"/|:|\.\w")
_SUFFIX = re.compile(r"[^/]\.\w+$")
_ESCAPED_WORD = re.compile(r"(?:\\.|[^\s\\])+", re.DOTALL)
_VIDEO = re.compile(r"video:(?P<path>.+?)(?::(?P<fps>\d+(?:\.\d+)?))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Found:
    """A medium named in a line: its kind, its path or address, and the range start..end of its name in the line.

    fps: frames a second to look at, of `video:PATH:FPS`.
    """

    kind: Kind
    location: str
    start: int
    end: int
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """A word that looks like a media file but does not exist. meant: it names a directory, so it must mean a file."""

    name: str
    meant: bool


@dataclass(frozen=True, slots=True)
class Typed:
    """A line, its media in order, words that look like missing media files, and addresses that stayed text."""

    line: str
    found: tuple[Found, ...]
    absent: tuple[Absent, ...]
    addresses: tuple[str, ...]

    def sentence(self, names: tuple[str, ...]) -> str:
        """The text without its media: names around a sentence are removed; inside it, one of `names` replaces each."""
        count = len(self.found)
        texts = [self.line[start:end] for start, end in self._gaps()]
        is_list = [_SEPARATOR.fullmatch(text) is not None for text in texts]
        first = next((at for at in range(1, count + 1) if not is_list[at]), count) if is_list[0] else 0
        if _JOINS.match(texts[first]):
            first = 0
        stop = next((at for at in range(count, first, -1) if not is_list[at]), first)
        if not _ENDED.search(texts[stop]):
            stop = count
        said = texts[first].lstrip(_BLANKS + ",;:") if first else texts[0]
        for at in range(first, stop):
            said += names[at] + texts[at + 1]
        return said.strip(_BLANKS) if any(map(str.isalnum, "".join(texts))) else ""

    def _gaps(self) -> Iterator[tuple[int, int]]:
        """The ranges of the text before, between and after the media."""
        at = 0
        for found in self.found:
            yield at, found.start
            at = found.end
        yield at, len(self.line)


def understand(line: str) -> Typed:
    """Find the media in a typed line."""
    found: list[Found] = []
    absent: list[Absent] = []
    addresses: list[str] = []
    at = 0 if _WORTH_IT.search(line) else len(line)
    while at < len(line):
        if not _begins(line, at):
            at += 1
            continue
        here = _address(line, at) or _quoted(line, at) or _shell_word(line, at) or _plain(line, at)
        if here is not None:
            found.append(here)
            at = here.end
            continue
        word = line[at : _word_end(line, at)]
        if word.lower().startswith(("http://", "https://")):
            addresses.append(_trimmed(word))
        elif (missing := _absent(line, at)) is not None:
            absent.append(missing[0])
            word = line[at : missing[1]]
        at += max(len(word), 1)
    if not found and len(addresses) == 1 and line.strip() == addresses[0]:
        start = line.index(addresses[0])
        found.append(Found("image", addresses.pop(), start, start + len(line.strip())))
    return Typed(line, tuple(found), tuple(absent), tuple(addresses))


def kind_of(name: str) -> Kind | None:
    """The kind of file at a path, by its first bytes or else by its suffix; "other" is a file that is no media.

    "folder" is a directory whose path begins with /, ./, ../ or ~/. None where there is neither a file nor such a
    directory, and for a word that neither begins like this nor has a suffix.
    """
    if not 0 < len(name) <= _LONGEST or "\n" in name or not (name.startswith(_DIRECTORIES) or _SUFFIX.search(name)):
        return None
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            # Not the "/" in "either / or".
            return "folder" if name.startswith(_DIRECTORIES) and name.strip("/") else None
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            found = recognize(stream.read(HEAD))
    except PermissionError:
        return _kind_by_name(name) or "other"
    except (OSError, RuntimeError, ValueError):  # RuntimeError: ~ without a home, ValueError: a NUL inside
        return _kind_by_name(name)
    return found.group if found is not None else _kind_by_name(name) or "other"


def _kind_by_name(name: str) -> Kind | None:
    """The kind of media by the suffix of a name."""
    stem, dot, suffix = name.rpartition(".")
    return SUFFIXES.get(dot + suffix.lower()) if stem and stem[-1] != "/" else None


def _begins(line: str, at: int) -> bool:
    """Whether a word may begin here."""
    if line[at].isspace() or line[at] in _OPENERS:
        return False
    return at == 0 or line[at - 1].isspace() or line[at - 1] in _OPENERS or line[at - 1] in _QUOTES


def _word_end(line: str, at: int) -> int:
    """The next blank."""
    while at < len(line) and not line[at].isspace():
        at += 1
    return at


def _trimmed(word: str) -> str:
    """A word without the punctuation of the sentence around it; brackets and quotes that it opened itself stay."""
    while word and word[-1] in _END_MARKS:
        opener = {")": "(", "]": "[", "}": "{", ">": "<"}.get(word[-1])
        if opener is not None and word.count(opener) >= word.count(word[-1]):
            break
        word = word[:-1]
    return word


def _address(line: str, at: int) -> Found | None:
    """A data:, file:, http: or https: address of something whose name says that it is media; and `video:PATH:FPS`."""
    word = line[at : _word_end(line, at)]
    lower = word[:8].lower()
    if lower.startswith("data:") and word[:11].lower() in ("data:image/", "data:video/"):
        word = word.rstrip(".,;:!?)]}>\"'")
        return Found(kind_of_address(word) or "image", word, at, at + len(word))
    if lower.startswith(("http://", "https://")):
        word = _trimmed(word)
        kind = kind_of_address(word)
        return None if kind is None or kind == "pdf" else Found(kind, word, at, at + len(word))
    if word[:13].lower().startswith(("video:http://", "video:https:/")):
        word = _trimmed(word)
        return Found("video", word[6:], at, at + len(word))
    for spelled in (word, _trimmed(word)):
        if lower.startswith("file:"):
            path = path_of(spelled)
            kind = kind_of(path)
            if kind is not None:
                return Found(kind, path, at, at + len(spelled))
        if lower.startswith("video:") and (match := _VIDEO.fullmatch(spelled)):
            path, fps = match["path"], match["fps"]
            if Path(path).expanduser().exists():
                return Found("video", path, at, at + len(spelled), float(fps) if fps else None)
    return None


def kind_of_address(address: str) -> Kind | None:
    """The kind of media at a data:, http: or https: address, by its name."""
    if address[:5].lower() == "data:":
        return "video" if address[5:11].lower() == "video/" else "image"
    try:
        return SUFFIXES.get(Path(unquote(urlsplit(address).path)).suffix.lower())
    except ValueError:
        return None


def path_of(address: str) -> str:
    """The path that a file: address of this machine names."""
    return unquote(urlsplit(address).path)


def _quoted(line: str, at: int) -> Found | None:
    """A path in quotes, to any of the closing quotes that follow."""
    closing = _QUOTES.get(line[at])
    end = at
    for _ in range(_CLOSINGS):
        if closing is None or (end := line.find(closing, end + 1, at + _LONGEST)) < 0:
            break
        inside = line[at + 1 : end]
        for name in (path_of(inside) if inside.lower().startswith("file:") else inside, _unescaped(inside)):
            kind = kind_of(name)
            if kind is not None:
                return Found(kind, name, at, end + 1)
    return None


def _shell_word(line: str, at: int) -> Found | None:
    """A path as a shell reads it, with quotes and backslashes: so terminals write what is dropped on them."""
    name, end = "", at
    while end < len(line) and not line[end].isspace():
        character = line[end]
        if character == "\\" and end + 1 < len(line):
            name, end = name + line[end + 1], end + 2
        elif character in "'\"":
            close = line.find(character, end + 1, at + _LONGEST)
            if close < 0:
                return None
            name, end = name + line[end + 1 : close], close + 1
        else:
            name, end = name + character, end + 1
    if name == line[at:end]:
        return None
    for cut in range(len(name) - len(name.rstrip(_END_MARKS)) + 1):
        shown = name[: len(name) - cut]
        kind = kind_of(shown)
        if kind is not None:
            return Found(kind, shown, at, end - cut)
    return None


def _plain(line: str, at: int) -> Found | None:
    """A path without quotes, the longest one that is there; its name may have blanks in it."""
    ends: list[int] = []
    end = at
    while len(ends) < _WORDS and end < len(line):
        end = _word_end(line, end)
        ends.append(end)
        if line[end : end + 1] == "\n":
            break
        while end < len(line) and line[end].isspace():
            end += 1
    for end in reversed(ends):
        raw = line[at:end]
        for name in (raw, raw.rstrip(_END_MARKS)):
            # Look on the disk for a name of several words only if it ends like a file.
            kind = kind_of(name) if end == ends[0] or _SUFFIX.search(name) else None
            if kind is not None:
                return Found(kind, name, at, at + len(name))
    return None


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _absent(line: str, at: int) -> tuple[Absent, int] | None:
    """A word that ends like a media file but does not exist, and the index of its end."""
    closing = _QUOTES.get(line[at])
    end = line.find(closing, at + 1) if closing is not None else -1
    if end > 0:
        name, end = line[at + 1 : end], end + 1
    else:
        word = _ESCAPED_WORD.match(line, at)
        name, end = (_trimmed(word[0]), word.end()) if word is not None else ("", at)
    name = _unescaped(name)
    if name.lower().startswith("file:"):
        name = path_of(name)
    elif "://" in name:
        return None
    if _kind_by_name(name) is None or len(name) > _LONGEST:
        return None
    return Absent(name, "/" in name), end
