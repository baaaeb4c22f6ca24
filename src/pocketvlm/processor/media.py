"""Pictures from paths, URLs, data URIs, bytes, Pillow and NumPy: fetched, decoded and made RGB (facts 4.1).

What becomes of transparency and orientation follows the route that transformers takes for the same input:

| input | orientation tag | transparency |
|---|---|---|
| path, file: and http(s): URL, data URI, base64, bytes, file object | applied | dropped: the colours below it show |
| Pillow image | not applied | composed over white |
| NumPy array [height, width, 4] | - | composed over white |

One deliberate difference: transformers clips 16-bit grey levels at 255, which turns nearly every such image white. Here
they keep their high byte, as Pillow does for 16-bit colour.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from pocketvlm.errors import ImageError, PocketVLMError
from pocketvlm.processor.limits import MediaLimits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def shorten(text: str, length: int = 80) -> str:
    """A source's name for messages: data URIs and long names are cut, credentials left out."""
    if text[:5].lower() == "data:":
        return f"{text[:30]}... ({len(text)} characters)" if len(text) > 40 else text
    if "://" in text and "@" in text.split("://", 1)[1].split("/", 1)[0]:
        scheme, rest = text.split("://", 1)
        text = f"{scheme}://...@{rest.split('@', 1)[1]}"
    return text if len(text) <= length else f"{text[: length - 20]}...{text[-17:]}"


def load_image(source: Any, limits: MediaLimits | None = None, *, is_base64: bool = False) -> Image:
    """An RGB Pillow image from any accepted source; see the module's table. The caller's objects are not changed.

    source: str (path, ~ path, file:, http:, https: or data: URI; or base64 text with is_base64), os.PathLike, bytes,
    a binary file object, a Pillow image, or a uint8 NumPy array [height, width] or [height, width, 1 | 3 | 4].
    Of animations and multi-page files the first picture counts. Raises ImageError.
    """
    limits = limits or MediaLimits()
    if isinstance(source, str) and is_base64:
        return _decode(from_base64(source, "base64 text", limits), "base64 text", limits)
    if isinstance(source, str | os.PathLike):
        return _from_name(os.fsdecode(source), limits)
    if isinstance(source, bytes | bytearray | memoryview):
        name = f"{len(source)} bytes"
        check_bytes(len(source), name, limits)
        return _decode(bytes(source), name, limits)
    # Pillow first: its images also have a `read`-like surface in some subclasses.
    import PIL.Image

    if isinstance(source, PIL.Image.Image):
        return _from_pillow(source, limits)
    if hasattr(source, "__array_interface__") and hasattr(source, "dtype"):
        return _from_array(source, limits)
    if hasattr(source, "read"):
        return _from_file(source, limits)
    raise ImageError(
        f"an image cannot be a {type(source).__name__}: give a path, a URL, a data URI, bytes, a Pillow image or a "
        "NumPy array"
    )


def check_bytes(count: int, name: str, limits: MediaLimits) -> None:
    """Raise ImageError for more bytes than the limit."""
    if count > limits.max_bytes:
        raise ImageError(
            f"{name}: {count} bytes are more than the limit of {limits.max_bytes}: "
            "send a smaller file or raise max_bytes"
        )


def check_size(width: int, height: int, name: str, limits: MediaLimits) -> None:
    """Raise ImageError for a size in pixels outside the limits."""
    if width < 1 or height < 1:
        raise ImageError(f"{name}: an image of {width}x{height} pixels has nothing to see")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{name}: {width}x{height} = {width * height} pixels are more than the limit of {limits.max_pixels}: "
            "send a smaller image or raise max_pixels"
        )
    if max(width, height) > limits.max_ratio * min(width, height):
        raise ImageError(
            f"{name}: {width}x{height} pixels is longer than {limits.max_ratio:g}:1: crop it or raise max_ratio"
        )


def locate(source: str, limits: MediaLimits) -> tuple[bytes | Path, str]:
    """What a path, file:, http:, https: or data: URI leads to: bytes and the content type they came with, or a file.

    Raises ImageError, also for a path without a regular file.
    """
    if not source:
        raise ImageError("an empty string names no file: give a path, a URL or a data URI")
    name = shorten(source)
    scheme = source.split(":", 1)[0].lower() if ":" in source else ""
    if scheme == "data":
        return _from_data_uri(source, name, limits), ""
    if scheme in ("http", "https"):
        if not limits.remote:
            raise ImageError(f"{name}: fetching from the network is switched off here: send the data itself")
        from pocketvlm.processor.fetch import fetch

        return fetch(source, name, limits)
    if scheme == "file":
        source = _file_path(source, name)
    elif "://" in source:
        raise ImageError(f"{name}: {scheme}: is not supported: use http, https, data or file, or a path")
    if not limits.local_files:
        raise ImageError(f"{name}: reading local files is switched off here: send the data as a data URI")
    with readable(name):
        path = Path(source).expanduser()
        if not path.exists():
            raise ImageError(f"{name}: no such file")
        return path, ""


@contextmanager
def readable(name: str) -> Iterator[None]:
    """What the system says about a file becomes an ImageError that names it."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ without a home, ValueError: a NUL inside
        if isinstance(error, PocketVLMError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageError(f"{name}: cannot be read: {reason}") from error


def _file_path(text: str, name: str) -> str:
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost"):
        raise ImageError(f"{name}: a file: URI on another host ({parts.netloc}) cannot be opened")
    return unquote(parts.path)


def _from_name(source: str, limits: MediaLimits) -> Image:
    name = shorten(source)
    found, content_type = locate(source, limits)
    if isinstance(found, bytes):
        return _decode(found, name, limits, content_type)
    with readable(name):
        if not found.is_file():
            raise ImageError(f"{name}: not a regular file")
        check_bytes(found.stat().st_size, name, limits)
        with found.open("rb") as stream:
            data = read_stream(stream, name, limits)
    return _decode(data, name, limits)


def read_stream(stream: Any, name: str, limits: MediaLimits) -> bytes:
    """All bytes of a binary file object. Raises ImageError for more than the limit, and what reading raises."""
    data = stream.read(limits.max_bytes + 1)
    if not isinstance(data, bytes):
        raise ImageError(f"{name}: must be opened in binary mode ('rb')")
    if len(data) > limits.max_bytes:
        raise ImageError(f"{name}: more than the limit of {limits.max_bytes} bytes: send less or raise max_bytes")
    return data


def _from_file(stream: Any, limits: MediaLimits) -> Image:
    name = shorten(str(getattr(stream, "name", "") or "file object"))
    try:
        data = read_stream(stream, name, limits)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name}: cannot be read: {error}") from error
    return _decode(data, name, limits)


def _from_data_uri(text: str, name: str, limits: MediaLimits) -> bytes:
    head, comma, body = text[5:].partition(",")
    if not comma:
        raise ImageError(f"{name}: a data URI needs a comma before its data")
    if head.replace(" ", "").lower().endswith(";base64"):
        return from_base64(unquote(body) if "%" in body else body, name, limits)
    data = unquote_to_bytes(body)
    check_bytes(len(data), name, limits)
    return data


def from_base64(text: str, name: str, limits: MediaLimits) -> bytes:
    """The bytes of base64 text, padded or not. Raises ImageError."""
    compact = "".join(text.split()).rstrip("=")
    check_bytes(len(compact) * 3 // 4, name, limits)
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{name}: not valid base64: {error}") from None


def _decode(data: bytes, name: str, limits: MediaLimits, content_type: str = "") -> Image:
    """Decode an encoded picture by transformers' rule for files: upright, then RGB with transparency dropped."""
    if not data:
        raise ImageError(f"{name}: empty, no image data")
    import PIL.Image
    import PIL.TiffImagePlugin  # registers its format without loading every plugin
    import PIL.WebPImagePlugin
    from PIL import ImageFile, ImageOps, UnidentifiedImageError

    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError(
            f"{name}: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, so broken files would pass: switch it off"
        )
    try:
        image: Image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
        check_size(image.width, image.height, name, limits)
        # Turning the picture upright makes a new image that no longer knows its format.
        from_png = image.format == "PNG"
        return _to_rgb(ImageOps.exif_transpose(image), name, from_png)
    except ImageError:
        raise
    except UnidentifiedImageError:
        told = f", sent as {content_type}" if content_type else ""
        raise ImageError(
            f"{name}: not a picture in a format we read ({', '.join(FORMATS)}); it starts with {data[:12]!r}{told}"
            f"{_hint(data)}"
        ) from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: {error}: send a smaller image or raise PIL.Image.MAX_IMAGE_PIXELS") from None
    except Exception as error:  # decoders of broken files raise OSError, SyntaxError, ValueError, struct.error, ...
        raise ImageError(f"{name}: damaged or incomplete image file: {error}") from error


def _hint(data: bytes) -> str:
    """What else it may be, for messages."""
    if data[4:8] == b"ftyp" or data[:4] == b"\x1aE\xdf\xa3" or (data[:4] == b"RIFF" and data[8:12] == b"AVI "):
        return ": it looks like a video: give it as one"
    return ": it is a PDF file: give its pages as pictures" if data[:5] == b"%PDF-" else ""


def _to_rgb(image: Image, name: str, from_png: bool = False) -> Image:
    """RGB without looking at transparency. Older Pillow gives 16-bit grey PNG files the mode I."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and from_png):
        return _high_byte(image)
    if image.mode in ("I", "F"):
        raise ImageError(
            f"{name}: {image.mode!r} pixels (32-bit) have no fixed range: scale them to 8 bits per channel first"
        )
    return image.convert("RGB")


def _high_byte(image: Image) -> Image:
    import numpy as np
    import PIL.Image

    levels = np.asarray(image).astype(np.int64) >> 8
    return PIL.Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).convert("RGB")


def _from_pillow(image: Image, limits: MediaLimits) -> Image:
    import PIL.Image

    name = f"Pillow image ({image.mode})"
    check_size(image.width, image.height, name, limits)
    try:
        image.load()
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            front = image.convert("RGBA")
            white = PIL.Image.new("RGBA", front.size, (255, 255, 255, 255))
            return PIL.Image.alpha_composite(white, front).convert("RGB")
        return _to_rgb(image, name)
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name}: cannot be converted to RGB: {error}") from error


def _from_array(source: Any, limits: MediaLimits) -> Image:
    import numpy as np
    import PIL.Image

    array: NDArray[np.uint8] = np.asarray(source)
    name = f"array {array.dtype}{list(array.shape)}"
    if array.dtype != np.uint8:
        raise ImageError(
            f"{name}: only uint8 arrays are images; for floats in 0..1: (array * 255).round().astype('uint8')"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        turned = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = ": transpose(1, 2, 0) puts the channels last" if turned else ""
        raise ImageError(f"{name}: give [height, width] or [height, width, 1, 3 or 4]{hint}")
    check_size(array.shape[1], array.shape[0], name, limits)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    elif array.shape[2] == 4:
        # The reference's formula for arrays: float64, halves to even. It is not Pillow's integer arithmetic.
        alpha = array[..., 3:4] / 255
        array = np.round(alpha * array[..., :3] + (1 - alpha) * 255).astype(np.uint8)
    return PIL.Image.fromarray(np.ascontiguousarray(array))
