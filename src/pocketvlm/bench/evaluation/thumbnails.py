"""Small copies of the images of a question as data URIs, within a limit for the whole page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pocketvlm.api.evaluation.result import from_here
from pocketvlm.bench.evaluation.escape import text
from pocketvlm.errors import PocketVLMError
from pocketvlm.processor.encode import encode
from pocketvlm.processor.frames import open_frames, rated
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.media import load_image, shorten
from pocketvlm.processor.messages import MediaPart, read_messages

SIDE = 448  # pixels of the longer side
PAGE_BYTES = 24 << 20  # of all data URIs of a page
_MAX_PICTURES = 8  # of one question


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image of a question. name: of the source, for people. uri: a data URI, or None: `problem` says why."""

    name: str
    uri: str | None
    problem: str = ""
    video: bool = False


class Thumbnails:
    """Makes the thumbnails of a page until its limit is reached."""

    def __init__(self, limit: int = PAGE_BYTES) -> None:
        self._left = limit
        self.left_out = 0

    def of(self, messages: Sequence[Mapping[str, Any]]) -> list[Thumbnail]:
        """Those of a question's images and of the first frames of its videos. Images that fail say why."""
        try:
            read = read_messages(messages)
        except PocketVLMError:
            return []  # the sample's own error says it
        parts = [(part, False) for part in read.images] + [(part, True) for part in read.videos]
        self.left_out += max(0, len(parts) - _MAX_PICTURES)
        return [self._one(part, video) for part, video in parts[:_MAX_PICTURES]]

    def _one(self, part: MediaPart, video: bool) -> Thumbnail:
        name = _name(part.source)
        if self._left <= 0:
            self.left_out += 1
            return Thumbnail(name, None, "left out: the page has as many images as it may have", video)
        try:
            data = _frame(part) if video else encode(load_image(part.source, is_base64=part.base64), SIDE, "JPEG")
        except (PocketVLMError, OSError) as error:
            return Thumbnail(name, None, from_here(str(error)), video)
        uri = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        self._left -= len(uri)
        return Thumbnail(name, uri, "", video)


def _frame(part: MediaPart) -> bytes:
    """The first frame of a video."""
    source, rate = rated(part.source) if isinstance(part.source, str) else (part.source, None)
    frames = open_frames(source, MediaLimits(), fps=rate, is_base64=part.base64)
    decoder = frames.decoder([0])
    try:
        return encode(decoder.read(0), SIDE, "JPEG")
    finally:
        decoder.close()


def _name(source: Any) -> str:
    """The name of a source; of frames that of the first."""
    if isinstance(source, str):
        return "data URI" if source[:5].lower() == "data:" else shorten(source.rstrip("/").rpartition("/")[2] or source)
    if isinstance(source, Sequence) and source and isinstance(source[0], str):
        return f"{len(source)} frames from {_name(source[0])}"
    return type(source).__name__


def figure(picture: Thumbnail, overlay: str = "") -> str:
    """The HTML of a thumbnail. overlay: HTML that lies over the image."""
    kind = "first frame of the video" if picture.video else "image"
    caption = f"<figcaption>{text(picture.name, 200)}</figcaption>"
    if picture.uri is None:
        return f'<figure class="none"><p>{text(f"no {kind}: {picture.problem}", 400)}</p>{caption}</figure>'
    image = f'<img src="{picture.uri}" alt="{kind} {text(picture.name, 200)}" loading="lazy">'
    return f'<figure><div class="picture">{image}{overlay}</div>{caption}</figure>'
