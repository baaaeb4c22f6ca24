"""Limits on pictures that come from outside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What a picture may cost and where it may come from; every failure names the limit that stopped it.

    max_bytes: encoded size. max_pixels: width x height after decoding. max_ratio: longer side over shorter side.
    timeout: seconds for one fetch. max_redirects: per fetch. local_files, remote: whether paths and file: URLs, and
    http(s) URLs, are opened at all. max_images: per conversation. max_visual_tokens: of all images of a conversation,
    which bounds the memory that their patches take.
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
