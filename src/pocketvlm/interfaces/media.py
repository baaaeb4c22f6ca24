"""Find the images and videos that a request names by URL, path or file id, and replace these names by data URIs."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pocketvlm.errors import ImageError, OptionError, VideoError
from pocketvlm.processor.formats import HEAD, recognize
from pocketvlm.processor.frames import rated
from pocketvlm.processor.media import shorten

_TYPES = ("image", "image_url", "video", "video_url")
_NAMES = ("image", "video", "image_url", "video_url", "url", "path")
_Part = dict[str, Any]


@dataclass(frozen=True, slots=True)
class MediaSource:
    """The name of one image, one video or one frame of a list. where: its position in the messages.

    kind "data" has its data already, "url" is any other URL, "path" a file's path, "file_id" the id of an upload.
    """

    kind: Literal["data", "url", "path", "file_id"]
    value: str
    where: str


# Gets the bytes of a source that is not "data". Raises ImageError.
ReadMedia = Callable[[MediaSource], bytes]


def refuse(source: MediaSource) -> bytes:
    """The reader for requests that contain all data. Raises ImageError."""
    raise ImageError(f"{source.where}: nothing but data is read here: send a data URI or base64 text")


def with_data(
    messages: Sequence[Any], read: ReadMedia, paths: bool = False, names: dict[str, str] | None = None
) -> list[Any]:
    """Messages in which every image and video carries its data. paths: as for `media_sources`.

    names: gets what `named_again` needs. Raises ImageError and VideoError.
    """
    copied, places = media_parts(messages)
    for number, index, where in places:
        part = copied[number]["content"][index]
        try:
            sources = media_sources(part, where, paths)
            uris = [data_uri(source, read) for source in sources]
            for source, uri in zip(sources, uris, strict=True):
                if names is not None and source.kind != "data":
                    short, name = shorten(uri), repr(shorten(source.value))
                    # Several of the same beginning and size cannot be told apart.
                    names[short] = name if names.get(short, name) == name else short
        except ImageError as error:
            raise failure(part_kind(part), str(error)) from error.__cause__
        copied[number]["content"][index] = replaced(part, uris)
    return copied


def named_again(text: str, names: Mapping[str, str]) -> str:
    """An error about data that was read, with the name of its source instead of the data's first characters."""
    for short, name in names.items():
        text = text.replace(f"{short}:", f"{name}:")
    return text


def media_parts(messages: Sequence[Any]) -> tuple[list[Any], list[tuple[int, int, str]]]:
    """A copy of messages whose parts may be replaced, and of each image and video: message, part, name of its place."""
    copied = [
        {**message, "content": list(message["content"])} if _has_parts(message) else message for message in messages
    ]
    places = []
    for number, message in enumerate(copied):
        if _has_parts(message):
            for index, part in enumerate(message["content"]):
                if isinstance(part, Mapping) and part.get("type") in _TYPES:
                    message["content"][index] = _by_name(part)
                    places.append((number, index, f"messages[{number}].content[{index}]"))
    return copied, places


def media_sources(part: Mapping[str, Any], where: str, paths: bool = False) -> list[MediaSource]:
    """The sources of a part: several for a video of frames, none where the processor must say what is wrong.

    paths: a source without a scheme is a path, unless it is the base64 text of a picture or video. Raises ImageError.
    """
    kind, file_id = part_kind(part), _file_id(part)
    if file_id is not None:
        if not isinstance(file_id, str):
            raise ImageError(f"{where}: file_id must be a string")
        for key in (kind, "url", "path", "base64"):
            if part.get(key) is not None:
                raise ImageError(f"{where}: give file_id or {key}, not both")
        return [MediaSource("file_id", file_id, where)]
    value = source_of(part)
    if kind == "video" and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return [_from_url(each, where, paths) for each in value]
    if not isinstance(value, str):
        return []
    if isinstance(part.get("path"), str):
        return [MediaSource("path", value, where)]
    return [_from_url(value, where, paths)]


def replaced(part: Mapping[str, Any], uris: Sequence[str]) -> _Part:
    """The part with the data URIs of its sources instead of them."""
    kind, changed = part_kind(part), {key: each for key, each in part.items() if key != "file_id"}
    by_url = f"{kind}_url"
    if not uris:
        return changed
    if _file_id(part) is None and isinstance(source_of(part), list):
        return {**changed, kind: list(uris)}
    if by_url not in part:
        return {**{key: each for key, each in changed.items() if key not in (kind, "url", "path")}, kind: uris[0]}
    inner = part[by_url]
    if isinstance(inner, str):
        return {**changed, by_url: uris[0]}
    others = {key: each for key, each in inner.items() if key != "file_id"} if isinstance(inner, Mapping) else {}
    return {**changed, by_url: {**others, "url": uris[0]}}


def data_uri(source: MediaSource, read: ReadMedia) -> str:
    """The data of a source as a data URI."""
    return source.value if source.kind == "data" else as_data_uri(read(source))


def as_data_uri(data: bytes) -> str:
    """Bytes as a data URI without a media type."""
    return "data:;base64," + base64.b64encode(data).decode("ascii")


def part_kind(part: Mapping[str, Any]) -> str:
    """Whether a part is an "image" or a "video"."""
    return str(part["type"]).removesuffix("_url")


def failure(kind: str, text: str) -> ImageError | VideoError:
    """The error of an image or a video."""
    return VideoError(text) if kind == "video" else ImageError(text)


def names_video(part: Mapping[str, Any]) -> bool:
    """Whether the source of a part is `video:PATH[:fps]`."""
    source = source_of(part)
    return isinstance(source, str) and source[:6].lower() == "video:"


def source_of(part: Mapping[str, Any]) -> Any:
    """What a part names its data by: a text, for a video also a list; None where it has base64 text or no one name."""
    kind = part.get("type")
    if kind in ("image_url", "video_url"):
        value = part.get(str(kind))
        return value.get("url") if isinstance(value, Mapping) else value
    given = [part[key] for key in (str(kind), "url", "path") if part.get(key) is not None]
    return given[0] if len(given) == 1 and part.get("base64") is None else None


def check_options(options: Mapping[str, Any], where: str, known: Sequence[str]) -> dict[str, Any]:
    """Options for all images and videos of a request, checked by name. Raises OptionError."""
    for name in options:
        if name not in known:
            raise OptionError(f"{where}.{name}: not an image or video option: give one of {', '.join(known)}")
    return {name: value for name, value in options.items() if value is not None}


def _from_url(text: str, where: str, paths: bool) -> MediaSource:
    text = text.strip()
    if ":" not in text[:16]:
        if paths and not _is_base64_media(text):
            return MediaSource("path", text, where)
        return MediaSource("data", f"data:;base64,{text}", where)
    return MediaSource("data" if text[:5].lower() == "data:" else "url", text, where)


def _is_base64_media(text: str) -> bool:
    """Whether a text is base64 that begins as a file of pictures or videos does. Names such as `/dev/null` are not."""
    head = "".join(text[: 2 * HEAD].split())
    try:
        return recognize(base64.b64decode(head[: len(head) // 4 * 4], validate=True)) is not None
    except ValueError:
        return False


def _file_id(part: Mapping[str, Any]) -> Any:
    inner = part.get(f"{part_kind(part)}_url")
    if isinstance(inner, Mapping) and inner.get("file_id") is not None:
        return inner["file_id"]
    return part.get("file_id")


def _has_parts(message: Any) -> bool:
    return isinstance(message, Mapping) and isinstance(message.get("content"), list)


def _by_name(part: Mapping[str, Any]) -> _Part:
    """The part; where its source is `video:PATH[:fps]`, a video part with that path, and the rate as its fps."""
    if not names_video(part):
        return dict(part)
    path, fps = rated(source_of(part))
    others = {key: value for key, value in part.items() if key not in ("type", *_NAMES)}
    inner = part.get(str(part["type"]))
    if isinstance(inner, Mapping) and inner.get("detail") is not None:
        others.setdefault("detail", inner["detail"])
    if fps is not None:
        others.setdefault("fps", fps)
    named = path if path[:5].lower() in ("data:", "file:", "http:", "https") else Path(path).absolute().as_uri()
    return {**others, "type": "video_url", "video_url": {"url": named}}
