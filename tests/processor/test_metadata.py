"""Metadata that is broken or too large never makes a picture unreadable; missing pixels always do."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocketvlm.errors import ImageError
from pocketvlm.processor.media import load_image

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
TURNED = PICTURE.transpose(Image.Transpose.ROTATE_270)
BOMB = zlib.compress(bytes(3 << 20))


def encoded(form: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks: tuple[bytes, bytes], last: bool = False) -> bytes:
    """A PNG file with more chunks, before its pixels or after them."""
    whole = encoded("PNG")
    at = len(whole) - 12 if last else 33
    return whole[:at] + b"".join(chunk(*each) for each in chunks) + whole[at:]


def load_under(action: Any, data: bytes) -> Image.Image:
    """The picture under a warning filter, on which it must not depend."""
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        return load_image(data)


def tags(*entries: tuple[int, int, int, bytes], following: int = 0) -> bytes:
    """EXIF data with entries (tag, type, count, value)."""
    found = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + found + struct.pack("<I", following)


def short(value: int) -> bytes:
    return struct.pack("<HH", value, 0)


def orientation(value: int) -> tuple[int, int, int, bytes]:
    return (0x0112, 3, 1, short(value))


PNG_FILES = {
    "ICC profile too large": png((b"iCCP", b"x\0\0" + BOMB)),
    "ICC profile truncated": png((b"iCCP", b"x\0\0" + BOMB[:50])),
    "ICC profile empty": png((b"iCCP", b"")),
    "ICC profile of another compression": png((b"iCCP", b"x\0\1abc")),
    "compressed text too large": png((b"zTXt", b"x\0\0" + BOMB)),
    "international text too large": png((b"iTXt", b"x\0\1\0\0\0" + BOMB)),
    "text too large, after the pixels": png((b"zTXt", b"x\0\0" + BOMB), last=True),
    "texts too large together": png(*[(b"zTXt", b"x\0\0" + zlib.compress(bytes(1 << 20))) for _ in range(70)]),
    "XMP that is no UTF-8": png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff\xfe")),
    "XMP with a broken orientation": png((b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<a tiff:Orientation="x"/>')),
    "EXIF as text, broken": png((b"tEXt", b"Raw profile type exif\0\nexif\n  xx\nzzzz")),
    "resolution truncated": png((b"pHYs", b"abc")),
    "gamma truncated": png((b"gAMA", b"ab")),
    "chromaticities truncated": png((b"cHRM", b"abc")),
    "rendering intent empty": png((b"sRGB", b"")),
    "animation control truncated": png((b"acTL", b"a")),
}
EXIF = {
    "orientation 0": tags(orientation(0)),
    "orientation 9": tags(orientation(9)),
    "orientation of text": tags((0x0112, 2, 4, b"abc\0")),
    "orientation of bytes": tags((0x0112, 7, 1, b"\6\0\0\0")),
    "orientation of fractions": tags((0x0112, 5, 1, struct.pack("<I", 8))),
    "orientation that is negative": tags((0x0112, 8, 1, struct.pack("<hh", -6, 0))),
    "no orientation": tags((0x0112, 3, 0, short(6))),
    "orientation elsewhere": tags((0x0112, 4, 100_000, struct.pack("<I", 0xFFFFF0))),
    "an unknown type": tags((0x0112, 99, 1, short(6))),
    "directory truncated": tags(orientation(6))[:14],
    "no EXIF data": b"garbage here",
    "nothing": b"",
    "resolution of text": tags((0x011A, 2, 4, b"abc\0"), (0x0128, 3, 1, short(3))),
}
UPRIGHT = {
    "cyclic directories": tags(orientation(6), (0x8769, 4, 1, struct.pack("<I", 8)), following=8),
    "text of all bytes there are": tags((0x010F, 2, 0xFFFFFFFF, struct.pack("<I", 8)), orientation(6)),
    "two orientations": tags((0x0112, 3, 2, struct.pack("<HH", 6, 1))),
    "text that ends after the file": tags((0x010F, 2, 60, struct.pack("<I", 40)), orientation(6)),
    "text of another type": tags((0x010F, 5, 1, short(6)), orientation(6), (0x9286, 2, 5, struct.pack("<I", 4))),
}


@pytest.mark.parametrize("name", PNG_FILES)
def test_png_files_are_read_without_the_metadata_that_is_broken(name: str) -> None:
    assert load_image(PNG_FILES[name]).tobytes() == PICTURE.tobytes()


def test_an_orientation_and_transparency_survive_broken_metadata() -> None:
    turned = png((b"iCCP", b"x\0\0" + BOMB), (b"eXIf", tags(orientation(6))))
    assert load_image(turned).tobytes() == TURNED.tobytes()
    key = struct.pack(">HHH", *PICTURE.getpixel((3, 4)))
    assert load_image(png((b"iCCP", b"x\0\0" + BOMB), (b"tRNS", key))).getpixel((3, 4)) == (255, 255, 255)


@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("name", [*EXIF, *UPRIGHT])
def test_broken_exif_data_counts_as_far_as_it_can_be_read(name: str, form: str, action: Any) -> None:
    data = {**EXIF, **UPRIGHT}[name]
    if form == "PNG":
        file = png((b"eXIf", data))
    else:
        file = encoded(form, exif=b"Exif\0\0" + data if form == "JPEG" else data, quality=95)
    wanted = load_image(encoded(form, quality=95) if form != "PNG" else encoded("PNG"))
    if name in UPRIGHT:
        wanted = wanted.transpose(Image.Transpose.ROTATE_270)
    assert load_under(action, file).tobytes() == wanted.tobytes()


def test_damage_anywhere_in_metadata_never_refuses_a_picture() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A], exif[0x0128] = 6, "maker", 72.0, 2
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    generator = random.Random(0)
    for form in ("JPEG", "WEBP", "AVIF"):
        whole = encoded(form, exif=exif)
        at = whole.index(body[:4])
        # An AVIF file has its orientation elsewhere, so that much less of EXIF data.
        size = len(body) - 12 * (form == "AVIF")
        for _ in range(150):
            damaged = bytearray(whole)
            for _ in range(generator.choice((1, 2, 3))):
                damaged[at + generator.randrange(size)] = generator.randrange(256)
            found = load_under("ignore", bytes(damaged))
            assert sorted(found.size) == [24, 32]
            assert load_under("error", bytes(damaged)).tobytes() == found.tobytes()


def test_the_second_picture_of_a_phones_jpeg_file_does_no_harm() -> None:
    whole = encoded("MPO", save_all=True, append_images=[PICTURE.rotate(180)])
    assert Image.open(io.BytesIO(whole)).format == "MPO"
    first = load_image(whole)
    assert first.tobytes() == load_image(encoded("JPEG")).tobytes()
    at, generator = whole.index(b"MPF\0") + 4, random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[at + generator.randrange(60)] = generator.randrange(256)
        for action in ("ignore", "error"):
            assert load_under(action, bytes(damaged)).tobytes() == first.tobytes()


@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize("exif", [b"", EXIF["no orientation"], EXIF["orientation elsewhere"], EXIF["no EXIF data"]])
def test_xmp_gives_the_orientation_where_exif_data_does_not(exif: bytes, action: Any) -> None:
    text = b'<x:xmpmeta tiff:Orientation="6"/>'
    files = [
        encoded("JPEG", quality=95, exif=b"Exif\0\0" + exif, xmp=text),
        encoded("WEBP", lossless=True, exif=exif, xmp=text),
        png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text), (b"eXIf", exif)),
    ]
    for data in files:
        assert load_under(action, data).size == TURNED.size
    raw = b"Raw profile type exif\0\nexif\n  36\n" + tags(orientation(6)).hex().encode()
    assert load_under(action, png((b"tEXt", raw))).tobytes() == TURNED.tobytes()


def test_exif_data_of_a_png_file_with_a_wrong_checksum() -> None:
    data = bytearray(png((b"eXIf", tags(orientation(6)))))
    data[data.index(b"eXIf") + 4] ^= 1
    assert load_image(bytes(data)).tobytes() == PICTURE.tobytes()


def tiff(big: bool, **changed: tuple[int, int, bytes]) -> bytes:
    """A TIFF or BigTIFF file with other entries in its directory, by tag; values are padded to the size of an entry."""
    whole = encoded("TIFF", dpi=(72, 72), tiffinfo={271: "a camera", 274: 6}, big_tiff=big)
    data = bytearray(whole)
    start, count, length, form = (8, "<Q", 20, "<HQ") if big else (4, "<H", 12, "<HI")
    at = int.from_bytes(data[start : start + (8 if big else 4)], "little")
    first = at + struct.calcsize(count)
    for entry in range(first, first + length * struct.unpack(count, data[at:first])[0], length):
        name = f"t{struct.unpack('<H', data[entry : entry + 2])[0]}"
        if name in changed:
            kind, number, value = changed[name]
            data[entry + 2 : entry + length] = struct.pack(form, kind, number) + value.ljust(length // 2 - 2, b"\0")
    return bytes(data)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, TURNED),
        ({"t282": (2, 4, b"abc\0"), "t296": (3, 1, short(3))}, TURNED),
        ({"t282": (5, 1, b"\xf0\xff\xff\0")}, TURNED),
        ({"t296": (2, 4, b"abc\0")}, TURNED),
        ({"t274": (2, 4, b"abc\0")}, PICTURE),
        ({"t274": (3, 1, short(0))}, PICTURE),
        ({"t274": (3, 1, short(9))}, PICTURE),
        ({"t274": (3, 113, b"\xff\xff\xff\0")}, PICTURE),
        ({"t274": (3, 2, struct.pack("<HH", 6, 1))}, TURNED),
        ({"t271": (2, 9, b"\xff\xff\xff\0")}, TURNED),
    ],
)
def test_broken_tags_of_tiff_files(changed: dict[str, Any], wanted: Image.Image, action: Any, big: bool) -> None:
    assert load_under(action, tiff(big, **changed)).tobytes() == wanted.tobytes()


MODES = {
    "1 bit": encoded("PNG", PICTURE.convert("1")),
    "palette": encoded("PNG", PICTURE.quantize(16)),
    "grey": encoded("PNG", PICTURE.convert("L")),
    "grey and alpha": encoded("PNG", PICTURE.convert("LA")),
    "16 bits": encoded("PNG", Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)),
    "CMYK, inverted by Adobe": encoded("JPEG", PICTURE.convert("CMYK")),
    "CMYK TIFF": encoded("TIFF", PICTURE.convert("CMYK")),
    "LZW TIFF": encoded("TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", MODES)
def test_pixels_of_every_kind_are_read_and_missing_ones_refused(name: str) -> None:
    data = MODES[name]
    with Image.open(io.BytesIO(data)) as image:
        wanted = image.convert("RGB") if not image.mode.startswith("I") else None
    found = load_image(data)
    assert found.mode == "RGB"
    assert wanted is None or found.tobytes() == wanted.tobytes()
    with pytest.raises(ImageError, match="damaged or incomplete"):
        load_image(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("part", range(1, 8))
def test_a_truncated_file_with_broken_metadata_is_still_refused(part: int) -> None:
    data = png((b"iCCP", b"x\0\0" + BOMB))
    with pytest.raises(ImageError, match="damaged or incomplete"):
        load_image(data[: len(data) * part // 8])


def test_the_transparent_colour_is_no_metadata() -> None:
    with pytest.raises(ImageError, match="damaged or incomplete"):
        load_image(png((b"tRNS", b"a")))
