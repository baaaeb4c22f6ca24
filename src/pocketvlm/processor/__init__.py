"""The processor turns messages and media into token ids and patches before the model runs.

`Processor` turns a conversation into a `Prompt`; the other names are its parts, usable alone. Names load on first use,
so that importing this package loads neither Pillow nor tokenizers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketvlm.options.media import ImageOptions, VideoOptions
    from pocketvlm.processor.chat import ChatTemplate
    from pocketvlm.processor.image import pack_pixel_values, plan_image, prepare_image
    from pocketvlm.processor.limits import MediaLimits
    from pocketvlm.processor.media import load_image
    from pocketvlm.processor.processor import Processor
    from pocketvlm.processor.tokenizer import Detokenizer, Tokenizer

__all__ = [
    "ChatTemplate",
    "Detokenizer",
    "ImageOptions",
    "MediaLimits",
    "Processor",
    "Tokenizer",
    "VideoOptions",
    "load_image",
    "pack_pixel_values",
    "plan_image",
    "prepare_image",
]

_HOME = {
    "ChatTemplate": "processor.chat",
    "Detokenizer": "processor.tokenizer",
    "ImageOptions": "options.media",
    "MediaLimits": "processor.limits",
    "Processor": "processor.processor",
    "Tokenizer": "processor.tokenizer",
    "VideoOptions": "options.media",
    "load_image": "processor.media",
    "pack_pixel_values": "processor.image",
    "plan_image": "processor.image",
    "prepare_image": "processor.image",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"pocketvlm.{_HOME[name]}"), name)
