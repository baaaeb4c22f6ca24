"""Every kind of picture and every way to give one, against transformers' own loading; damage and limits."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from urllib.parse import quote

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from processor_kit import noise, reference_images
from transformers.image_utils import load_image as load_reference

from pocketvlm.errors import ImageError
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.media import load_image, shorten

SMALL = noise(16, 12).resize((160, 120))
RGBA = Image.fromarray(np.random.default_rng(1).integers(0, 256, (33, 47, 4), dtype=np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(SMALL, "JPEG", exif=exif, quality=95)


def transparent_palette() -> bytes:
    image = SMALL.quantize(16)
    return encoded(image, "PNG", transparency=bytes(range(0, 256, 16)))


FILES = {
    "jpeg": encoded(SMALL, "JPEG"),
    "jpeg_progressive": encoded(SMALL, "JPEG", progressive=True),
    "jpeg_grey": encoded(SMALL.convert("L"), "JPEG"),
    "jpeg_cmyk": encoded(SMALL.convert("CMYK"), "JPEG"),
    "jpeg_two_pictures": encoded(SMALL, "MPO", save_all=True, append_images=[SMALL.rotate(180)]),
    "png": encoded(SMALL, "PNG"),
    "png_alpha": encoded(RGBA, "PNG"),
    "png_grey": encoded(SMALL.convert("L"), "PNG"),
    "png_grey_alpha": encoded(RGBA.convert("LA"), "PNG"),
    "png_bits": encoded(SMALL.convert("1"), "PNG"),
    "png_palette": encoded(SMALL.quantize(16), "PNG"),
    "png_palette_transparent": transparent_palette(),
    "png_animated": encoded(SMALL, "PNG", save_all=True, append_images=[SMALL.rotate(90)]),
    "webp": encoded(SMALL, "WEBP"),
    "webp_lossless_alpha": encoded(RGBA, "WEBP", lossless=True),
    "webp_animated": encoded(SMALL, "WEBP", save_all=True, append_images=[SMALL.rotate(180)]),
    "gif": encoded(SMALL, "GIF"),
    "gif_animated": encoded(SMALL, "GIF", save_all=True, append_images=[SMALL.rotate(180)]),
    "gif_transparent": encoded(SMALL.quantize(16), "GIF", transparency=3),
    "bmp": encoded(SMALL, "BMP"),
    "tiff": encoded(SMALL, "TIFF"),
    "tiff_lzw": encoded(SMALL, "TIFF", compression="tiff_lzw"),
    "tiff_pages": encoded(SMALL, "TIFF", save_all=True, append_images=[SMALL.rotate(180)]),
    "avif": encoded(SMALL, "AVIF"),
    "avif_alpha": encoded(RGBA, "AVIF"),
    "avif_animated": encoded(SMALL, "AVIF", save_all=True, append_images=[SMALL.rotate(180)]),
    "tiff_orientation_6": encoded(SMALL, "TIFF", tiffinfo={274: 6}),
    "tiff_cmyk": encoded(SMALL.convert("CMYK"), "TIFF"),
    **{f"jpeg_orientation_{value}": with_orientation(value) for value in range(1, 9)},
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_as_transformers_reads_them(name, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(FILES[name])
    wanted = np.asarray(load_reference(str(path)))
    assert np.array_equal(pixels(load_image(path, alpha="reference")), wanted)
    assert np.array_equal(pixels(load_image(FILES[name], alpha="reference")), wanted)


def test_every_route_gives_the_same_picture(tmp_path, monkeypatch):
    path = tmp_path / "a b#%é.png"
    path.write_bytes(FILES["png"])
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted = pixels(SMALL)
    plain = base64.b64encode(FILES["png"]).decode()
    routes = [
        str(path),
        path,
        os.fsencode(path).decode(),
        "~/a b#%é.png",
        path.as_uri(),
        path.as_uri().replace("file://", "file://localhost"),
        f"data:image/png;base64,{plain}",
        f"DATA:image/png;charset=x;BASE64,{quote(plain)}",
        f" \tdata:image/png;base64,{plain}\n",
        f"\r\n{path.as_uri()} ",
        "data:;base64," + "\n".join(plain[i : i + 60] for i in range(0, len(plain), 60)).rstrip("="),
        "data:image/png," + quote(FILES["png"]),
        FILES["png"],
        bytearray(FILES["png"]),
        memoryview(FILES["png"]),
        io.BytesIO(FILES["png"]),
        SMALL,
        np.asarray(SMALL),
        np.asarray(SMALL)[:, ::-1][:, ::-1],
    ]
    for route in routes:
        assert np.array_equal(pixels(load_image(route)), wanted), route
    assert np.array_equal(pixels(load_image(f" {plain}\n", is_base64=True)), wanted)
    with path.open("rb") as stream:
        assert np.array_equal(pixels(load_image(stream)), wanted)


PILLOW = {
    "RGBA": RGBA,
    "LA": RGBA.convert("LA"),
    "PA": RGBA.convert("PA"),
    "P transparent": Image.open(io.BytesIO(transparent_palette())),
    "GIF transparent": Image.open(io.BytesIO(FILES["gif_transparent"])),
    "RGB": SMALL,
    "L": SMALL.convert("L"),
    "1": SMALL.convert("1"),
    "P": SMALL.quantize(16),
    "CMYK": SMALL.convert("CMYK"),
    "YCbCr": SMALL.convert("YCbCr"),
    "HSV": SMALL.convert("HSV"),
    "JPEG turned": Image.open(io.BytesIO(with_orientation(6))),
}


@pytest.mark.parametrize("name", PILLOW)
def test_pillow_images_are_taken_as_transformers_takes_them(name):
    image = PILLOW[name]
    wanted = np.moveaxis(reference_images().process_image(image, do_convert_rgb=True), 0, -1)
    mode = image.mode
    assert np.array_equal(pixels(load_image(image)), wanted)
    assert image.mode == mode


def test_arrays():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for array in (grey, grey[:, :, None]):
        assert np.array_equal(pixels(load_image(array)), np.repeat(grey[:, :, None], 3, axis=2))
    alpha = np.asarray(RGBA)
    wanted = reference_images().process_image(alpha, do_convert_rgb=True)
    assert np.array_equal(pixels(load_image(alpha)), np.moveaxis(wanted, 0, -1))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4, 3), dtype=np.float32), ["float32[4, 4, 3]", "(array * 255)"]),
        (np.zeros((4, 4), dtype=bool), ["bool[4, 4]", "uint8"]),
        (np.zeros((4, 4), dtype=np.uint16), ["uint16[4, 4]", "uint8"]),
        (np.zeros((3, 8, 8), dtype=np.uint8), ["[3, 8, 8]", "transpose(1, 2, 0)"]),
        (np.zeros((8, 8, 2), dtype=np.uint8), ["[8, 8, 2]", "[height, width]"]),
        (np.zeros((1, 8, 8, 3), dtype=np.uint8), ["[1, 8, 8, 3]"]),
        (np.zeros(8, dtype=np.uint8), ["[8]"]),
        (np.zeros((0, 8, 3), dtype=np.uint8), ["8x0", "nothing to see"]),
    ],
)
def test_arrays_that_are_no_pictures(array, words):
    with pytest.raises(ImageError) as caught:
        load_image(array)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_high_byte(form):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    wanted = np.repeat((levels >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    image = Image.fromarray(levels)
    assert np.array_equal(pixels(load_image(encoded(image, form))), wanted)
    assert np.array_equal(pixels(load_image(image)), wanted)
    big = Image.frombytes("I;16B", (256, 256), levels.astype(">u2").tobytes())
    assert np.array_equal(pixels(load_image(big)), wanted)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(mode):
    image = Image.new(mode, (8, 8))
    for source in (image, encoded(image, "TIFF")):
        with pytest.raises(ImageError, match=r"no fixed range.*8 bits"):
            load_image(source)


ANIMATED = ("jpeg_two_pictures", "png_animated", "avif_animated", "gif_animated", "webp_animated", "tiff_pages")


@pytest.mark.parametrize("name", [name for name in FILES if "orientation" not in name])
def test_truncated_files_never_give_wrong_pixels(name):
    data = FILES[name]
    whole = pixels(load_image(data))
    cuts = {round(len(data) * part / 23) for part in range(23)} | {len(data) - back for back in (1, 2, 5, 12, 40)}
    messages = []
    for cut in sorted(cuts):
        try:
            # What is accepted has all pixels: only an end marker or later pictures are missing.
            assert np.array_equal(pixels(load_image(data[:cut])), whole)
        except ImageError as error:
            messages.append(str(error))
    assert len(messages) >= (8 if name in ANIMATED else 20)
    for message in messages:
        assert message.split(": ")[0].endswith(" bytes")
        assert any(word in message for word in ("damaged or incomplete", "not an image", "empty")), message


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_give_a_picture_or_an_image_error(data):
    damaged = bytearray(FILES[data.draw(st.sampled_from(sorted(FILES)))])
    places = st.one_of(st.integers(0, min(300, len(damaged) - 1)), st.integers(0, len(damaged) - 1))
    for place in data.draw(st.lists(places, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings(), contextlib.suppress(ImageError):
        warnings.simplefilter("ignore")
        pixels(load_image(bytes(damaged), MediaLimits(max_pixels=1_000_000)))


def test_a_truncated_pillow_image_is_an_image_error():
    half = FILES["png"][: len(FILES["png"]) // 2]
    with pytest.raises(ImageError, match="cannot be converted"):
        load_image(Image.open(io.BytesIO(half)))


def test_reading_of_broken_files_must_be_off(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match="LOAD_TRUNCATED_IMAGES"):
        load_image(FILES["png"])


def test_limits(tmp_path):
    data = FILES["png"]
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    small = MediaLimits(max_bytes=1000)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    for source in (path, data, uri, "data:," + quote(data), io.BytesIO(data)):
        with pytest.raises(ImageError, match=r"limit of 1000.*max_bytes"):
            load_image(source, small)
    for source in (path, SMALL, np.asarray(SMALL)):
        with pytest.raises(ImageError, match=r"160x120 = 19200 pixels .* limit of 19199.*max_pixels"):
            load_image(source, MediaLimits(max_pixels=19199))
        assert load_image(source, MediaLimits(max_pixels=19200)).size == (160, 120)
    strip = Image.new("RGB", (1001, 1))
    with pytest.raises(ImageError, match=r"1001x1 .*1000:1.*max_ratio"):
        load_image(strip)
    assert load_image(strip, MediaLimits(max_ratio=1001)).size == (1001, 1)
    with pytest.raises(ImageError, match=r"local files is switched off.*MediaLimits\(local_files=True\)"):
        load_image(path, MediaLimits(local_files=False))
    with pytest.raises(ImageError, match="local files is switched off"):
        load_image(path.as_uri(), MediaLimits(local_files=False))
    with pytest.raises(ImageError, match="network is switched off"):
        load_image("http://127.0.0.1:9/x.png", MediaLimits(remote=False))


def test_limits_are_exact():
    data = FILES["png"] + bytes(-len(FILES["png"]) % 3 + 1)  # base64 with two signs of padding
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    for source in (data, uri, "data:," + quote(data)):
        load_image(source, MediaLimits(max_bytes=len(data)))
        with pytest.raises(ImageError, match="max_bytes"):
            load_image(source, MediaLimits(max_bytes=len(data) - 1))
    load_image(io.BytesIO(data), MediaLimits(max_bytes=len(data)))
    with pytest.raises(ImageError, match="max_bytes"):
        load_image(io.BytesIO(data), MediaLimits(max_bytes=len(data) - 1))


def test_file_objects_are_read_no_further_than_the_limit():
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            assert 0 <= size <= 1001
            return bytes(size)

    with pytest.raises(ImageError, match="more than the limit of 1000 bytes"):
        load_image(Endless(), MediaLimits(max_bytes=1000))


def test_size_is_refused_before_decoding(monkeypatch):
    # A header that claims 30000x30000 pixels, with hardly any data behind it.
    data = bytearray(encoded(Image.new("1", (8, 8)), "BMP"))
    data[18:26] = (30000).to_bytes(4, "little") * 2
    with pytest.raises(ImageError, match=r"30000x30000 = 900000000 pixels .* raise max_pixels"):
        load_image(bytes(data))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_the_limit_on_pixels_is_ours(form, monkeypatch):
    """A user of the command line cannot change Pillow's limit, and its text says nothing about ours."""
    data = encoded(SMALL, form)
    pixels = SMALL.width * SMALL.height
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", pixels // 3)
    with pytest.raises(ImageError, match=rf"{pixels} pixels are more than the limit of 5: .* or raise max_pixels$"):
        load_image(data, MediaLimits(max_pixels=5))
    if form not in ("TIFF", "WEBP"):
        assert load_image(data).size == SMALL.size
        return
    with pytest.raises(ImageError, match=r"than Pillow's limit of \d+: make it smaller or use another format$"):
        load_image(data)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no/such/file.png", "no such file"),
        ("", "empty string"),
        (".", "this is a folder: give it as a video"),
        ("/dev/null", "not a regular file: copy"),
        ("a\0b", "no such file"),
        ("~nobody_of_that_name/x.png", "cannot be read"),
        ("ftp://host/x.png", "ftp: is not supported"),
        ("file://elsewhere/x.png", "another host (elsewhere)"),
        ("data:image/png;base64", "needs a comma"),
        ("data:image/png;base64,@@@@", "not valid base64"),
        ("data:image/png;base64,A", "not valid base64"),
        ("data:image/png;base64,", "empty"),
        (b"", "empty"),
        (io.StringIO("text"), "binary mode"),
        (42, "cannot be a int"),
        ([SMALL], "cannot be a list"),
        (None, "cannot be a NoneType"),
    ],
    ids=repr,
)
def test_sources_that_are_none(source, words):
    with pytest.raises(ImageError) as caught:
        load_image(source)
    assert words in str(caught.value)


def test_unreadable_files(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ImageError, match="not a regular file"):
        load_image(pipe)
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(closed)


def test_names_in_messages_are_short_and_keep_secrets():
    long = "data:image/png;base64," + "A" * 10_000
    assert shorten(long) == "data:image/png;base64,AAAAAAAA... (10022 characters)"
    assert shorten("https://user:secret@host/x.png") == "https://...@host/x.png"
    assert len(shorten("http://host/" + "x" * 500 + "/end.png")) == 80
    assert shorten("/tmp/x.png") == "/tmp/x.png"


def test_formats_are_opened_without_loading_every_plugin(tmp_path):
    for name in ("webp", "tiff"):
        (tmp_path / name).write_bytes(FILES[name])
    code = (
        "import sys; from pocketvlm.processor.media import load_image; load_image(sys.argv[1]); "
        "load_image(sys.argv[2]); print('PIL.EpsImagePlugin' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "webp"), str(tmp_path / "tiff")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    assert done.stdout == "False\n"
