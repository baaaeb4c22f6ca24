"""Pages of PDF files are rendered as images with pypdfium2 (extra `pdf`)."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import ImageError, OptionError
from pocketvlm.processor.limits import MediaLimits

if TYPE_CHECKING:
    from PIL.Image import Image

DPI = 144
# PDFium is not made for several threads, and a server calls it from several.
_PDFIUM = threading.Lock()
# Larger pages are drawn smaller, because longer sides would not get more slices.
LONGEST = 4096


def page_count(path: Path) -> int:
    """How many pages a PDF file has. Raises ImageError, or OptionError where pypdfium2 is not installed."""
    with _PDFIUM:
        pdf = _open(path)
        try:
            return len(pdf)
        finally:
            pdf.close()


def draw_page(path: Path, number: int, limits: MediaLimits | None = None) -> Image:
    """Page `number`, from 1, as an RGB image at 144 dots an inch. Raises ImageError, or OptionError."""
    with _PDFIUM:
        return _draw(path, number, limits or MediaLimits())


def _draw(path: Path, number: int, limits: MediaLimits) -> Image:
    pdf = _open(path)
    try:
        if not 1 <= number <= len(pdf):
            raise ImageError(f"{path.name}: there is no page {number}: it has pages 1 to {len(pdf)}")
        page = pdf[number - 1]
        width, height = page.get_size()
        if not (width > 0 and height > 0):
            raise ImageError(f"{path.name}: page {number} has no area")
        if max(width, height) > limits.max_ratio * min(width, height):
            raise ImageError(f"{path.name}: page {number} is longer than {limits.max_ratio:g}:1")
        scale = min(DPI / 72, LONGEST / max(width, height))
        image: Image = page.render(scale=scale).to_pil().convert("RGB")
        return image
    except ImageError:
        raise
    except Exception as error:  # pypdfium2 raises its own error, and others for damaged objects
        raise ImageError(f"{path.name}: page {number} cannot be drawn: {error}") from error
    finally:
        pdf.close()


def _open(path: Path) -> Any:
    try:
        import pypdfium2
    except ImportError:
        raise OptionError(f"{path.name}: PDF pages need the package pypdfium2: pip install 'pocketvlm[pdf]'") from None
    try:
        return pypdfium2.PdfDocument(path)
    except FileNotFoundError:
        raise ImageError(f"{path.name}: no such file") from None
    except pypdfium2.PdfiumError as error:
        raise ImageError(f"{path.name}: cannot be read as a PDF: {error}") from None
