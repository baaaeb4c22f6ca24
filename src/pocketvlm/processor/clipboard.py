"""`clipboard()` reads an image from the desktop's clipboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketvlm.errors import ImageError
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.media import read_image

if TYPE_CHECKING:
    from PIL.Image import Image


def clipboard() -> Image | list[str]:
    """The copied image, RGB or RGBA, or the paths of copied files. Raises ImageError if it has neither."""
    from PIL import ImageGrab

    try:
        found = ImageGrab.grabclipboard()
    except NotImplementedError:
        raise ImageError(
            "the clipboard cannot be read here: install wl-clipboard (Wayland) or xclip (X11), or give a path"
        ) from None
    except Exception as error:  # the programs that Pillow asks fail in ways of their own
        raise ImageError(f"the clipboard cannot be read: {' '.join(str(error).split())}: give a path") from error
    if found is None or (isinstance(found, list) and not found):
        raise ImageError("the clipboard holds no image: copy one first, or give a path")
    return [str(name) for name in found] if isinstance(found, list) else read_image(found, MediaLimits())
