"""The frame reader decodes single frames exactly, starting at its position or at the last key frame before a frame."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import VideoError
from pocketvlm.processor.alpha import decoder_of, frame_image
from pocketvlm.processor.container import VideoFile, load_pyav, reason
from pocketvlm.processor.frame_index import Index
from pocketvlm.processor.orientation import orientation

if TYPE_CHECKING:
    from PIL.Image import Image

# Decoders that can skip single packets.
_SKIPS = ("h264", "hevc", "mpeg4")


class Reader:
    """Decodes single frames of a file, fastest in ascending order. Not thread-safe. Callers must close it."""

    def __init__(self, file: VideoFile, index: Index, wanted: Sequence[int] = ()) -> None:
        """wanted: numbers of the frames that will be read, if known; the decoder skips other frames if it can."""
        self.file, self.index = file, index
        self._wanted = {index.times[number] for number in wanted} if index.times else set()
        self._seeks = bool(index.keys)
        self._stack: Any = None
        self._frames: Iterator[Any] = iter(())
        self._at = 0  # number of the next frame; only a bound after a jump
        self._landing: int | None = None  # time of the key frame that the last seek went to
        self._size: tuple[int, int] | None = None
        self._last: tuple[int, Image] | None = None  # clips of few frames a second read one frame several times

    def read(self, number: int) -> Image:
        """The frame of this number, upright, as RGB. Raises VideoError where it cannot be decoded."""
        if self._last is None or self._last[0] != number:
            self._last = number, self._upright(self._decoded(number), number)
        return self._last[1]

    def _decoded(self, number: int) -> Any:
        frame = self._find(number, self._seeks)
        if frame is None and self._seeks:
            # The index names a false key frame, or its times do not match: count frames from the beginning instead.
            self._seeks = False
            self.close()
            frame = self._find(number, False)
        if frame is None:
            raise VideoError(
                f"{self.file.name}: frame {number} of {self.index.total} cannot be decoded: the file is damaged"
            )
        return frame

    def close(self) -> None:
        """Close the file."""
        self._frames = iter(())
        if self._stack is not None:
            self._stack.__exit__(None, None, None)
            self._stack = None

    def _find(self, number: int, seek: bool) -> Any:
        av = load_pyav()

        try:
            if self._stack is None or number < self._at:
                self._open()
            if seek:
                self._jump(number)
                return self._by_time(self.index.times[number], number)
            for frame in self._frames:
                self._at += 1
                if self._at > number:
                    return frame
            return None
        except (av.FFmpegError, ValueError, OSError) as error:
            if isinstance(error, VideoError):
                raise
            if seek:
                return None
            raise VideoError(
                f"{self.file.name}: frame {number} of {self.index.total} cannot be decoded: the file is damaged "
                f"({reason(error)})"
            ) from None

    def _open(self) -> None:
        self.close()
        self._stack = self.file.opened()
        self._container, self._stream = self._stack.__enter__()
        self._at, self._landing = 0, None
        self._frames = self._decode()

    def _jump(self, number: int) -> None:
        """Go to the last key frame before a frame, if it is ahead."""
        index = bisect.bisect_right(self.index.keys, number) - 1
        if index >= 0 and self.index.keys[index] > self._at:
            self._container.seek(self.index.key_times[index], stream=self._stream)
            self._frames = self._decode()
            self._at = self.index.keys[index]
            self._landing = self.index.times[self._at]

    def _by_time(self, time: int, number: int) -> Any:
        for frame in self._frames:
            if frame.pts is None or frame.pts > time:
                return None
            if self._landing is not None and frame.pts >= self._landing:
                if frame.pts > self._landing:  # intra refresh: frames after its key frames are nearly right
                    return None
                self._landing = None
            if frame.pts == time:
                self._at = number + 1
                return frame
        return None

    def _decode(self) -> Iterator[Any]:
        context = decoder_of(self._stream, self.file.name, self.file.alpha)
        for packet in self.file.packets(self._container, self._stream, self.index.from_key):
            if self._wanted and self._seeks and context.name in _SKIPS:
                # A frame that no other frame refers to is decoded only if it is wanted.
                context.skip_frame = "DEFAULT" if packet.pts in self._wanted or not packet.size else "NONREF"
            yield from context.decode(packet)

    def _upright(self, frame: Any, number: int) -> Image:
        size = (frame.width, frame.height)
        self._size = self._size or size
        if size != self._size:
            raise VideoError(
                f"{self.file.name}: frame {number} has {size[0]}x{size[1]} pixels, those before it "
                f"{self._size[0]}x{self._size[1]}: write it again in one size"
            )
        self.file.check_size(*size)
        image = frame_image(frame, self.file.alpha)
        transpose = orientation(frame)
        return image if transpose is None else image.transpose(transpose)
