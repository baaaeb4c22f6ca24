"""The metadata of a picture gives its orientation; metadata that stops a decoder is removed."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112
# Tags of TIFF files that decoding does not need: names, texts, resolution, XMP, IPTC, ICC profile, EXIF, GPS.
_NO_PIXELS = (
    *(269, 270, 271, 272, 282, 283, 285, 296, 305, 306, 315, 316, 700),
    *(33432, 33723, 34377, 34665, 34675, 34853, 37724),
)


def upright(image: Image) -> Image:
    """The picture turned as its orientation tag says. A tag that cannot be read, or has no meaning, counts as none."""
    from PIL.Image import Transpose

    methods = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken tags raise SyntaxError, ValueError, struct.error, KeyError, AttributeError, ...
        return image
    method = methods.get(value) if isinstance(value, int) else None
    return image if method is None else image.transpose(method)


def without_metadata(data: bytes) -> bytes:
    """The same file without the metadata that Pillow stumbles over; the pixels, their transparency and an orientation
    tag stay. The bytes as they are for formats where metadata does no harm.
    """
    if data.startswith(b"\x89PNG"):
        return _png(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(data)
    if data[4:8] == b"ftyp":
        # Items of the types Exif and mime (XMP) become items of a type that nobody reads.
        return re.sub(rb"(infe\x02.{7})(?:Exif|mime)", rb"\1skip", data, flags=re.DOTALL)
    return data


def _png(data: bytes) -> bytes:
    """Drop the chunks that decoding does not need (their names begin with a small letter), except tRNS and eXIf."""
    parts, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        whole = zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if not name[:1].islower() or name == b"tRNS" or (name == b"eXIf" and whole):
            parts.append(data[at:end])
        at = end
    return b"".join(parts)


def _tiff(data: bytes) -> bytes:
    """Make a byte of every tag that decoding does not need, and of an orientation that is no number: Pillow gives a
    directory up where the value of one entry is not in the file, and computes with the resolution.
    """
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    changed = bytearray(data)
    number = (3).to_bytes(2, order) + (1).to_bytes(4, order)
    at = int.from_bytes(data[4:8], order)
    for entry in range(at + 2, at + 2 + 12 * int.from_bytes(data[at : at + 2], order), 12):
        tag, form = int.from_bytes(data[entry : entry + 2], order), data[entry + 2 : entry + 8]
        if entry + 12 <= len(data) and (tag in _NO_PIXELS or (tag == _ORIENTATION and form != number)):
            changed[entry + 2 : entry + 12] = (1).to_bytes(2, order) + (1).to_bytes(4, order) + b"\1\0\0\0"
    return bytes(changed)
