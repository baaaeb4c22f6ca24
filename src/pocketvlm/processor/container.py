"""Video files are opened through PyAV within limits and read from the first key frame.

Only the formats in `FORMATS` are opened. Playlists and other formats that name further files or addresses are not.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, cast

from pocketvlm.errors import BackendError, VideoError
from pocketvlm.options.media import Alpha
from pocketvlm.processor.limits import MediaLimits

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,gif,avi,mpegts,mpeg,flv,ogg,asf,apng,ivf"
# Older releases convert BT.709 clips with the matrix of BT.601 (up to 23 grey levels off); 13.1 cannot be imported.
OLDEST_PYAV = 17
# Decoding threads; each holds a frame.
_THREADS = 4


@cache
def load_pyav() -> Any:
    """The module `av`. Raises BackendError where PyAV is missing or older than `OLDEST_PYAV`."""
    way_out = f'pip install --upgrade "av>={OLDEST_PYAV}"'
    try:
        version = metadata.version("av")
    except metadata.PackageNotFoundError:
        raise BackendError(f"videos need PyAV, which is not installed: {way_out}") from None
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < OLDEST_PYAV:
        raise BackendError(
            f"PyAV {version} is installed, videos need {OLDEST_PYAV} or newer (older ones change colours): {way_out}"
        )
    try:
        import av
    except ImportError as error:
        raise BackendError(f"PyAV {version} does not import ({error}): {way_out}") from error
    return av


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
        with self.open_bytes() as stream, self._container(stream) as container:
            yield container, self._stream(container)

    def open_bytes(self) -> BinaryIO:
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

    def digest(self) -> bytes:
        """SHA-256 of the file."""
        with self.open_bytes() as stream:
            return hashlib.file_digest(cast(io.BufferedReader, stream), "sha256").digest()

    def _container(self, stream: BinaryIO) -> Any:
        av = load_pyav()
        options = {"format_whitelist": FORMATS, "protocol_whitelist": ""}
        try:
            return av.open(stream, options=options, metadata_errors="ignore")
        except (av.FFmpegError, ValueError, OSError) as error:
            raise VideoError(
                f"{self.name}: not a video in a format we read (mp4, mov, mkv, webm, gif, webp, avi, ts, ...), or its "
                f"beginning is damaged ({reason(error)})"
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

    def packets(self, container: Any, stream: Any, from_key: bool) -> Iterator[Any]:
        """The stream's packets, from the first key frame on if `from_key`, and the empty one that flushes the decoder.

        Packets before the first key frame refer to frames that are not in the file: some decoders drop them, some fail,
        and some decode garbage.
        """
        started = not from_key
        for packet in container.demux(stream):
            started = started or packet.is_keyframe or not packet.size
            if started:
                yield packet

    def check_size(self, width: int, height: int) -> None:
        """Raise VideoError for frames outside the limits."""
        if width < 1 or height < 1:
            raise VideoError(f"{self.name}: frames of {width}x{height} pixels: the file is damaged or has no key frame")
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


def reason(error: BaseException) -> str:
    """A short text for messages."""
    return str(getattr(error, "strerror", None) or error)[:120]
