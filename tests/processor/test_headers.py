"""Sizes from headers equal those of decoded pictures; pending views become the views of the image."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processor_kit import noise
from test_metadata import chunk, orientation, png, tags

from pocketvlm.errors import ImageError
from pocketvlm.processor import MediaLimits, load_image
from pocketvlm.processor.headers import picture_size, source_size

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def encoded(form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    noise(50, 30).save(stream, form, **options)
    return stream.getvalue()


def size(data: bytes) -> tuple[int, int]:
    return picture_size(io.BytesIO(data), "it", MediaLimits())


FILES = {
    **{form: encoded(form) for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")},
    "progressive": encoded("JPEG", progressive=True),
    **{f"JPEG turned {n}": encoded("JPEG", exif=b"Exif\0\0" + tags(orientation(n))) for n in range(1, 9)},
    **{f"WEBP turned {n}": encoded("WEBP", exif=tags(orientation(n))) for n in (3, 6)},
    "JPEG turned by XMP": encoded("JPEG", xmp=XMP),
    "PNG turned": png((b"eXIf", tags(orientation(6)))),
    "PNG turned at its end": png((b"eXIf", tags(orientation(6))), last=True),
    "PNG with a broken profile": png((b"iCCP", b"x\0\0no profile")),
    "JPEG with another after it": encoded("JPEG") + encoded("JPEG"),
    "JPEG with zeros after it": encoded("JPEG") + bytes(9),
    "JPEG with data after it": encoded("JPEG") + b"MotionPhoto",
    "PNG with data after it": encoded("PNG") + b"more",
    "GIF of several pictures": encoded("GIF", save_all=True, append_images=[noise(50, 30, 2)]),
}


@pytest.mark.parametrize("name", FILES)
def test_the_size_is_that_of_the_decoded_picture(name: str) -> None:
    assert size(FILES[name]) == load_image(FILES[name]).size


def test_pixels_are_not_decoded_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketvlm.processor.headers.decode", None)
    for name in ("JPEG", "PNG", "WEBP", "GIF", "JPEG turned 6", "PNG turned"):
        assert set(size(FILES[name])) == set(load_image(FILES[name]).size)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_refused_as_when_it_is_decoded(form: str) -> None:
    data = FILES[form]
    for length in (0, 3, 20, len(data) // 2, len(data) - 1):
        cut = data[:length]
        try:
            wanted: Any = load_image(cut).size
        except ImageError as error:
            wanted = str(error).partition(": ")[2]
        try:
            found: Any = size(cut)
        except ImageError as error:
            found = str(error).partition(": ")[2]
        assert found == wanted, length


def test_limits_hold() -> None:
    with pytest.raises(ImageError, match="raise max_pixels"):
        picture_size(io.BytesIO(FILES["PNG"]), "it", MediaLimits(max_pixels=100))
    header = struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="raise max_pixels"):
        size(bomb)


def test_sources(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(FILES["PNG"])
    assert source_size(str(path), MediaLimits()) == source_size(path.as_uri(), MediaLimits()) == (50, 30)
    for source, message in ((str(tmp_path), "this is a folder"), (str(tmp_path / "b"), "no such file")):
        with pytest.raises(ImageError, match=message):
            source_size(source, MediaLimits())
    with pytest.raises(ImageError, match="more than the limit of 10"):
        source_size(str(path), MediaLimits(max_bytes=10))


@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_pending_views_load_the_views_of_the_image(ours: Any, tmp_path: Path, mode: Any) -> None:
    path = tmp_path / "a.png"
    noise(900, 700).save(path)
    parts = [
        {"type": "image", "image": str(path)},
        {"type": "text", "text": "the"},
        {"type": "image", "image": "data:,"},
    ]
    messages = [{"role": "user", "content": parts[:2]}]
    whole = ours(messages, downsample_mode=mode)
    for pending in ("size", "digest"):
        prompt = ours(messages, downsample_mode=mode, pending=pending)
        assert prompt.ids.tolist() == whole.ids.tolist()
        assert prompt.images == whole.images
        for view, wanted in zip(prompt.views, whole.views, strict=True):
            assert (view.rows, view.cols, view.start, view.tokens) == (
                wanted.rows,
                wanted.cols,
                wanted.start,
                wanted.tokens,
            )
            assert np.array_equal(view.load().patches, wanted.patches)
            assert view.load().digest == wanted.digest
            assert view.load().start == wanted.start
    digests = {view.digest for view in ours(messages, downsample_mode=mode, pending="digest").views}
    assert len(digests) == len(whole.views)
    assert {view.digest for view in ours(messages, downsample_mode=mode, pending="size").views} == {""}
    with pytest.raises(ImageError, match=r"messages\[0\]\.content\[2\]: data:,: empty"):
        ours([{"role": "user", "content": parts}], pending="size")


def test_digests_follow_the_file_and_the_options(ours: Any, tmp_path: Path) -> None:
    def digest(name: str, **options: Any) -> str:
        content = [{"type": "image", "image": str(tmp_path / name)}]
        (view,) = ours([{"role": "user", "content": content}], pending="digest", **options).views
        return str(view.digest)

    noise(60, 40).save(tmp_path / "a.png")
    noise(60, 40).save(tmp_path / "same.png")
    noise(60, 40, 1).save(tmp_path / "other.png")
    assert digest("a.png") == digest("same.png") != digest("other.png")
    assert len({digest("a.png"), digest("a.png", downsample_mode="4x"), digest("a.png", scale_resolution=224)}) == 3
