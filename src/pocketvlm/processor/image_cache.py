"""The views of a conversation's pictures are cached, so that a second question does not cut them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pocketvlm.lru import LRU
from pocketvlm.processor.image import Patches
from pocketvlm.processor.sizes import ImageOptions, Layout, describe
from pocketvlm.types import ImageInfo

# Six pictures of nine views each, as the released checkpoint cuts them.
DEFAULT_LIMIT = 128 << 20


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded and cut image."""

    width: int
    height: int
    layout: Layout
    options: ImageOptions
    views: tuple[Patches, ...]

    def describe(self, tokens: int) -> ImageInfo:
        """The public summary; `tokens` counts the whole block with its markers."""
        return describe(self.width, self.height, self.layout, self.options, tokens)


class KeptPictures:
    """Cut pictures by the object they were made of, those used last kept. Whoever keeps them changes no such object."""

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        """limit: bytes of patches."""
        self._limit = limit
        # The source is cached with its picture, so that no other object gets its id.
        self._pictures: LRU[tuple[int, ImageOptions], tuple[Any, Picture]] = LRU(limit, lambda pair: _nbytes(pair[1]))

    def find(self, source: Any, options: ImageOptions) -> Picture | None:
        """The picture that was made of this very object with these options, if it is kept."""
        found = self._pictures.use((id(source), options))
        return None if found is None else found[1]

    def keep(self, source: Any, options: ImageOptions, picture: Picture) -> None:
        """Keep a picture; those used longest ago go for it. Names of files are not kept: the files may change."""
        if isinstance(source, str) or _nbytes(picture) > self._limit:
            return
        self._pictures.put((id(source), options), (source, picture))


def _nbytes(picture: Picture) -> int:
    return sum(view.patches.nbytes for view in picture.views)
