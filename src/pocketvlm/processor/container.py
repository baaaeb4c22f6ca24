"""Video files through FFmpeg's libraries: an index of all frames without decoding, then single frames, exactly.

Frame i is the i-th that a decoder gives from beginning to end, as in the reference, whatever times the frames carry. A
reader decodes on from where it is, or jumps to the last key frame before a frame where that saves work.
Files open only as one of `FORMATS`: playlists and other formats that name further files or addresses are none of them.
"""

from __future__ import annotations

import bisect
import io
import math
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pocketvlm.errors import VideoError
from pocketvlm.processor.alpha import Alpha, decoder_of, frame_image
from pocketvlm.processor.limits import MediaLimits

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,gif,avi,mpegts,mpeg,flv,ogg,asf,apng,ivf"
# More frames a second than any clip has on the average: bounds the index.
MOST_FPS = 240
# Decoding threads; each holds a frame.
_THREADS = 4
# Decoders that can be told for each packet whether to leave it out.
_SKIPS = ("h264", "hevc", "mpeg4")
# Containers whose index is by decoding time; others find times of presentation.
_BY_DECODING_TIME = ("mov", "avi", "flv")


@dataclass(frozen=True, slots=True)
class Index:
    """What a file holds. times: of all frames, ascending, in units of `unit` seconds; empty where frames can only be
    counted.

    keys: numbers of the frames that decoding can begin at; key_times: what to seek for each.
    """

    total: int
    fps: float
    seconds: float
    times: Sequence[int] = ()
    unit: float = 0.0
    keys: Sequence[int] = ()
    key_times: Sequence[int] = ()


@dataclass(slots=True)
class VideoFile:
    """One video file, on disk or in memory. data: a path, or its bytes. name: for messages. alpha: as for pictures."""

    data: Path | bytes
    name: str
    limits: MediaLimits
    alpha: Alpha = "white"
    _seen: tuple[int, ...] = field(default=())

    @contextmanager
    def opened(self) -> Iterator[tuple[Any, Any]]:
        """The container and its first video stream. Raises VideoError."""
        with self.bytes() as stream, self._container(stream) as container:
            yield container, self._stream(container)

    def bytes(self) -> BinaryIO:
        """The file, open for reading; raises VideoError if it is not the one that was opened first."""
        if isinstance(self.data, bytes):
            return io.BytesIO(self.data)
        try:
            stream = self.data.open("rb")
        except OSError as error:
            raise VideoError(f"{self.name}: cannot be read: {error.strerror}") from error
        status = os.fstat(stream.fileno())
        seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if self._seen not in ((), seen):
            stream.close()
            raise VideoError(f"{self.name}: the file was changed while it was read: try again")
        self._seen = seen
        return stream

    def _container(self, stream: BinaryIO) -> Any:
        import av

        options = {"format_whitelist": FORMATS, "protocol_whitelist": ""}
        try:
            return av.open(stream, options=options, metadata_errors="ignore")
        except (av.FFmpegError, ValueError, OSError) as error:
            raise VideoError(
                f"{self.name}: not a video in a format we read (mp4, mov, mkv, webm, gif, webp, avi, ts, ...), or its "
                f"beginning is damaged ({_reason(error)})"
            ) from None

    def _stream(self, container: Any) -> Any:
        from av.stream import Disposition

        streams = [found for found in container.streams.video if not found.disposition & Disposition.attached_pic]
        if not streams:
            kinds = sorted({found.type for found in container.streams})
            raise VideoError(f"{self.name}: there is no video in it, only {' and '.join(kinds) or 'nothing'}")
        stream = streams[0]
        context = stream.codec_context
        if context is None:
            raise VideoError(f"{self.name}: its video is in a codec that we do not decode")
        self.check_size(context.width, context.height)
        context.thread_type = "AUTO"
        context.thread_count = min(_THREADS, os.cpu_count() or 1)
        context.options = {"max_pixels": str(self.limits.max_video_pixels)}
        return stream

    def check_size(self, width: int, height: int) -> None:
        """Raise VideoError for frames outside the limits."""
        if width < 1 or height < 1:
            raise VideoError(f"{self.name}: frames of {width}x{height} pixels have nothing to see: the file is damaged")
        if width * height > self.limits.max_video_pixels:
            raise VideoError(
                f"{self.name}: frames of {width}x{height} = {width * height} pixels are more than the limit of "
                f"{self.limits.max_video_pixels}: make them smaller or raise max_video_pixels"
            )
        if max(width, height) > self.limits.max_ratio * min(width, height):
            raise VideoError(
                f"{self.name}: frames of {width}x{height} pixels are longer than {self.limits.max_ratio:g}:1: crop "
                "them or raise max_ratio"
            )

    def index(self, part: float | None = None) -> Index:
        """Walk over the file without decoding it. part: seconds that are wanted of it, None for all.

        Raises VideoError for a file without frames, without a rate, longer than the limit, or that ends early.
        """
        import av

        with self.opened() as (container, stream):
            stated = _stated_seconds(container, stream)
            if part is None:
                self._check_seconds(stated)
            walk, seen, broken = _Walk(), 0.0, ""
            most = int(max(self.limits.max_video_seconds, stated if part is not None else 0.0) * MOST_FPS)
            try:
                for packet in container.demux(stream):
                    walk.add(packet, stream.codec_context.name)
                    if walk.packets > most:
                        break
                seen = walk.span * float(stream.time_base or 0)
                if walk.sound and seen < 0.95 * stated - 1.0:
                    seen = _length(container)  # video that ends before the sound is whole
            except (av.FFmpegError, ValueError, OSError) as error:
                broken = f" ({_reason(error)})"
            if walk.packets > most:
                raise VideoError(f"{self.name}: more than {most} frames: cut the file or raise max_video_seconds")
            # Other formats than this count frames that were left out too.
            least = stream.frames if _is(container, "mov") else 0.9 * stream.frames
            if broken or walk.packets < least:
                end = f" of {stream.frames}" if stream.frames else ""
                raise self._cut_off(f"frame {walk.packets}{end}", broken)
            found = self._finish(walk, container, stream)
            if walk.sound and seen < 0.95 * stated - 1.0:
                raise self._cut_off(f"{seen:.1f} s of {stated:.1f} s", "")
        if part is None:
            self._check_seconds(found.seconds)
        return found

    def _cut_off(self, where: str, why: str) -> VideoError:
        return VideoError(f"{self.name}: the file ends after {where} or is damaged there{why}: get a whole copy")

    def _check_seconds(self, seconds: float) -> None:
        most = self.limits.max_video_seconds
        if seconds > most:
            raise VideoError(
                f"{self.name}: {seconds:.0f} s are longer than the limit of {most:g} s: give start and end, or raise "
                "max_video_seconds"
            )

    def _finish(self, walk: _Walk, container: Any, stream: Any) -> Index:
        total = len(walk.times)
        if not total:
            raise VideoError(f"{self.name}: there is no frame in its video: the file is empty or damaged")
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            span = _stated_seconds(container, stream)
            rate = Fraction(total) / Fraction(span).limit_denominator(1 << 20) if span > 0 else 0
        if not rate and total == 1:
            rate = Fraction(1)
        if not rate or not math.isfinite(float(rate)) or rate < 0:
            raise VideoError(f"{self.name}: {total} frames without a rate (0 fps): write it again with one")
        rate = Fraction(rate)
        times = sorted(walk.times)
        if not stream.frames and walk.sound and times[-1] > times[0] and stream.time_base:
            # Where the number of frames is not written, the rate is a guess: that of most frames, not the average.
            measured = (total - 1) / ((times[-1] - times[0]) * stream.time_base)
            if not 0.9 < float(rate / measured) < 1.1:
                rate = measured
        keys = sorted((bisect.bisect_left(times, time), decoding) for time, decoding in walk.keys)
        sound = walk.sound and len(set(times)) == total and bool(keys) and keys[0][0] == 0
        by_decoding = _is(container, *_BY_DECODING_TIME)
        return Index(
            total,
            float(rate),
            float(total / rate),
            array("q", times) if sound else (),
            float(stream.time_base or 0),
            [number for number, _ in keys] if sound else (),
            [decoding if by_decoding else times[number] for number, decoding in keys] if sound else (),
        )


@dataclass(slots=True)
class _Walk:
    """Packets counted. times: of those that become frames. keys: (time, decoding time) of key frames."""

    packets: int = 0
    times: list[int] = field(default_factory=list)
    keys: list[tuple[int, int]] = field(default_factory=list)
    sound: bool = True

    @property
    def span(self) -> int:
        """From the first frame to the last, in the stream's unit."""
        return max(self.times) - min(self.times) if self.times else 0

    def add(self, packet: Any, codec: str) -> None:
        if not packet.size:
            return
        self.packets += 1
        # VP8 has packets that only later frames refer to: one bit of the first byte says so.
        if packet.is_discard or (codec == "vp8" and not bytes(packet)[0] & 0x10):
            return
        if packet.pts is None:
            self.sound = False
            self.times.append(len(self.times))
            return
        self.times.append(packet.pts)
        if packet.is_keyframe:
            self.keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))


class Reader:
    """Decodes single frames of a file, best in ascending order. Not thread-safe. Close it."""

    def __init__(self, file: VideoFile, index: Index, wanted: Sequence[int] = ()) -> None:
        """wanted: numbers of the frames that will be asked for, if known: others are left out where none needs them."""
        self.file, self.index = file, index
        self._wanted = {index.times[number] for number in wanted} if index.times else set()
        self._seeks = bool(index.times)
        self._stack: Any = None
        self._frames: Iterator[Any] = iter(())
        self._at = 0  # number of the next frame; only a bound after a jump
        self._size: tuple[int, int] | None = None
        self._last: tuple[int, Image] | None = None  # clips of few frames a second ask for one several times

    def read(self, number: int) -> Image:
        """The frame of this number, upright, as RGB. Raises VideoError where it cannot be decoded."""
        if self._last is None or self._last[0] != number:
            self._last = number, self._upright(self._decoded(number), number)
        return self._last[1]

    def _decoded(self, number: int) -> Any:
        frame = self._find(number, self._seeks)
        if frame is None and self._seeks:
            # A key frame that is none, or times that do not agree: only counting from the beginning is sure.
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
        import av

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
                f"({_reason(error)})"
            ) from None

    def _open(self) -> None:
        self.close()
        self._stack = self.file.opened()
        self._container, self._stream = self._stack.__enter__()
        self._at = 0
        self._frames = self._decode()

    def _jump(self, number: int) -> None:
        """Go to the last key frame before a frame, if it is ahead."""
        place = bisect.bisect_right(self.index.keys, number) - 1
        if place >= 0 and self.index.keys[place] > self._at:
            self._container.seek(self.index.key_times[place], stream=self._stream)
            self._frames = self._decode()
            self._at = self.index.keys[place]

    def _by_time(self, time: int, number: int) -> Any:
        for frame in self._frames:
            if frame.pts is None or frame.pts > time:
                return None
            if frame.pts == time:
                self._at = number + 1
                return frame
        return None

    def _decode(self) -> Iterator[Any]:
        context = decoder_of(self._stream, self.file.name, self.file.alpha)
        for packet in self._container.demux(self._stream):
            if self._wanted and self._seeks and context.name in _SKIPS:
                # Frames that no other one refers to need no decoding unless they are asked for.
                context.skip_frame = "DEFAULT" if packet.pts in self._wanted or not packet.size else "NONREF"
            yield from context.decode(packet)

    def _upright(self, frame: Any, number: int) -> Image:
        from PIL.Image import Transpose

        size = (frame.width, frame.height)
        self._size = self._size or size
        if size != self._size:
            raise VideoError(
                f"{self.file.name}: frame {number} has {size[0]}x{size[1]} pixels, those before it "
                f"{self._size[0]}x{self._size[1]}: write it again in one size"
            )
        self.file.check_size(*size)
        image = frame_image(frame, self.file.alpha)
        turns = {90: Transpose.ROTATE_90, 180: Transpose.ROTATE_180, 270: Transpose.ROTATE_270}
        turn = turns.get(round(frame.rotation) % 360)
        return image if turn is None else image.transpose(turn)


def _stated_seconds(container: Any, stream: Any) -> float:
    """Length as the file says it, 0 where it does not."""
    if stream.duration and stream.time_base:
        return max(0.0, float(stream.duration * stream.time_base))
    return max(0.0, container.duration / 1e6) if container.duration else 0.0


def _length(container: Any) -> float:
    """Seconds until the last packet of any stream."""
    container.seek(0)
    last = max(
        (float(packet.pts * packet.time_base) for packet in container.demux() if packet.pts is not None), default=0.0
    )
    return last - (container.start_time or 0) / 1e6


def _is(container: Any, *names: str) -> bool:
    return any(name in container.format.name.split(",") for name in names)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)[:120]
