"""`MediaLimits` bounds pictures and videos that come from outside."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pocketvlm.errors import ImageError


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What a picture or video may cost and where it may come from; every failure names the limit that stopped it.

    max_bytes: encoded size. max_pixels: width x height after decoding, whatever PIL.Image.MAX_IMAGE_PIXELS says, but
    WebP and TIFF pictures larger than twice that are refused too. max_ratio: longer side over shorter side.
    timeout: seconds for one fetch. max_redirects: per fetch. local_files, remote: whether paths and file: URLs, and
    http(s) URLs, are opened at all. max_images: per conversation. max_visual_tokens: of all images of a conversation,
    which bounds the memory that their patches take; videos count in it too.

    Of videos: max_videos: per conversation. max_video_frames: frames that are looked at, of all videos of a
    conversation. max_video_seconds: length of a video, or of the part that is asked for. max_video_pixels: width x
    height of a frame. max_bytes holds for those that are fetched or sent, not for local files, which are read bit by
    bit.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 178_956_970
    max_ratio: float = 1000.0
    timeout: float = 20.0
    max_redirects: int = 5
    local_files: bool = True
    remote: bool = True
    max_images: int = 1000
    max_visual_tokens: int = 1_000_000
    max_videos: int = 100
    max_video_frames: int = 20_000
    max_video_seconds: float = 4 * 3600.0
    max_video_pixels: int = 36_000_000


def check_bytes(count: int, name: str, limits: MediaLimits) -> None:
    """Raise ImageError for more bytes than the limit."""
    if count > limits.max_bytes:
        raise ImageError(
            f"{name}: {count} bytes are more than the limit of {limits.max_bytes}: "
            "send a smaller file or raise max_bytes"
        )


def check_size(width: int, height: int, name: str, limits: MediaLimits) -> None:
    """Raise ImageError for a size in pixels outside the limits."""
    if width < 1 or height < 1:
        raise ImageError(f"{name}: an image of {width}x{height} pixels has nothing to see")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{name}: {width}x{height} = {width * height} pixels are more than the limit of {limits.max_pixels}: "
            "send a smaller image or raise max_pixels"
        )
    if max(width, height) > limits.max_ratio * min(width, height):
        raise ImageError(
            f"{name}: {width}x{height} pixels is longer than {limits.max_ratio:g}:1: crop it or raise max_ratio"
        )


def past_pillow(error: Exception, name: str, limit: int, option: str) -> str:
    """The message for a picture that a Pillow plugin refuses because of its size, as the WebP and TIFF plugins do.

    error: Pillow's, with the number of pixels and the limit of Pillow. limit, option: ours, and what it is called.
    """
    pixels, pillows = map(int, re.findall(r"\d+", str(error))[:2])
    if pixels > limit:
        return f"{name}: {pixels} pixels are more than the limit of {limit}: make it smaller or raise {option}"
    return f"{name}: {pixels} pixels are more than Pillow's limit of {pillows}: make it smaller or use another format"
