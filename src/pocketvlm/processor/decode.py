"""`decode` turns the bytes of an image into an upright Pillow image, RGB or RGBA."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO

from pocketvlm.errors import ImageError
from pocketvlm.processor.alpha import direct_colour
from pocketvlm.processor.formats import HEAD, HEIC, READ, no_picture, recognize
from pocketvlm.processor.limits import MediaLimits, check_size, past_pillow
from pocketvlm.processor.metadata import upright, without_metadata

if TYPE_CHECKING:
    from PIL.Image import Image


def decode(data: bytes, name: str, limits: MediaLimits, content_type: str = "") -> Image:
    """The image in a file's bytes, upright; RGBA if it has transparency, else RGB. Raises ImageError.

    Metadata that cannot be read (ICC profiles, texts, EXIF, resolution) never makes an image unreadable.
    """
    if not data:
        raise ImageError(f"{name}: empty, no image data")
    from PIL import ImageFile, UnidentifiedImageError
    from PIL.Image import DecompressionBombError, DecompressionBombWarning

    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError(
            f"{name}: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, so broken files would pass: switch it off"
        )
    found = recognize(data[:HEAD])
    try:
        if found is not None and found.name == HEIC:
            return direct_colour(_heic(data, name, limits), name)
        if found is not None and found.name == "AVIF":
            _check_avif(name)
        try:
            return _pillow(data, name, limits)
        except (ImageError, DecompressionBombError, DecompressionBombWarning):
            raise
        except Exception:  # also a warning of Pillow, where warnings are errors
            bare = without_metadata(data)
            if bare == data:
                raise
            return _pillow(bare, name, limits)
    except ImageError:
        raise
    except (DecompressionBombError, DecompressionBombWarning) as error:
        raise ImageError(past_pillow(error, name, limits.max_pixels, "max_pixels")) from None
    except Exception as error:  # decoders of broken files raise OSError, SyntaxError, ValueError, struct.error, ...
        if found is None or isinstance(error, UnidentifiedImageError):
            told = f", sent as {content_type}" if content_type else ""
            raise ImageError(f"{name}: {no_picture(data[:HEAD])}{told}") from None
        raise ImageError(f"{name}: damaged or incomplete {found.name} file: {' '.join(str(error).split())}") from error


def _pillow(data: bytes, name: str, limits: MediaLimits) -> Image:
    image = open_picture(io.BytesIO(data), data[:16], name, limits)
    # Turning the image upright makes a new image that no longer knows its format.
    from_png = image.format == "PNG"
    if from_png:
        _scale_key(image)
    image.load()
    return direct_colour(upright(image), name, from_png)


def open_picture(stream: BinaryIO, head: bytes, name: str, limits: MediaLimits) -> Image:
    """An image whose header was read and whose size was checked, but not its pixels. Raises what Pillow raises."""
    import contextlib

    import PIL.Image
    import PIL.TiffImagePlugin  # registers its format without loading every plugin
    import PIL.WebPImagePlugin

    with contextlib.suppress(ImportError):  # before Pillow 11.3; `_check_avif` says what to do
        import PIL.AvifImagePlugin
    PIL.Image.preinit()
    plugins = [PIL.Image.OPEN[form] for form in READ if form in PIL.Image.OPEN]
    open_file = next((factory for factory, accept in plugins if accept and accept(head) is True), None)
    if open_file is None:
        raise PIL.UnidentifiedImageError
    # Not PIL.Image.open: its limit holds for the whole process, and here `max_pixels` rules.
    image: Image = open_file(stream, "")
    check_size(image.width, image.height, name, limits)
    return image


def _scale_key(image: Image) -> None:
    """Bring the transparent colour of a PNG file to the levels that Pillow's pixels have: it leaves it as stored."""
    key = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    raw = tile[0][3] if tile else ""
    raw = raw if isinstance(raw, str) else raw[0]
    if isinstance(key, tuple) and raw == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in key)
    elif isinstance(key, int) and raw in ("1", "L;2", "L;4"):
        image.info["transparency"] = key * {"1": 255, "L;2": 85, "L;4": 17}[raw]


def _check_avif(name: str) -> None:
    from PIL import features

    if not ("avif" in features.modules and features.check("avif")):
        raise ImageError(
            f"{name}: AVIF images need Pillow 11.3 or later with AVIF in it: pip install --upgrade Pillow, or save "
            "it as PNG or JPEG"
        )


def _heic(data: bytes, name: str, limits: MediaLimits) -> Image:
    """The main image of a HEIC file; libheif turns it upright itself."""
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(
            f"{name}: HEIC images need the package pillow-heif: pip install 'pocketvlm[heic]', or save it as PNG or "
            "JPEG"
        ) from None
    import PIL.Image

    # Not register_heif_opener: it would change what Pillow opens in the whole process.
    file: Any = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
    found = file[file.primary_index]
    check_size(found.size[0], found.size[1], name, limits)
    return PIL.Image.frombytes(found.mode, found.size, bytes(found.data), "raw", found.mode, found.stride)
