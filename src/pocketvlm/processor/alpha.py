"""Transparency is removed here: RGBA pixels become RGB, over white unless asked otherwise.

One formula for every input: level = colour * alpha / 255 + (255 - alpha), rounded to the nearest whole number. There
are no ties, as 255 is odd. It is what Pillow's `alpha_composite` computes, and what float64 arithmetic rounds to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pocketvlm.errors import ImageError, VideoError
from pocketvlm.options.media import Alpha

if TYPE_CHECKING:
    from PIL.Image import Image

# Codecs of WebM files and the decoders that read their transparency; FFmpeg's own decoders ignore it.
_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def flatten(image: Image, over_white: bool) -> Image:
    """RGB of an RGB or RGBA image. over_white: False shows the colours that transparent pixels have stored."""
    import PIL.Image

    if image.mode == "RGB":
        return image
    if not over_white:
        return image.convert("RGB")
    white = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
    return PIL.Image.alpha_composite(white, image).convert("RGB")


def direct_colour(image: Image, name: str, from_png: bool = False) -> Image:
    """RGBA of an image that has transparency in any form, else RGB. Raises ImageError for 32-bit pixels.

    from_png: older Pillow gives 16-bit grey PNG files the mode I.
    """
    key = image.info.get("transparency")
    if image.mode.startswith("I;16") or (image.mode == "I" and from_png):
        return _high_byte(image, key)
    if image.mode in ("I", "F"):
        raise ImageError(
            f"{name}: {image.mode!r} pixels (32-bit) have no fixed range: scale them to 8 bits per channel first"
        )
    if image.mode == "La":  # premultiplied grey converts to LA only
        image = image.convert("LA")
    transparent = bool({"A", "a"} & set(image.getbands())) or key is not None
    mode = "RGBA" if transparent else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _high_byte(image: Image, key: Any) -> Image:
    """16-bit grey levels as 8-bit ones; the level `key`, if there is one, is transparent."""
    import numpy as np
    import PIL.Image

    levels = np.asarray(image).astype(np.int64)
    grey = PIL.Image.fromarray(np.clip(levels >> 8, 0, 255).astype(np.uint8))
    if not isinstance(key, int):
        return grey.convert("RGB")
    mask = PIL.Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8))
    return PIL.Image.merge("RGBA", (grey, grey, grey, mask))


def decoder_of(stream: Any, name: str, alpha: Alpha) -> Any:
    """The decoder for the packets of a PyAV stream, with their transparency where it is wanted. Raises VideoError."""
    context = stream.codec_context
    library = _DECODERS.get(context.name)
    # FFmpeg writes the name in capitals where it copies a stream.
    modes = {value for key, value in stream.metadata.items() if key.lower() == "alpha_mode"}
    if library is None or alpha == "reference" or "1" not in modes:
        return context
    from pocketvlm.processor.container import load_pyav

    av = load_pyav()
    if library not in av.codecs_available:
        raise VideoError(f"{name}: its transparency needs the decoder {library}: give alpha='reference'")
    other = av.CodecContext.create(library, "r")
    other.options = context.options
    return other


def frame_image(frame: Any, alpha: Alpha) -> Image:
    """RGB of a frame of PyAV."""
    import PIL.Image

    over_white = alpha == "white" and any(part.is_alpha for part in frame.format.components)
    return flatten(PIL.Image.fromarray(frame.to_ndarray(format="rgba" if over_white else "rgb24")), over_white)
