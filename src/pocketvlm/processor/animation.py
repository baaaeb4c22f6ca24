"""Animated WebP files are read with Pillow, because FFmpeg does not read them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketvlm.errors import VideoError
from pocketvlm.processor.alpha import direct_colour, flatten
from pocketvlm.processor.container import VideoFile
from pocketvlm.processor.limits import past_pillow
from pocketvlm.processor.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image


class Animation:
    """The frames of one animated WebP file."""

    paced = False

    def __init__(self, file: VideoFile) -> None:
        self.name, self.file = file.name, file
        with file.open_bytes() as stream:
            durations = _webp_durations(stream)
        self._durations = durations
        image = self.open()
        self.total = getattr(image, "n_frames", 1)
        file.check_size(image.width, image.height)
        image.close()
        seconds = sum(durations) / 1000
        if self.total > 1 and (len(durations) != self.total or seconds <= 0):
            raise VideoError(f"{self.name}: {self.total} frames but {seconds:g} s: the animation is damaged")
        self.fps: float | None = self.total / seconds if self.total > 1 else 1.0
        self.seconds: float | None = seconds if self.total > 1 else 1.0
        self._digest = file.digest()

    def open(self) -> Image:
        import PIL.Image
        from PIL.WebPImagePlugin import WebPImageFile

        try:
            return WebPImageFile(self.file.open_bytes())  # not PIL.Image.open, which has its own limit of pixels
        except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
            limit = self.file.limits.max_video_pixels
            raise VideoError(past_pillow(error, self.name, limit, "max_video_pixels")) from None
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, ...
            raise VideoError(f"{self.name}: damaged or incomplete WebP file: {error}") from error

    def timeline(self) -> Timeline:
        """When each frame appears."""
        if self.total == 1:
            return Timeline.even(1, 1.0)
        ends = np.cumsum(self._durations) / 1000
        return Timeline(np.append(0.0, ends[:-1]), float(ends[-1]), float(ends[-1]))

    def digest(self, numbers: Sequence[int]) -> bytes:
        return self._digest

    def decoder(self, wanted: Sequence[int]) -> AnimationReader:
        return AnimationReader(self)


class AnimationReader:
    def __init__(self, animation: Animation) -> None:
        self._animation = animation
        self._image: Image | None = None

    def read(self, number: int) -> Image:
        try:
            if self._image is None:
                self._image = self._animation.open()
            self._image.seek(number)
            image = direct_colour(self._image.copy(), self._animation.name)
            return flatten(image, self._animation.file.alpha == "white")
        except Exception as error:
            raise VideoError(
                f"{self._animation.name}: frame {number} of {self._animation.total} cannot be decoded: the file is "
                f"damaged ({error})"
            ) from error

    def close(self) -> None:
        if self._image is not None:
            self._image.close()
            self._image = None


def _webp_durations(stream: Any) -> list[int]:
    """Milliseconds of each frame: ANMF chunks of a RIFF file hold 12 bytes of offsets and sizes, then 3 of duration."""
    found = []
    stream.seek(12)
    while len(head := stream.read(8)) == 8:
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"ANMF":
            found.append(int.from_bytes(stream.read(16)[12:15], "little"))
            size -= 16
        if size < 0:
            break
        stream.seek(size + size % 2, io.SEEK_CUR)
    return found
