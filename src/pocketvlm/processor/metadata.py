"""The metadata of a picture gives its orientation; metadata that stops a decoder is removed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112
# Tags of TIFF files that decoding does not need: names, texts, resolution, XMP, IPTC, ICC profile, EXIF, GPS.
_NO_PIXELS = (
    *(269, 270, 271, 272, 282, 283, 285, 296, 305, 306, 315, 316, 700),
    *(33432, 33723, 34377, 34665, 34675, 34853, 37724),
)
# Types of whole numbers in TIFF data, and their bytes.
_WHOLE = {3: 2, 4: 4, 8: 2, 9: 4, 13: 4, 16: 8}
_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"


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
    method = methods.get(orientation_of(image) or 1)
    return image if method is None else image.transpose(method)


def orientation_of(image: Image) -> int | None:
    """The orientation, 1 to 8, that the metadata of an opened picture gives; None where there is none."""
    exif = image.info.get("exif")
    if exif is None:
        exif = _from_hex(image.info.get("Raw profile type exif"))
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    return _orientation(exif, xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp)


def without_metadata(data: bytes) -> bytes:
    """The file without the metadata that Pillow cannot read; pixels, transparency and an orientation tag stay. Formats
    in which metadata does no harm are returned unchanged.
    """
    if data.startswith(b"\x89PNG"):
        return _png(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if _is_tiff(data):
        return _tiff(data)
    if data[4:8] == b"ftyp":
        # Give items of the types Exif and mime (XMP) a type that no reader knows.
        return re.sub(rb"(infe\x02.{7})(?:Exif|mime)", rb"\1skip", data, flags=re.DOTALL)
    return data


def _orientation(exif: object, xmp: bytes) -> int | None:
    """The orientation, 1 to 8, that EXIF data gives, or else XMP. Pillow's own reader of EXIF data warns, so that the
    orientation would depend on the process's warning filters.
    """
    data = exif if isinstance(exif, bytes) else b""
    for _ in range(2):  # some writers put the name in twice
        data = data.removeprefix(_EXIF)
    value = _Directory(data).orientation() if _is_tiff(data) else None
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp) if value is None else None
    return value if found is None else int(found[1])


def _from_hex(text: object) -> bytes:
    """The EXIF data that ImageMagick writes into a text of a PNG file: name and length, then hexadecimal digits."""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:])) if isinstance(text, str) else b""
    except ValueError:
        return b""


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


def _jpeg(data: bytes) -> bytes:
    """Drop the application segments that decoding does not need, all but JFIF (0) and Adobe (14); the orientation gets
    a segment of its own.
    """
    parts, at, exif, xmp = [], 2, b"", b""
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data) and data[at + 1] != 0xDA:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at + 4 : end]
        if marker == 0xE1 and segment.startswith(_EXIF):
            exif += segment.removeprefix(_EXIF)
        elif marker == 0xE1 and segment.startswith(_XMP):
            xmp = segment.removeprefix(_XMP)
        if not 0xE1 <= marker <= 0xEF or marker == 0xEE:
            parts.append(data[at:end])
        at = end
    value = _orientation(exif, xmp)
    if value is not None:
        tag = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0%c\0\0\0\0\0\0" % value
        parts.insert(0, b"\xff\xe1" + (2 + len(_EXIF) + len(tag)).to_bytes(2, "big") + _EXIF + tag)
    return b"".join([data[:2], *parts, data[at:]])


def _is_tiff(data: bytes) -> bool:
    return data[:2] in (b"II", b"MM") and data[2:4].strip(b"\0") in (b"*", b"+")


class _Directory:
    """The first directory of TIFF or BigTIFF data. An entry is tag, type, count, and the values or their offset."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
        big = b"+" in data[2:4]
        # Bytes of a count and of an offset, and of an entry.
        self.size, self.length = (8, 20) if big else (4, 12)
        self._start, self._counted = (8, 8) if big else (4, 2)

    def number(self, at: int, size: int) -> int:
        """The unsigned number of so many bytes at an offset."""
        return int.from_bytes(self.data[at : at + size], self.order)

    def entries(self) -> Iterator[tuple[int, int]]:
        """Offset and tag of each entry that is whole. Tags have 16 bits, so more entries than that have no meaning."""
        at = self.number(self._start, self.size)
        count = min(self.number(at, self._counted), 1 << 16)
        for entry in range(at + self._counted, at + self._counted + self.length * count, self.length):
            if entry + self.length > len(self.data):
                return
            yield entry, self.number(entry, 2)

    def orientation(self) -> int | None:
        """The first number of the orientation tag; None where there is none from 1 to 8."""
        entry = next((entry for entry, tag in self.entries() if tag == _ORIENTATION), None)
        if entry is None:
            return None
        size, count = _WHOLE.get(self.number(entry + 2, 2), 0), self.number(entry + 4, self.size)
        at = entry + 4 + self.size
        if size * count > self.size:
            at = self.number(at, self.size)
        value = self.number(at, size) if at + size * count <= len(self.data) else 0
        return value if count and 1 <= value <= 8 else None


def _tiff(data: bytes) -> bytes:
    """Make a byte of every tag that decoding does not need, and one number of the orientation: Pillow gives a directory
    up where the value of one entry is not in the file, and computes with the resolution.
    """
    directory = _Directory(data)
    changed = bytearray(data)
    upwards = (directory.orientation() or 1).to_bytes(2, directory.order)
    for entry, tag in directory.entries():
        if tag not in (*_NO_PIXELS, _ORIENTATION):
            continue
        form, value = (3, upwards) if tag == _ORIENTATION else (1, b"\1")
        count = (1).to_bytes(directory.size, directory.order)
        changed[entry + 2 : entry + directory.length] = (
            form.to_bytes(2, directory.order) + count + value.ljust(directory.size, b"\0")
        )
    return bytes(changed)
