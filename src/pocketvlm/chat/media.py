"""The media of a conversation are opened, described and saved here: pictures, videos and PDF pages."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pocketvlm.chat.typed import Kind, kind_of, kind_of_address, path_of
from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import ImageError, OptionError
from pocketvlm.options.media import IMAGE_OPTIONS, Alpha, ImageOptions
from pocketvlm.processor.alpha import flatten
from pocketvlm.processor.clipboard import clipboard
from pocketvlm.processor.frames import rated
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.media import read_image, shorten, trimmed
from pocketvlm.processor.pdf import draw_page, page_count
from pocketvlm.processor.sizes import plan_image

# Each page costs up to some six hundred tokens.
PDF_PAGES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Medium:
    """An image or a video of a conversation.

    name: for people. address: a file:, http(s): or data: address to load it from again, or None. image: the decoded
    picture of an image, RGB or RGBA; a video is decoded when a question is asked about it. options: its own options of
    the processor. page: whether it is a page of a document.
    """

    kind: Literal["image", "video"]
    name: str
    address: str | None
    image: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    page: bool = False
    _flat: dict[Alpha, Any] = field(default_factory=dict)

    def part(self, alpha: Alpha = "white") -> dict[str, Any]:
        """As a part of a message for the processor. alpha: how to remove transparency, unless the options say so."""
        if self.kind == "image":
            alpha = self.options.get("alpha") or alpha
            # Give the processor the same object each time, so that it finds the object in its image cache.
            if alpha not in self._flat:
                self._flat[alpha] = flatten(self.image, alpha == "white")
            return {"type": "image", "image": self._flat[alpha], **self.options}
        assert self.address is not None
        source = path_of(self.address) if self.address.startswith("file:") else self.address
        return {"type": "video", "video": source, **self.options}

    def saved(self, embed: bool) -> dict[str, Any]:
        """As a part of an OpenAI message for a file. embed: with the picture's pixels instead of its address."""
        address = self.address
        if self.kind == "video":
            return {"type": "video_url", "video_url": {"url": address}, **self.options}
        if address is None or (embed and not address.startswith("data:")):
            data = io.BytesIO()
            self.image.save(data, "PNG")
            address = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
        return {"type": "image_url", "image_url": {"url": address}, **self.options}

    def describe(self, config: ProcessorConfig, options: Mapping[str, Any], number: int) -> str:
        """One line about image `number`, e.g. `image 1: 1920x1080, 9 views, 597 tokens (cat.png)`."""
        chosen = {name: value for name, value in options.items() if name in IMAGE_OPTIONS}
        resolved = ImageOptions.resolve(config, chosen, self.options)
        width, height = self.image.size
        plan = plan_image(width, height, resolved, number - 1)
        views = 1 + (plan.grid[0] * plan.grid[1] if plan.grid else 0)
        seen = f"{width}x{height}, {views} view{'s' if views > 1 else ''}, {plan.tokens} tokens"
        return f"image {number}: {seen} ({self.name})"


@dataclass(frozen=True, slots=True)
class Opened:
    """The media at a path or an address, or on the clipboard. note: says what was left out, if anything."""

    media: tuple[Medium, ...]
    note: str = ""


def open_media(
    location: str, kind: Kind | None = None, pages: str | None = None, options: Mapping[str, Any] | None = None
) -> Opened:
    """Read an image, or pages of a PDF file; a video is only looked up. Raises ImageError or OptionError.

    location: a path or an address, also `video:PATH[:FPS]`. kind: what it is (None: found out). pages: of a PDF file,
    such as `1-3,5` (None: the first PDF_PAGES). options: of the processor, for this one.
    """
    given, location = dict(options or {}), trimmed(location)
    if kind is None and location[:6].lower() == "video:":
        kind, (location, fps) = "video", rated(location)
        given |= {} if fps is None else {"fps": fps}
    lower = location[:8].lower()
    remote = lower.startswith(("http://", "https://", "data:"))
    path = None if remote else Path(path_of(location) if lower.startswith("file:") else location).expanduser()
    if kind is None:
        kind = kind_of_address(location) if path is None else kind_of(str(path.absolute()))
    if kind == "pdf":
        if path is None:
            raise ImageError(f"{shorten(location)}: PDF files are read from disk only: download it first")
        return _pdf(path, pages)
    address = location if path is None else path.absolute().as_uri()
    name = shorten(location, 40) if path is None else path.name
    if kind == "video":
        if path is not None and not path.exists():
            raise ImageError(f"{location}: no such file")
        return Opened((Medium("video", name, address, options=given),))
    image = read_image(location if path is None else path, MediaLimits())
    return Opened((Medium("image", name, address, image, given),))


def paste() -> Opened:
    """The content of the clipboard: a picture, or files. Raises ImageError."""
    found = clipboard()
    if not isinstance(found, list):
        return Opened((Medium("image", "clipboard", None, found),))
    opened = [open_media(name) for name in found]
    notes = "; ".join(one.note for one in opened if one.note)
    return Opened(tuple(medium for one in opened for medium in one.media), notes)


def _pdf(path: Path, pages: str | None) -> Opened:
    total = page_count(path)
    chosen = list(range(1, min(total, PDF_PAGES) + 1)) if pages is None else read_pages(pages, total)
    media = tuple(
        Medium("image", f"{path.name} page {number}", None, draw_page(path, number), page=True) for number in chosen
    )
    left = total - len(chosen)
    more = f"/pdf {shlex.quote(str(path))} {len(chosen) + 1}-{total}"
    note = f"pages 1 to {len(chosen)} of {total}; more with {more}"
    return Opened(media, note if pages is None and left else "")


def read_pages(text: str, total: int) -> list[int]:
    """Page numbers out of `1-3,5`, `7-` or `all`. Raises OptionError."""
    chosen: list[int] = []
    for part in text.replace(" ", "").split(","):
        first, dash, last = ("1", "-", "") if part == "all" else part.partition("-")
        start, stop = first, (last or str(total)) if dash else first
        if not (start.isdecimal() and stop.isdecimal() and 1 <= int(start) <= int(stop) <= total):
            raise OptionError(f"pages {text!r} are not supported: give numbers from 1 to {total}, such as 1-3,5 or all")
        chosen += range(int(start), int(stop) + 1)
    return chosen


def names_of(media: Sequence[Medium], numbers: Sequence[int], alone: bool) -> str:
    """What a sentence calls media that were opened together, e.g. `this image`, `image 2`, `images 2 to 4`.

    numbers: of each among those of its kind. alone: whether the conversation has nothing else.
    """
    kind = "page" if media[0].page else media[0].kind
    if alone:
        return f"this {kind}" if len(media) == 1 else f"these {kind}s"
    kind = media[0].kind
    if len(media) == 1:
        return f"{kind} {numbers[0]}"
    return f"{kind}s {numbers[0]} to {numbers[-1]}"
