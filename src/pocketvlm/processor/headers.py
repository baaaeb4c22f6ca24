"""The size of an image comes from its header, if its end is there and its header says all."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

from pocketvlm.errors import ImageError
from pocketvlm.processor.decode import decode, open_picture
from pocketvlm.processor.formats import HEAD, recognize
from pocketvlm.processor.limits import MediaLimits, check_bytes
from pocketvlm.processor.media import locate, readable, regular_file, shorten, trimmed
from pocketvlm.processor.metadata import orientation_of

_TURNED = (5, 6, 7, 8)  # orientations that exchange width and height
_TAIL = 64


def source_size(source: str, limits: MediaLimits) -> tuple[int, int]:
    """(width, height) of the upright image that a path, URL or data URI names; of files only the ends are read.

    Raises ImageError as `load_image` does, except for damage inside the pixels of a file that is complete.
    """
    name = shorten(trimmed(source))
    found, _ = locate(source, limits)
    if isinstance(found, bytes):
        return picture_size(io.BytesIO(found), name, limits)
    with readable(name):
        return _file_size(regular_file(found, name), name, limits)


def _file_size(path: Path, name: str, limits: MediaLimits) -> tuple[int, int]:
    check_bytes(path.stat().st_size, name, limits)
    with path.open("rb") as stream:
        return picture_size(stream, name, limits)


def picture_size(stream: BinaryIO, name: str, limits: MediaLimits) -> tuple[int, int]:
    """(width, height) of the upright image in a file, as `decode` gives it. Raises ImageError.

    Pixels are decoded only where the header does not tell the size, and where the file seems cut off.
    """
    head = stream.read(HEAD)
    found = recognize(head)
    if found is not None and found.name in _WHOLE:
        length = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, length - _TAIL))
        tail = stream.read()
        if _WHOLE[found.name](stream, head, tail, length):
            try:
                stream.seek(0)
                image = open_picture(stream, head[:16], name, limits)
                turned = orientation_of(image) in _TURNED
                return (image.height, image.width) if turned else (image.width, image.height)
            except ImageError:
                raise
            except Exception:  # the decoder tells what is wrong, or reads the image without its metadata
                pass
    stream.seek(0)
    return decode(stream.read(), name, limits).size


def _whole_jpeg(stream: BinaryIO, head: bytes, tail: bytes, length: int) -> bool:
    return tail.rstrip(b"\0\r\n").endswith(b"\xff\xd9")


def _whole_png(stream: BinaryIO, head: bytes, tail: bytes, length: int) -> bool:
    """Whether it has an end, and nothing but pixels after its first pixels (an orientation could be there)."""
    at, pixels = 8, False
    while at + 12 <= length:
        stream.seek(at)
        chunk = stream.read(8)
        name = chunk[4:]
        if name == b"IEND":
            return pixels
        if pixels and name != b"IDAT":
            return False
        pixels = pixels or name == b"IDAT"
        at += 12 + int.from_bytes(chunk[:4], "big")
    return False


def _whole_webp(stream: BinaryIO, head: bytes, tail: bytes, length: int) -> bool:
    return 8 + int.from_bytes(head[4:8], "little") <= length


def _whole_gif(stream: BinaryIO, head: bytes, tail: bytes, length: int) -> bool:
    return tail.rstrip(b"\0").endswith(b";")


_WHOLE = {"JPEG": _whole_jpeg, "PNG": _whole_png, "WEBP": _whole_webp, "GIF": _whole_gif}
