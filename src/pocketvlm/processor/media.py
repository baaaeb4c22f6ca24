"""`load_image` reads an image from a path, URL, data URI, bytes, Pillow or NumPy (docs/model.md 4.1).

| input | orientation tag | transparency, alpha="white" | alpha="reference", as transformers does it |
|---|---|---|---|
| path, file: and http(s): URL, data URI, base64, bytes, file | applied | over white | dropped: stored colours show |
| Pillow image | not applied | over white | over white |
| NumPy array [height, width, 4] | - | over white | over white |

One deliberate difference: transformers clips 16-bit grey levels at 255, which turns nearly every such image white. Here
they keep their high byte, as Pillow does for 16-bit colour.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from pocketvlm.errors import ImageError, PocketVLMError
from pocketvlm.options.media import Alpha
from pocketvlm.processor.alpha import direct_colour, flatten
from pocketvlm.processor.decode import decode
from pocketvlm.processor.limits import MediaLimits, check_bytes, check_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

_BLANKS = " \t\r\n\f\v"
_SCHEME = re.compile(r"(?:data|https?|file):|[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def shorten(text: str, length: int = 80) -> str:
    """A source's name for messages: data URIs and long names are cut, credentials left out."""
    if text[:5].lower() == "data:":
        return f"{text[:30]}... ({len(text)} characters)" if len(text) > 40 else text
    if "://" in text and "@" in text.split("://", 1)[1].split("/", 1)[0]:
        scheme, rest = text.split("://", 1)
        text = f"{scheme}://...@{rest.split('@', 1)[1]}"
    return text if len(text) <= length else f"{text[: length - 20]}...{text[-17:]}"


def trimmed(source: str) -> str:
    """A URI without the ASCII white space around it. Other text stays, because file names may begin with a blank."""
    bare = source.strip(_BLANKS)
    return bare if _SCHEME.match(bare) else source


def load_image(
    source: Any, limits: MediaLimits | None = None, *, is_base64: bool = False, alpha: Alpha = "white"
) -> Image:
    """An RGB Pillow image from any accepted source; see the module's table. The caller's objects are not changed.

    source: str (path, ~ path, file:, http:, https: or data: URI; or base64 text with is_base64), os.PathLike, bytes,
    a binary file object, a Pillow image, or a uint8 NumPy array [height, width] or [height, width, 1 | 3 | 4].
    Of animations and multi-page files the first image counts. Raises ImageError.
    """
    over_white = alpha == "white" or hasattr(source, "getbands") or hasattr(source, "__array_interface__")
    return flatten(read_image(source, limits, is_base64=is_base64), over_white)


def read_image(source: Any, limits: MediaLimits | None = None, *, is_base64: bool = False) -> Image:
    """Like `load_image`, but with transparency: an image in the mode RGB, or RGBA if it has transparency."""
    limits = limits or MediaLimits()
    if isinstance(source, str) and is_base64:
        return decode(from_base64(source, "base64 text", limits), "base64 text", limits)
    if isinstance(source, str | os.PathLike):
        return _from_name(os.fsdecode(source), limits)
    if isinstance(source, bytes | bytearray | memoryview):
        name = f"{len(source)} bytes"
        check_bytes(len(source), name, limits)
        return decode(bytes(source), name, limits)
    # Check for Pillow first, because some of its subclasses also have a `read` method.
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


def locate(source: str, limits: MediaLimits) -> tuple[bytes | Path, str]:
    """The content of a path, file:, http:, https: or data: URI: bytes with their content type, or a file.

    Raises ImageError, also for a path without a regular file.
    """
    if not source:
        raise ImageError("an empty string names no file: give a path, a URL or a data URI")
    source = trimmed(source)
    name = shorten(source)
    scheme = source.split(":", 1)[0].lower() if ":" in source else ""
    if scheme == "data":
        return _from_data_uri(source, name, limits), ""
    if scheme in ("http", "https"):
        if not limits.remote:
            raise ImageError(
                f"{name}: fetching from the network is switched off here: send the data itself, or switch it on with "
                "MediaLimits(remote=True)"
            )
        from pocketvlm.processor.fetch import fetch

        return fetch(source, name, limits)
    if scheme == "file":
        source = _file_path(source, name)
    elif "://" in source:
        raise ImageError(f"{name}: {scheme}: is not supported: use http, https, data or file, or a path")
    if not limits.local_files:
        raise ImageError(
            f"{name}: reading local files is switched off here: send the data as a data URI, or switch it on with "
            "MediaLimits(local_files=True)"
        )
    with readable(name):
        path = Path(source).expanduser()
        if not path.exists():
            raise ImageError(f"{name}: no such file")
        return path, ""


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turns errors of the system about a file into an ImageError that names the file."""
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
    data, name, content_type = content_of(source, limits)
    return decode(data, name, limits, content_type)


def content_of(source: str, limits: MediaLimits) -> tuple[bytes, str, str]:
    """The bytes of a path, file:, http:, https: or data: URI, its name for messages, and its content type, if it has
    one. Raises ImageError.
    """
    name = shorten(trimmed(source))
    found, content_type = locate(source, limits)
    if isinstance(found, bytes):
        return found, name, content_type
    with readable(name):
        check_bytes(regular_file(found, name).stat().st_size, name, limits)
        with found.open("rb") as stream:
            return read_stream(stream, name, limits), name, ""


def regular_file(path: Path, name: str) -> Path:
    """The path itself. Raises ImageError if it is no regular file."""
    if path.is_dir():
        raise ImageError(f"{name}: this is a folder: give it as a video, or one of the images in it")
    if not path.is_file():
        raise ImageError(f"{name}: not a regular file: copy what it holds into one")
    return path


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
    return decode(data, name, limits)


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


def _from_pillow(image: Image, limits: MediaLimits) -> Image:
    name = f"Pillow image ({image.mode})"
    check_size(image.width, image.height, name, limits)
    try:
        image.load()
        return direct_colour(image, name)
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
    return PIL.Image.fromarray(np.ascontiguousarray(array))
