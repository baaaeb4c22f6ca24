"""`open_frames` gives access to the frames of a file, an animation, a folder, a list or an array."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import numpy as np

from pocketvlm.errors import ImageError, OptionError, VideoError
from pocketvlm.options.media import Alpha
from pocketvlm.processor.alpha import flatten
from pocketvlm.processor.animation import Animation
from pocketvlm.processor.container import VideoFile
from pocketvlm.processor.decode import decode
from pocketvlm.processor.formats import HEAD, no_video, recognize
from pocketvlm.processor.frame_index import Index, build_index
from pocketvlm.processor.frame_reader import Reader
from pocketvlm.processor.limits import MediaLimits, check_bytes
from pocketvlm.processor.media import from_base64, load_image, locate, read_stream, shorten, trimmed
from pocketvlm.processor.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif"),
)
# Frames in one URI, as vLLM takes them: base64 of each, with commas between them.
_JPEG_LIST = "data:video/jpeg;base64,"
_RATED = re.compile(r"(.+):([0-9]*\.?[0-9]+)", re.DOTALL)


class Decoder(Protocol):
    """Returns single frames, fastest in ascending order."""

    def read(self, number: int) -> Image:
        """An RGB frame. Raises VideoError."""

    def close(self) -> None:
        """Close what is open."""


class Frames(Protocol):
    """A video before it is sampled. If fps and seconds are None, the frames have no rate and all of them are used.

    paced: whether the caller's fps is the rate of these frames, rather than the number of frames to sample a second.
    """

    name: str
    total: int
    fps: float | None
    seconds: float | None
    paced: bool

    def timeline(self) -> Timeline:
        """When each frame appears. Needs fps."""

    def digest(self, numbers: Sequence[int]) -> bytes:
        """Bytes that are equal only for equal frames at these numbers."""

    def decoder(self, wanted: Sequence[int]) -> Decoder:
        """A decoder for the frames with the numbers `wanted`."""


def rated(source: str) -> tuple[str, float | None]:
    """`video:PATH[:fps]`, or without the prefix, as the path and the rate; a path that exists is taken as it is."""
    text = trimmed(source[6:] if source[:6].lower() == "video:" else source)
    found = _RATED.fullmatch(text)
    if found is None or "://" in text or text[:5].lower() == "data:" or _exists(text):
        return text, None
    return found[1], float(found[2])


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def open_frames(
    source: Any,
    limits: MediaLimits,
    *,
    fps: float | None = None,
    is_base64: bool = False,
    part: float | None = None,
    alpha: Alpha = "white",
) -> Frames:
    """The frames of any accepted source. Raises VideoError or OptionError.

    source: str or os.PathLike (a video file, an animation, a folder of images; ~ path, file:, http:, https: or data:
    URI), bytes, a binary file object, a list of images, or a uint8 NumPy array [frames, height, width] or
    [frames, height, width, 1 | 3 | 4]. fps: the rate of a folder, a list or an array. part: seconds that are wanted of
    it. alpha: what becomes of transparency, as for images (see media).
    """
    with _as_video_errors():
        if isinstance(source, str) and is_base64:
            return _encoded(from_base64(source, "base64 text", limits), "base64 text", limits, part, alpha)
        if isinstance(source, str | os.PathLike):
            text = trimmed(os.fsdecode(source))
            if text[: len(_JPEG_LIST)].lower() == _JPEG_LIST:
                return _jpeg_list(text[len(_JPEG_LIST) :], shorten(text), limits, fps, alpha)
            found, _ = locate(text, limits)
            if isinstance(found, Path) and found.is_dir():
                return _folder(found, shorten(text), limits, fps, alpha)
            if isinstance(found, Path) and not found.is_file():
                raise VideoError(f"{shorten(text)}: not a regular file: copy what it holds into one")
            return _encoded(found, shorten(text), limits, part, alpha)
        if isinstance(source, bytes | bytearray | memoryview):
            check_bytes(len(source), f"{len(source)} bytes", limits)
            return _encoded(bytes(source), f"{len(source)} bytes", limits, part, alpha)
        if hasattr(source, "__array_interface__") and hasattr(source, "dtype"):
            return _Array(source, limits, fps, alpha)
        if isinstance(source, Sequence):
            return _Images(list(source), f"list of {len(source)} images", limits, fps, alpha)
        if hasattr(source, "read") and not hasattr(source, "getbands"):
            name = shorten(str(getattr(source, "name", "") or "file object"))
            return _encoded(read_stream(source, name, limits), name, limits, part, alpha)
    raise VideoError(
        f"a video cannot be a {type(source).__name__}: give a path, a folder, a URL, a data URI, bytes, a list of "
        "images or a NumPy array [frames, height, width, 3 or 4]"
    )


@contextmanager
def _as_video_errors() -> Iterator[None]:
    """Failures of the parts that images share are failures of the video."""
    try:
        yield
    except ImageError as error:
        raise VideoError(str(error)) from error.__cause__


def _encoded(data: bytes | Path, name: str, limits: MediaLimits, part: float | None, alpha: Alpha) -> Frames:
    file = VideoFile(data, name, limits, alpha)
    with file.open_bytes() as stream:
        start = stream.read(HEAD)
    if not start:
        raise VideoError(f"{name}: empty, no video data")
    why_not = no_video(start)
    if why_not is not None:
        raise VideoError(f"{name}: {why_not}")
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return Animation(file)
    try:
        return _File(file, build_index(file, part))
    except VideoError:
        found = recognize(start)
        if found is None or found.name != "PNG" or b"acTL" in start:
            raise
        # Metadata filled the first bytes, so they did not show the format.
        raise VideoError(f"{name}: it is an image (PNG), not a video: give it as an image") from None


class _File:
    """A file that FFmpeg's libraries read."""

    paced = False

    def __init__(self, file: VideoFile, index: Index) -> None:
        self.name, self.file, self.index = file.name, file, index
        self.total = index.total
        self.fps: float | None = index.fps
        self.seconds: float | None = index.seconds
        self._digest = file.digest()

    def timeline(self) -> Timeline:
        index = self.index
        if not index.times:
            return Timeline.even(index.total, index.fps)
        times = np.asarray(index.times)
        return Timeline((times - times[0]) * index.unit, index.span, index.file_span, index.unit)

    def digest(self, numbers: Sequence[int]) -> bytes:
        return self._digest

    def decoder(self, wanted: Sequence[int]) -> Decoder:
        return Reader(self.file, self.index, wanted)


def _folder(path: Path, name: str, limits: MediaLimits, fps: float | None, alpha: Alpha) -> Frames:
    def natural(file: Path) -> list[tuple[bool, int, str]]:
        parts = re.split(r"(\d+)", file.name)
        return [(part.isdigit(), int(part) if part.isdigit() and part.isascii() else 0, part) for part in parts]

    try:
        files = sorted((file for file in path.iterdir() if file.suffix.lower() in SUFFIXES), key=natural)
    except OSError as error:
        raise VideoError(f"{name}: cannot be read: {error.strerror}") from error
    if not files:
        raise VideoError(f"{name}: there is no image in this folder ({', '.join(SUFFIXES)})")
    return _Images(files, name, limits, fps, alpha)


def _jpeg_list(text: str, name: str, limits: MediaLimits, fps: float | None, alpha: Alpha) -> Frames:
    text = unquote(text) if "%" in text else text
    check_bytes(len(text) * 3 // 4, name, limits)
    maximum = limits.max_video_frames
    if text.count(",") >= maximum:
        raise VideoError(f"{name}: {text.count(',') + 1} frames are more than the limit of {maximum}: send fewer")
    parts = text.split(",")
    if "" in parts:
        raise VideoError(f"{name}: frame {parts.index('')} of {len(parts)} is empty: put one comma between two frames")
    frames = [from_base64(part, f"frame {number} of {name}", limits) for number, part in enumerate(parts)]
    return _Images(frames, name, limits, fps, alpha)


class _Images:
    """A list of images as frames, in order and of one size. Files and URLs stay encoded until they are decoded."""

    paced = True

    def __init__(self, images: list[Any], name: str, limits: MediaLimits, fps: float | None, alpha: Alpha) -> None:
        if not images:
            raise VideoError("a video of no images has nothing to see: give at least one")
        if fps is None and len(images) > limits.max_video_frames:
            raise VideoError(f"{name}: more than the limit of {limits.max_video_frames} frames: give fewer, or fps")
        self.name, self._limits, self._alpha = name, limits, alpha
        self.images = [locate(image, limits)[0] if isinstance(image, str) else image for image in images]
        self.total, self.fps = len(images), fps
        self.seconds = None if fps is None else self.total / fps
        self._size: tuple[int, int] | None = None

    def timeline(self) -> Timeline:
        return Timeline.even(self.total, self.fps or 1.0)

    def digest(self, numbers: Sequence[int]) -> bytes:
        digest = hashlib.sha256()
        for number in numbers:
            source = self.images[number]
            try:
                data = source.read_bytes() if isinstance(source, Path) else source
            except OSError as error:
                raise VideoError(f"frame {number} of {self.name}: cannot be read: {error.strerror}") from error
            if not isinstance(data, bytes):
                image = self.read(number)
                digest.update(f"{image.width} {image.height}\n".encode())
                data = image.tobytes()
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        return digest.digest()

    def decoder(self, wanted: Sequence[int]) -> Decoder:
        return self

    def read(self, number: int) -> Image:
        source, name = self.images[number], f"frame {number} of {self.name}"
        try:
            if isinstance(source, bytes):
                check_bytes(len(source), name, self._limits)
                image = flatten(decode(source, name, self._limits), self._alpha == "white")
            else:
                image = load_image(source, self._limits, alpha=self._alpha)
        except ImageError as error:
            text = str(error) if isinstance(source, bytes) else f"{name}: {error}"
            raise VideoError(text) from error.__cause__
        self._size = self._size or image.size
        if image.size != self._size:
            raise VideoError(
                f"frame {number} of {self.name} has {image.width}x{image.height} pixels, the first one "
                f"{self._size[0]}x{self._size[1]}: give all frames one size"
            )
        return image

    def close(self) -> None:
        """Nothing is open."""


class _Array(_Images):
    """uint8 [frames, height, width] or [frames, height, width, 1 | 3 | 4]."""

    def __init__(self, source: Any, limits: MediaLimits, fps: float | None, alpha: Alpha) -> None:
        array: NDArray[np.uint8] = np.asarray(source)
        name = f"array {array.dtype}{list(array.shape)}"
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3, 4)):
            raise VideoError(f"{name}: give uint8 [frames, height, width] or [frames, height, width, 1, 3 or 4]")
        super().__init__(list(array), name, limits, fps, alpha)


def check_rate(frames: Frames, stack: int, start: float | None, end: float | None) -> None:
    """Raise OptionError for options that need times where frames have none."""
    given = [name for name, asked in (("stack_frames", stack > 1), ("start", start), ("end", end)) if asked]
    if frames.fps is None and given:
        raise OptionError(f"{frames.name}: {given[0]} needs the times of frames: give fps, the rate of these frames")
