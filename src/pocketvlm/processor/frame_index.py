"""The index of a video gives the number, times and key frames of its frames; only the first is decoded.

Frame i is the i-th that a decoder gives which begins at the file's first key frame, whatever times the frames carry.
"""

from __future__ import annotations

import bisect
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pocketvlm.errors import VideoError
from pocketvlm.processor.container import VideoFile, load_pyav, reason

# Bounds the size of the index: no clip has more frames a second on the average.
MAX_FPS = 240
# Containers whose index is by decoding time; others find times of presentation.
_BY_DECODING_TIME = ("mov", "avi", "flv")
# Containers whose length counts from time 0.
_FROM_ZERO = ("matroska", "webm", "asf")
# Decoders that find out by themselves where decoding can begin. They also read files in which the demuxer marks no key
# frames, such as H.264 with start codes in mkv.
_RECOVERS = ("h264", "hevc", "mpeg1video", "mpeg2video")
# The most packets to decode until the first frame appears; no stream takes so many to recover.
_MAX_PACKETS_BEFORE_FIRST = 1000


@dataclass(frozen=True, slots=True)
class Index:
    """What a video file contains.

    fps, seconds: average rate and total / fps, as the reference computes them. times: of all frames, ascending, in
    units of `unit` seconds; empty where frames can only be counted. span: seconds from the first frame until the last
    one ends; file_span: the same until the file ends, where its sound is longer. keys: numbers of the frames that
    decoding can begin at, key_times: what to seek for each; empty where only reading from the beginning is exact.
    from_key: whether decoding begins at the first key frame; otherwise the decoder finds out where it can begin.
    """

    total: int
    fps: float
    seconds: float
    span: float
    file_span: float
    times: Sequence[int] = ()
    unit: float = 0.0
    keys: Sequence[int] = ()
    key_times: Sequence[int] = ()
    from_key: bool = True


def build_index(file: VideoFile, part: float | None = None, from_key: bool = True) -> Index:
    """Walk over the packets of a file. part: seconds that are wanted of it, None for all. from_key: as in Index; if
    there is no key frame, the file is read again without.

    Raises VideoError for a file without frames, without a key frame, without a rate, longer than the limit, or that
    ends early.
    """
    av = load_pyav()
    with file.opened() as (container, stream):
        stated = _stated_seconds(container, stream)
        if part is None:
            _check_seconds(file, stated)
        codec = stream.codec_context.name
        walk, seen, broken = _Walk(codec, not from_key), 0.0, ""
        if _is(container, "avi", "asf") and codec in ("h264", "hevc") and stream.codec_context.has_b_frames:
            walk.timed = False  # these containers store decoding times only
        maximum = int(max(file.limits.max_video_seconds, stated if part is not None else 0.0) * MAX_FPS)
        try:
            for packet in container.demux(stream):
                walk.add(packet)
                if walk.packets > maximum:
                    break
            # Some formats count their length from 0, not from the first frame.
            begin = min(walk.lowest, 0) if _is(container, *_FROM_ZERO) else walk.lowest
            seen = (walk.highest - begin) * float(stream.time_base or 0)
            if walk.timed and seen < 0.95 * stated - 1.0:
                seen = _length(file)  # a file is complete even if its video ends before its sound
        except (av.FFmpegError, ValueError, OSError) as error:
            broken = f" ({reason(error)})"
        if walk.packets > maximum:
            raise VideoError(f"{file.name}: more than {maximum} frames: cut the file or raise max_video_seconds")
        if broken or not _is_whole(walk, container, stream):
            end = f" of {stream.frames}" if stream.frames else ""
            raise _cut_off(file, f"frame {walk.packets}{end}", broken)
        if walk.packets and not walk.started:
            if codec not in _RECOVERS:
                raise VideoError(f"{file.name}: no key frame among its {walk.packets} frames: decoding cannot begin")
            return build_index(file, part, from_key=False)
        found = _finish(file, walk, container, stream, from_key)
        if walk.timed and seen < 0.95 * stated - 1.0:
            raise _cut_off(file, f"{seen:.1f} s of {stated:.1f} s", "")
    if part is None:
        _check_seconds(file, found.seconds)
    return found


class _Walk:
    """Counts packets. times: of packets that become frames. keys: (time, decoding time) of key frames."""

    def __init__(self, codec: str, started: bool) -> None:
        self.codec, self.packets, self.timed = codec, 0, True
        self.times: list[int] = []
        self.keys: list[tuple[int, int]] = []
        # Counted over all packets, also those before the first key frame.
        self.lowest, self.highest, self.last_duration = 0, 0, 0
        self.started, self._decodes = started, True
        self._first: int | None = None
        self._nothing = False  # whether the decoder gave no frame until the end

    def add(self, packet: Any) -> None:
        self.started = self.started or packet.is_keyframe
        if self.started and self._decodes:
            self._find_first(packet)
        if not packet.size:
            return
        self.packets += 1
        self._bound(packet)
        if not self.started:
            return
        if packet.is_keyframe and packet.pts is not None:
            self.keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        # VP8 has packets that only later frames refer to: one bit of the first byte says so.
        if packet.is_discard or (self.codec == "vp8" and not bytes(packet)[0] & 0x10):
            return
        self.timed = self.timed and packet.pts is not None
        self.times.append(len(self.times) if packet.pts is None else packet.pts)

    def _bound(self, packet: Any) -> None:
        time = packet.dts if packet.pts is None else packet.pts
        if time is not None:
            if self.packets == 1 or time < self.lowest:
                self.lowest = time
            if self.packets == 1 or time >= self.highest:
                self.highest, self.last_duration = time, packet.duration or 0

    def _find_first(self, packet: Any) -> None:
        """Note the time of the first frame that the decoder gives."""
        av = load_pyav()
        try:
            frames = packet.decode()
        except (av.FFmpegError, ValueError, OSError):
            self._decodes = False  # damage is reported when the frame is due
            return
        if frames:
            self._first = frames[0].pts
        self._nothing = not packet.size and not frames
        self._decodes = not frames and self.packets < _MAX_PACKETS_BEFORE_FIRST

    @property
    def frames(self) -> list[int]:
        """Times of the frames that the decoder gives, ascending.

        The decoder drops leading pictures of an open GOP, and the frames of an intra-refresh stream before its first
        complete frame, because they refer to frames that are not in the file.
        """
        if self._nothing:
            return []
        times = sorted(self.times)
        return times if self._first is None or not self.timed else times[bisect.bisect_left(times, self._first) :]


def _finish(file: VideoFile, walk: _Walk, container: Any, stream: Any, from_key: bool) -> Index:
    times = walk.frames
    total = len(times)
    if not total:
        raise VideoError(
            f"{file.name}: there is no frame in its video: the file is empty or damaged, or has no key frame"
        )
    rate = _rate(file, walk, times, container, stream)
    unit, seconds = float(stream.time_base or 0), float(total / rate)
    span = file_span = seconds
    if walk.timed and unit:
        begin = times[0] * unit
        gap = times[-1] - times[-2] if total > 1 else 0
        span = times[-1] * unit - begin + ((walk.last_duration or gap) * unit or 1.0 / float(rate))
        first = 0 if _is(container, *_FROM_ZERO) else container.start_time or 0
        end = (first + (container.duration or 0)) / 1e6
        file_span = max(span, end - begin)
    keys = sorted((bisect.bisect_left(times, time), time, decoding) for time, decoding in walk.keys)
    seekable = walk.timed and len(set(times)) == total and bool(keys)
    by_decoding = _is(container, *_BY_DECODING_TIME)
    return Index(
        total,
        float(rate),
        seconds,
        span,
        file_span,
        array("q", times) if walk.timed else (),
        unit,
        [number for number, *_ in keys] if seekable else (),
        [decoding if by_decoding else time for _, time, decoding in keys] if seekable else (),
        from_key,
    )


def _rate(file: VideoFile, walk: _Walk, times: Sequence[int], container: Any, stream: Any) -> Fraction:
    """Frames a second: the file's value if it agrees with the times, otherwise measured."""
    total, rate = len(times), stream.average_rate or stream.guessed_rate
    if not rate:
        span = _stated_seconds(container, stream)
        rate = Fraction(total) / Fraction(span).limit_denominator(1 << 20) if span > 0 else 0
    if not rate and total == 1:
        rate = Fraction(1)
    if not rate or not math.isfinite(float(rate)) or rate < 0:
        raise VideoError(f"{file.name}: {total} frames without a rate (0 fps): write it again with one")
    found = Fraction(rate)
    if not stream.frames and walk.timed and times[-1] > times[0] and stream.time_base:
        # If the file does not state its number of frames, its rate is a guess: that of most frames, not the average.
        measured = Fraction((total - 1) / ((times[-1] - times[0]) * stream.time_base))
        if not 0.9 < float(found / measured) < 1.1:
            return measured
    return found


def _cut_off(file: VideoFile, where: str, why: str) -> VideoError:
    return VideoError(f"{file.name}: the file ends after {where} or is damaged there{why}: get a whole copy")


def _check_seconds(file: VideoFile, seconds: float) -> None:
    maximum = file.limits.max_video_seconds
    if seconds > maximum:
        raise VideoError(
            f"{file.name}: {seconds:.0f} s are longer than the limit of {maximum:g} s: give start and end, or raise "
            "max_video_seconds"
        )


def _stated_seconds(container: Any, stream: Any) -> float:
    """Length as the file says it, 0 where it does not."""
    if stream.duration and stream.time_base:
        return max(0.0, float(stream.duration * stream.time_base))
    return max(0.0, container.duration / 1e6) if container.duration else 0.0


def _length(file: VideoFile) -> float:
    """Seconds until the last packet of any stream."""
    with file.opened() as (container, _):
        times = (float(packet.pts * packet.time_base) for packet in container.demux() if packet.pts is not None)
        begin = 0.0 if _is(container, *_FROM_ZERO) else (container.start_time or 0) / 1e6
        return max(times, default=begin) - begin


def _is_whole(walk: _Walk, container: Any, stream: Any) -> bool:
    """Whether the number of frames found is the number that the file states, if it states one."""
    if _is(container, "mov"):  # stream.frames includes frames that an edit list leaves out
        return bool(walk.packets >= min(stream.frames, len(stream.index_entries)))
    if _is(container, "avi"):  # times are frame numbers, and stream.frames includes repeated frames
        return bool(walk.highest + 1 >= 0.9 * stream.frames)
    return bool(walk.packets >= 0.9 * stream.frames)


def _is(container: Any, *names: str) -> bool:
    return any(name in container.format.name.split(",") for name in names)
