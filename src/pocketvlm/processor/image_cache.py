"""The views of a conversation's images are cached, so that a second question does not cut them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pocketvlm.lru import LRU
from pocketvlm.options.media import ImageOptions
from pocketvlm.processor.image import Patches
from pocketvlm.processor.sizes import Layout, describe
from pocketvlm.types import ImageInfo

# Bytes: six images of nine views each, as the released checkpoint cuts them.
DEFAULT_LIMIT = 128 << 20


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """One image, decoded and cut into views."""

    width: int
    height: int
    layout: Layout
    options: ImageOptions
    views: tuple[Patches, ...]

    def describe(self, tokens: int) -> ImageInfo:
        """The public summary; `tokens` counts the whole block with its markers."""
        return describe(self.width, self.height, self.layout, self.options, tokens)


class ImageCache:
    """Images cut into views, by the source object and its options; the least recently used are evicted.

    Callers must not change a source object while its image is cached.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        """limit: bytes of patches."""
        self._limit = limit
        # The source is cached with its image, so that no other object can get its id.
        self._images: LRU[tuple[int, ImageOptions], tuple[Any, PreparedImage]] = LRU(
            limit, lambda pair: _nbytes(pair[1])
        )

    def find(self, source: Any, options: ImageOptions) -> PreparedImage | None:
        """The cached image of this very object with these options, or None."""
        found = self._images.use((id(source), options))
        return None if found is None else found[1]

    def put(self, source: Any, options: ImageOptions, image: PreparedImage) -> None:
        """Cache an image; may evict others. Sources that are file names are not cached, because files may change."""
        if isinstance(source, str) or _nbytes(image) > self._limit:
            return
        self._images.put((id(source), options), (source, image))


def _nbytes(image: PreparedImage) -> int:
    return sum(view.patches.nbytes for view in image.views)
