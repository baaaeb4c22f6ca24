"""Transparency: over white by one formula for every kind of input, or as transformers does it."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image as load_reference

from pocketvlm.errors import OptionError
from pocketvlm.processor import Processor
from pocketvlm.processor.frames import open_frames
from pocketvlm.processor.image_cache import ImageCache
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.media import load_image, read_image

LEVELS, ALPHAS = (grid.astype(np.uint8) for grid in np.meshgrid(np.arange(256), np.arange(256)))
# Every colour with every transparency.
ALL = np.dstack([LEVELS, 255 - LEVELS, LEVELS // 2, ALPHAS])
LOGO = np.zeros((60, 60, 4), np.uint8)
LOGO[20:40, 10:50, 3] = 255


def over_white(pixels: np.ndarray) -> np.ndarray:
    """The formula as the documents state it, in whole numbers."""
    colour, alpha = pixels[..., :3].astype(int), pixels[..., 3:].astype(int)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file from filtered rows; chunks stand before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    made = (struct.pack(">I", len(data)) + name + data for name, data in parts)
    checked = (part + struct.pack(">I", zlib.crc32(part[4:])) for part in made)
    return b"\x89PNG\r\n\x1a\n" + b"".join(checked)


@pytest.mark.parametrize("route", ["path", "bytes", "data URI", "base64", "file", "Pillow", "array", "webp", "tiff"])
def test_every_route_puts_every_level_on_white_alike(tmp_path: Path, route: str) -> None:
    image = Image.fromarray(ALL)
    data = encoded(image, "PNG")
    text = base64.b64encode(data).decode()
    (tmp_path / "a.png").write_bytes(data)
    source = {
        "path": tmp_path / "a.png",
        "bytes": data,
        "data URI": f"data:image/png;base64,{text}",
        "base64": text,
        "file": io.BytesIO(data),
        "Pillow": image,
        "array": ALL,
        "webp": encoded(image, "WEBP", lossless=True, exact=True),
        "tiff": encoded(image, "TIFF"),
    }[route]
    found = load_image(source, is_base64=route == "base64")
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), over_white(ALL))


def test_a_black_logo_on_transparent_black_is_seen() -> None:
    seen = np.asarray(load_image(encoded(Image.fromarray(LOGO), "PNG")))
    assert np.unique(seen.reshape(-1, 3), axis=0).tolist() == [[0, 0, 0], [255, 255, 255]]
    assert not seen[30, 30].any()


GREY = np.dstack([LEVELS[:48, ::4], ALPHAS[::4, :48].T])


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("La"),
        Image.fromarray(ALL).convert("RGBa"),
        Image.fromarray(ALL).convert("PA"),
    ],
    ids=lambda image: image.mode,
)
def test_modes_of_pillow_with_alpha(image: Image.Image) -> None:
    straight = image.convert("LA") if image.mode == "La" else image
    assert np.array_equal(np.asarray(load_image(image)), over_white(np.asarray(straight.convert("RGBA"))))


def row(*samples: int) -> bytes:
    return b"\0" + b"".join(struct.pack(">H", sample) for sample in samples)


WHITE = [255, 255, 255]


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        # 16 bits a channel: the high byte counts.
        (png(2, 1, 16, 6, row(0x1234, 0, 0xFFFF, 0xFFFF, 9, 9, 9, 0)), [[0x12, 0, 255], WHITE]),
        (png(2, 1, 16, 4, row(0x8000, 0xFFFF, 0, 0)), [[128, 128, 128], WHITE]),
        # A colour that is transparent, in the depth of the file.
        (png(2, 1, 16, 0, row(300, 301), (b"tRNS", struct.pack(">H", 300))), [WHITE, [1, 1, 1]]),
        (
            png(2, 1, 16, 2, row(0x0102, 0, 0, 0x2000, 0, 0), (b"tRNS", struct.pack(">HHH", 0x102, 0, 0))),
            [WHITE, [32, 0, 0]],
        ),
        (png(2, 1, 8, 2, b"\0\1\2\3\4\5\6", (b"tRNS", struct.pack(">HHH", 1, 2, 3))), [WHITE, [4, 5, 6]]),
        (png(2, 1, 8, 0, b"\0\1\2", (b"tRNS", b"\0\1")), [WHITE, [2, 2, 2]]),
        (png(4, 1, 2, 0, b"\0\x1b", (b"tRNS", b"\0\1")), [[0] * 3, WHITE, [170] * 3, WHITE]),
        (png(2, 1, 4, 0, b"\0\x12", (b"tRNS", b"\0\2")), [[17] * 3, WHITE]),
        (png(8, 1, 1, 0, b"\0\x0f", (b"tRNS", b"\0\0")), [WHITE] * 8),
        (png(8, 1, 1, 0, b"\0\x0f", (b"tRNS", b"\0\1")), [[0] * 3] * 4 + [WHITE] * 4),
        # A palette whose entries are transparent to a degree.
        (
            png(3, 1, 8, 3, b"\0\0\1\2", (b"PLTE", bytes([0, 0, 0, 10, 20, 30, 255, 0, 0])), (b"tRNS", b"\0\x80")),
            [WHITE, [132, 137, 142], [255, 0, 0]],
        ),
    ],
)  # fmt: skip
def test_transparency_of_png_files_in_every_form(data: bytes, wanted: list[list[int]]) -> None:
    assert np.asarray(load_image(data))[0].tolist() == wanted


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF"])
def test_of_animations_the_first_picture_counts(form: str) -> None:
    first, second = Image.fromarray(LOGO), Image.new("RGBA", (60, 60))
    second.paste((255, 255, 255, 255), (5, 5, 9, 9))
    seen = np.asarray(load_image(encoded(first, form, save_all=True, append_images=[second], duration=100))).astype(int)
    assert (seen[5, 5] > 245).all()
    assert (seen[30, 30] < 10).all()


def test_reference_gives_the_pixels_of_transformers(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(ALL).save(path)
    wanted = np.asarray(load_reference(str(path)))
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert np.array_equal(np.asarray(load_image(source, alpha="reference")), wanted)
    assert np.array_equal(wanted, ALL[..., :3])
    for source in (Image.fromarray(ALL), ALL):
        assert np.array_equal(np.asarray(load_image(source, alpha="reference")), over_white(ALL))
    assert read_image(path).mode == "RGBA"


def webm(path: Path, codec: str) -> Path:
    with av.open(path, "w") as file:
        stream = file.add_stream(codec, rate=10, options={"auto-alt-ref": "0", "crf": "4", "b": "4M"})
        stream.width, stream.height, stream.pix_fmt = 60, 60, "yuva420p"
        for _ in range(6):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(LOGO, format="rgba")))
        file.mux(stream.encode())
    return path


def animation(form: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        rest = [Image.fromarray(np.roll(LOGO, number, axis=1)) for number in range(1, 6)]
        options = {"lossless": True} if form == "WEBP" else {"disposal": 2} if form == "GIF" else {}
        path.write_bytes(
            encoded(Image.fromarray(LOGO), form, save_all=True, append_images=rest, duration=100, **options)
        )
        return path

    return write


def mov(path: Path) -> Path:
    with av.open(path, "w") as file:
        stream = file.add_stream("qtrle", rate=10)
        stream.width, stream.height, stream.pix_fmt = 60, 60, "argb"
        for _ in range(6):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(LOGO, format="rgba").reformat(format="argb")))
        file.mux(stream.encode())
    return path


VIDEOS: dict[str, Callable[[Path], Path]] = {
    "vp8.webm": lambda path: webm(path, "libvpx"),
    "vp9.webm": lambda path: webm(path, "libvpx-vp9"),
    "qtrle.mov": mov,
    "a.apng": animation("PNG"),
    "a.gif": animation("GIF"),
    "a.webp": animation("WEBP"),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_frames_of_videos_are_on_white(tmp_path: Path, name: str) -> None:
    path = VIDEOS[name](tmp_path / name)
    frames = open_frames(path, MediaLimits())
    assert frames.total == 6
    reader = frames.decoder([0, 3, 5])
    for number in (0, 3, 5, 1):
        seen = np.asarray(reader.read(number)).astype(int)
        assert (seen[5, 5] > 250).all(), (number, seen[5, 5])
        assert (seen[30, 30] < 12).all(), (number, seen[30, 30])
    reader.close()


def test_a_copied_stream_is_on_white_too(tmp_path: Path) -> None:
    copy = tmp_path / "copy.webm"
    with av.open(webm(tmp_path / "a.webm", "libvpx-vp9")) as source, av.open(copy, "w") as target:
        (stream,) = source.streams.video
        copied = target.add_stream_from_template(stream)
        copied.metadata.update(alpha_mode="1")
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = copied
                target.mux(packet)
    with av.open(copy) as file:
        assert "ALPHA_MODE" in file.streams.video[0].metadata
    reader = open_frames(copy, MediaLimits()).decoder([1])
    assert (np.asarray(reader.read(1))[5, 5] > 250).all()
    reader.close()


@pytest.mark.parametrize("name", ["vp9.webm", "qtrle.mov", "a.apng", "a.webp"])
def test_frames_of_videos_as_they_are_stored(tmp_path: Path, name: str) -> None:
    path = VIDEOS[name](tmp_path / name)
    reader = open_frames(path, MediaLimits(), alpha="reference").decoder([0])
    assert (np.asarray(reader.read(0)) < 12).all()
    reader.close()


def test_frames_that_are_pictures(tmp_path: Path) -> None:
    for number in range(2):
        Image.fromarray(LOGO).save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.iterdir())
    for source in (tmp_path, paths, [path.read_bytes() for path in paths], np.stack([LOGO, LOGO])):
        white = open_frames(source, MediaLimits(), fps=1.0)
        assert np.array_equal(np.asarray(white.decoder([1]).read(1)), over_white(LOGO))
        if not isinstance(source, np.ndarray):
            assert not np.asarray(open_frames(source, MediaLimits(), alpha="reference").decoder([0]).read(0)).any()


def ask(source: Any, kind: str = "image", **options: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": kind, kind: source, **options}, {"type": "text", "text": "x"}]}]


def test_the_option_stands_where_others_stand(ours: Processor) -> None:
    data = encoded(Image.fromarray(LOGO), "PNG")
    white = ours(ask(data)).views[0].digest
    dropped = ours(ask(data), alpha="reference").views[0].digest
    assert white != dropped
    assert ours(ask(data, alpha="reference")).views[0].digest == dropped
    assert ours(ask(data, alpha="white"), alpha="reference").views[0].digest == white
    with pytest.raises(OptionError, match=r"alpha='black' is not supported: give 'white' or 'reference'"):
        ours(ask(data), alpha="black")
    with pytest.raises(OptionError, match=r"messages\[0\].content\[0\].*alpha=1"):
        ours(ask(data, alpha=1))


def test_whatever_is_cached_is_cached_for_its_option(ours: Processor, tmp_path: Path) -> None:
    data, cache = encoded(Image.fromarray(LOGO), "PNG"), ImageCache()
    first = [ours(ask(data), alpha=alpha, image_cache=cache).views[0].digest for alpha in ("white", "reference")]
    repeated = [ours(ask(data), alpha=alpha, image_cache=cache).views[0].digest for alpha in ("white", "reference")]
    assert first == repeated
    assert len(set(first)) == 2
    clip = VIDEOS["a.apng"](tmp_path / "a.apng")
    names = {ours(ask(str(clip), "video"), alpha=alpha).views[0].digest for alpha in ("white", "reference")}
    assert len(names) == 2
