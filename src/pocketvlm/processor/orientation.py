"""The display matrix of a frame is reduced to one of eight orientations."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Transpose


def orientation(frame: Any) -> Transpose | None:
    """The Pillow transposition that turns a frame upright, or None if it is upright already.

    FFmpeg hands the same matrix on for the track header of mp4 and mov, the projection of mkv and webm, the display
    orientation of H.264 and HEVC, and the EXIF orientation of JPEG frames. Its entries a, b, c, d map a pixel (x, y) to
    (a x + c y, b x + d y), y downwards. Matrices between the eight orientations are rounded to the nearest one.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    from PIL.Image import Transpose

    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
    ways: dict[tuple[int, int, int, int], Transpose | None] = {
        (1, 0, 0, 1): None,
        (0, 1, -1, 0): Transpose.ROTATE_270,
        (-1, 0, 0, -1): Transpose.ROTATE_180,
        (0, -1, 1, 0): Transpose.ROTATE_90,
        (-1, 0, 0, 1): Transpose.FLIP_LEFT_RIGHT,
        (1, 0, 0, -1): Transpose.FLIP_TOP_BOTTOM,
        (0, 1, 1, 0): Transpose.TRANSPOSE,
        (0, -1, -1, 0): Transpose.TRANSVERSE,
    }
    return ways[max(ways, key=lambda way: way[0] * a + way[1] * b + way[2] * c + way[3] * d)]
