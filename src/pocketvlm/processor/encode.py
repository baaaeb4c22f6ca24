"""`encode` writes an image as a PNG or JPEG file, made smaller where a side is too long."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image


def encode(image: Image, max_side: int, kind: Literal["PNG", "JPEG"]) -> bytes:
    """The bytes of the file. max_side: pixels of the longer side. JPEG needs an image without transparency."""
    smaller = image.copy()
    smaller.thumbnail((max_side, max_side))
    out = io.BytesIO()
    smaller.save(out, kind)
    return out.getvalue()
