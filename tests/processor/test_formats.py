"""Formats: AVIF and HEIC, errors for unsupported pictures, and pictures that are given as videos."""

from __future__ import annotations

import base64
import io
import random
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import write_clip
from PIL import Image, features

from pocketvlm.errors import ImageError, VideoError
from pocketvlm.processor.formats import HEAD, recognize
from pocketvlm.processor.frames import open_frames
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.media import load_image

pillow_heif = pytest.importorskip("pillow_heif")


def picture(width: int = 64, height: int = 40) -> Image.Image:
    """A picture that differs under all eight turns and flips."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def heic(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    pillow_heif.from_pillow(image).save(stream, quality=95, **options)
    return stream.getvalue()


def near(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max()) < 40


def brand(major: bytes, *others: bytes) -> bytes:
    body = major + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + bytes(64)


@pytest.mark.parametrize("suffix", [".avif", ".jpg", ".heic", ""])
@pytest.mark.parametrize("form", ["AVIF", "HEIC"])
def test_avif_and_heic_are_read_whatever_their_name(tmp_path: Path, form: str, suffix: str) -> None:
    data = encoded(picture(), "AVIF", quality=95) if form == "AVIF" else heic(picture())
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(data)
    for source in (path, data, "data:image/jpeg;base64," + base64.b64encode(data).decode()):
        found = load_image(source)
        assert found.mode == "RGB"
        assert near(found, picture())


def test_a_heic_picture_is_upright_and_on_white() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = load_image(heic(picture(), exif=exif.tobytes()))
    assert near(turned, picture().transpose(Image.Transpose.ROTATE_270))
    logo = np.zeros((64, 64, 4), np.uint8)
    logo[16:48, 16:48, 3] = 255
    seen = np.asarray(load_image(heic(Image.fromarray(logo))))
    assert seen[2, 2].min() > 245
    assert seen[32, 32].max() < 10


def test_reading_heic_changes_nothing_in_the_process() -> None:
    load_image(heic(picture()))
    Image.init()
    assert "HEIF" not in Image.OPEN


def test_a_missing_decoder_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(picture())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC images need .* pip install 'pocketvlm\[heic\]', or save it as PNG"):
        load_image(data)
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(ImageError, match=r"AVIF images need Pillow 11.3 .* pip install --upgrade Pillow"):
        load_image(encoded(picture(), "AVIF"))


def test_limits_hold_before_decoding() -> None:
    for data in (encoded(picture(), "AVIF"), heic(picture())):
        with pytest.raises(ImageError, match=r"64x40 = 2560 pixels .*max_pixels"):
            load_image(data, MediaLimits(max_pixels=2000))


@pytest.mark.parametrize("form", ["AVIF", "HEIC"])
def test_damaged_files_are_refused_by_name(form: str) -> None:
    data = encoded(picture(), "AVIF") if form == "AVIF" else heic(picture())
    for cut in (40, len(data) // 2, len(data) - 100):
        with pytest.raises(ImageError, match=f"damaged or incomplete {form} file"):
            load_image(data[:cut])
    with pytest.raises(ImageError) as refused:
        load_image(data[:-100])
    assert "\n" not in str(refused.value)


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a.txt", "a")
    return stream.getvalue()


SVG = b'<?xml version="1.0"?>\n<!-- a drawing -->\n<svg xmlns="http://www.w3.org/2000/svg"></svg>'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", ["EPS", "render it to PNG"]),
        (encoded(picture(), "PPM"), ["PPM are not read", "save it as PNG or JPEG"]),
        (encoded(picture(), "ICO"), ["ICO are not read", "as PNG"]),
        (encoded(picture(), "JPEG2000"), ["JPEG 2000 are not read", "save it as PNG or JPEG"]),
        (encoded(picture(), "JPEG2000", no_jp2=True), ["JPEG 2000 are not read"]),
        (b"8BPS\0\1" + bytes(40), ["PSD are not read", "save it as PNG or JPEG"]),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), ["JPEG XL are not read"]),
        (b"\xff\x0a" + bytes(20), ["JPEG XL are not read"]),
        (SVG, ["SVG are not read", "render it to PNG"]),
        (b"\xef\xbb\xbf<svg></svg>", ["SVG are not read"]),
        (brand(b"crx ", b"isom"), ["camera raw are not read", "develop it"]),
        (bytes(128) + b"DICM" + bytes(20), ["DICOM are not read"]),
        (encoded(picture(), "PDF"), ["it is a PDF file: give its pages as images"]),
        (b"\n<!DOCTYPE html><html></html>", ["web page", "the address of the image itself"]),
        (archive(), ["ZIP archive"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", ["git lfs pull"]),
        (b"RIFF\0\0\0\0WAVEfmt ", ["sound file, and only images and videos are read"]),
        (brand(b"isom", b"mp41"), ["looks like a video: give it as one", "MP4"]),
        (brand(b"qt  "), ["looks like a video"]),
        (b"\x1a\x45\xdf\xa3" + bytes(20), ["looks like a video", "WebM"]),
        (b"\0" * 100, ["not an image in a format we read (JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIC)"]),
        (b"BM, a text that begins like a bitmap", ["not an image in a format we read", "b'BM, a text t'"]),
    ],
    ids=lambda value: None if isinstance(value, list) else repr(value[:12]),
)  # fmt: skip
def test_what_is_not_read_is_named_with_the_way_out(data: bytes, words: list[str]) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(data)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("major", "others", "name", "group"),
    [
        (b"avif", (b"mif1", b"miaf"), "AVIF", "image"),
        (b"avis", (b"avif", b"msf1", b"iso8"), "AVIF", "image"),
        (b"mif1", (b"avif",), "AVIF", "image"),
        (b"heic", (b"mif1", b"heic"), "HEIC", "image"),
        (b"heix", (), "HEIC", "image"),
        (b"mif1", (b"heic",), "HEIC", "image"),
        (b"msf1", (b"hevc",), "HEIC", "image"),
        (b"isom", (b"iso2", b"mp41"), "MP4 or QuickTime", "video"),
        (b"mp42", (b"mif1",), "MP4 or QuickTime", "video"),
        (b"qt  ", (), "MP4 or QuickTime", "video"),
        (b"3gp5", (), "MP4 or QuickTime", "video"),
    ],
)
def test_brands_tell_pictures_from_videos(major: bytes, others: tuple[bytes, ...], name: str, group: str) -> None:
    found = recognize(brand(major, *others))
    assert found is not None
    assert (found.name, found.group) == (name, group)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encoded(picture(), "JPEG"), "JPEG"),
        (encoded(picture(), "PNG"), "PNG"),
        (encoded(picture(), "PNG", icc_profile=random.Random(0).randbytes(9000)), "PNG"),
        (encoded(picture(), "BMP"), "BMP"),
        (encoded(picture(), "TIFF"), "TIFF"),
        (encoded(picture(), "AVIF"), "AVIF"),
        (encoded(picture(), "AVIF", save_all=True, append_images=[picture()]), "AVIF"),
        (heic(picture()), "HEIC"),
        (b"8BPS\0\1" + bytes(40), "PSD"),
        (SVG, "SVG"),
    ],
)
def test_a_picture_that_is_given_as_a_video(data: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(data)
    for source in (data, tmp_path / "clip.mp4", io.BytesIO(data)):
        with pytest.raises(VideoError, match=rf"it is an image \({name}\), not a video: give it as an image"):
            open_frames(source, MediaLimits())


def test_other_files_that_are_given_as_a_video() -> None:
    with pytest.raises(VideoError, match="it is a PDF file: give its pages as images"):
        open_frames(encoded(picture(), "PDF"), MediaLimits())
    with pytest.raises(VideoError, match="not a video: this is a web page"):
        open_frames(b"<html>not found</html>", MediaLimits())


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.ts", "a.flv", "a.mpg"])
def test_videos_are_recognized(tmp_path: Path, name: str) -> None:
    codec = {"a.avi": "mpeg4", "a.flv": "flv", "a.mpg": "mpeg2video"}.get(name, "libx264")
    write_clip(tmp_path / name, 12, 24, codec=codec)
    found = recognize((tmp_path / name).read_bytes()[:HEAD])
    assert found is not None
    assert found.group == "video"
    with pytest.raises(ImageError, match="looks like a video: give it as one"):
        load_image(tmp_path / name)
