"""A pending image has its size and views from its header; its pixels are decoded when a view is loaded."""

from __future__ import annotations

import hashlib
import io
import threading
from dataclasses import asdict, dataclass
from typing import Literal

from pocketvlm.config import ProcessorConfig
from pocketvlm.options.media import ImageOptions
from pocketvlm.processor.headers import picture_size, source_size
from pocketvlm.processor.image import Patches, prepare_image
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.media import content_of, load_image
from pocketvlm.processor.sizes import Layout, describe, plan_layout, view_tokens
from pocketvlm.types import ImageInfo, PendingView, View

# What is read before a view is loaded: the header, for its size; or the whole file, for digests of the views too.
Pending = Literal["size", "digest"]


@dataclass(frozen=True, slots=True, eq=False)
class PendingImage:
    """One image whose pixels are not decoded yet; otherwise as `image_cache.PreparedImage`."""

    width: int
    height: int
    layout: Layout
    options: ImageOptions
    views: tuple[PendingView, ...]

    def describe(self, tokens: int) -> ImageInfo:
        """The public summary; `tokens` counts the whole block with its markers."""
        return describe(self.width, self.height, self.layout, self.options, tokens)


class _Decoder:
    """Makes the views of one picture, all at once. Any thread may call it."""

    def __init__(self, source: str, options: ImageOptions, config: ProcessorConfig, limits: MediaLimits) -> None:
        self._source, self._options, self._config, self._limits = source, options, config, limits
        self._lock = threading.Lock()
        self._views: tuple[Patches, ...] | None = None

    def prepare(self, number: int, timeout: float = 0.0) -> bool:
        """Views are made by `load`, on the caller's thread, so there is nothing to wait for."""
        return True

    def load(self, number: int, part: int) -> View:
        """View `part`, with start 0. Raises ImageError."""
        with self._lock:
            if self._views is None:
                image = load_image(self._source, self._limits, alpha=self._options.alpha)
                self._views = prepare_image(image, self._options, self._config)
        return self._views[part].at(0)


def pending_image(
    source: str, options: ImageOptions, config: ProcessorConfig, limits: MediaLimits, pending: Pending
) -> PendingImage:
    """The image that a path, URL or data URI names. Raises ImageError.

    Digests of its views are over the file and the options, not over pixels; "" where only the size is wanted.
    """
    content = b""
    if pending == "digest":
        data, name, _ = content_of(source, limits)
        width, height = picture_size(io.BytesIO(data), name, limits)
        content = hashlib.sha256(data).digest() + f"{asdict(options)}".encode()
    else:
        width, height = source_size(source, limits)
    layout = plan_layout(width, height, options)
    rows, cols = layout.grid or (0, 0)
    decoder = _Decoder(source, options, config, limits)
    views = []
    for part, size in enumerate([layout.overview, *[layout.slice_size or (0, 0)] * (rows * cols)]):
        digest = hashlib.sha256(b"image %d\n" % part + content).hexdigest() if content else ""
        grid = size[0] // options.patch_size, size[1] // options.patch_size
        tokens = view_tokens(size, options)
        views.append(PendingView(decoder, 0, part, *grid, options.downsample_mode, 0, tokens, digest))
    return PendingImage(width, height, layout, options, tuple(views))
