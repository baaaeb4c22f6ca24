"""Clips for tests, written with PyAV, and their frames."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

PIXELS = {"gif": "rgb8", "apng": "rgb24", "libwebp_anim": "bgra"}


def drawing(number: int, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3]: a picture that differs from frame to frame, in colour and in where things are."""
    rows, cols = np.mgrid[:height, :width]
    picture = np.stack([(cols * 2 + number * 7) % 256, (rows * 3 + number * 5) % 256, (rows + cols + number) % 256], -1)
    left = number * 5 % max(1, width - 8)
    picture[height // 4 : height // 2, left : left + 8] = 255
    return picture.astype(np.uint8)


def write_clip(
    path: Path | io.BytesIO,
    frames: int = 30,
    fps: float = 10,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    *,
    container: str | None = None,
    key_every: int = 12,
    options: dict[str, str] | None = None,
    rotation: int = 0,
    times: list[int] | None = None,
    sound: bool = False,
) -> None:
    """A video file; times: milliseconds at which frames are shown, for a variable rate."""
    target = str(path) if isinstance(path, Path) else path
    with av.open(target, "w", format=container) as output:
        if frames:
            stream = output.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
            stream.width, stream.height = size
            stream.pix_fmt = PIXELS.get(codec, "yuv420p")
            stream.options = dict(options or {})
            stream.codec_context.gop_size = key_every
            stream.codec_context.thread_count = 1
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                stream.set_display_rotation(rotation)
        voice = output.add_stream("aac", rate=16000) if sound else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(drawing(number, *size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        if frames:
            output.mux(stream.encode())
        if voice is not None:
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
            samples.sample_rate = 16000
            output.mux(voice.encode(samples))
            output.mux(voice.encode())


def decode_all(path: Path) -> np.ndarray:
    """uint8 [frames, height, width, 3]: all frames, from beginning to end, as the reference reads them."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def without_packets(data: bytes, count: int, container: str) -> bytes:
    """The clip in another container without its first packets, as a capture that begins in the middle of a GOP."""
    copied = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(copied, "w", format=container) as output:
        copy = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if number >= count and packet.size:
                packet.stream = copy
                output.mux(packet)
    return copied.getvalue()


def frames_from_key(data: bytes) -> list[np.ndarray]:
    """All frames that a decoder gives from the first key frame on, as uint8 [height, width, 3]."""
    with av.open(io.BytesIO(data)) as source:
        found, started = [], False
        for packet in source.demux(video=0):
            started = started or packet.is_keyframe
            if started:
                found += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
        return found
