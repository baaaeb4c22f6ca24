"""Cuts pictures into views exactly as the family's processor does, and labels their cells."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

PATCH, SCALE, SLICES, SLOTS, FINE = 14, 168, 4, 4, 2
Size = tuple[int, int]  # height, width


def snap(length: float, unit: int) -> int:
    return max(round(length / unit) * unit, unit)


@dataclass(frozen=True)
class Plan:
    """How a picture is cut: the overview size, the grid of slices and the size of one slice."""

    overview: Size
    rows: int = 0
    cols: int = 0
    slice_size: Size = (0, 0)


def fit(height: float, width: float, unit: int) -> Size:
    ratio = width / height
    height = int(SCALE / math.sqrt(ratio))
    return snap(height, unit), snap(int(height * ratio), unit)


def plan(size: Size, coarse: bool, slices: int = SLICES) -> Plan:
    """The reference rules; small pictures are always enlarged."""
    unit = PATCH * (4 if coarse else 2)
    height, width = size
    wanted = min(math.ceil(height * width / SCALE**2), slices)
    overview = fit(height, width, unit)
    if wanted <= 1:
        return Plan(overview)
    best: tuple[float, int] | None = None
    shape = (1, 1)
    for count in (wanted - 1, wanted, wanted + 1):
        if count == 1 or count > slices:
            continue
        for rows in range(1, count + 1):
            if count % rows == 0:
                error = abs(math.log(width / height) - math.log(count // rows / rows))
                if best is None or (error, -rows) < best:
                    best, shape = (error, -rows), (rows, count // rows)
    rows, cols = shape
    return Plan(overview, rows, cols, fit(snap(height, rows) / rows, snap(width, cols) / cols, unit))


def patchify(image: Image.Image) -> np.ndarray:
    """uint8 [patches, 3*14*14], patches row-major, channel first inside a patch."""
    array = np.asarray(image)
    h, w = array.shape[0] // PATCH, array.shape[1] // PATCH
    return array.reshape(h, PATCH, w, PATCH, 3).transpose(0, 2, 4, 1, 3).reshape(h * w, -1)


def views_of(image: Image.Image, cut: Plan) -> list[tuple[np.ndarray, tuple[float, float, int, int, int, int]]]:
    """The patches of every view with (x scale, y scale, left, top, height, width)."""
    (oh, ow), (w, h) = cut.overview, image.size
    out = [(patchify(image.resize((ow, oh), Image.Resampling.BICUBIC)), (ow / w, oh / h, 0, 0, oh, ow))]
    if cut.rows:
        ph, pw = cut.slice_size
        fine = image.resize((pw * cut.cols, ph * cut.rows), Image.Resampling.BICUBIC)
        sx, sy = pw * cut.cols / w, ph * cut.rows / h
        for r in range(cut.rows):
            for c in range(cut.cols):
                box = (c * pw, r * ph, (c + 1) * pw, (r + 1) * ph)
                out.append((patchify(fine.crop(box)), (sx, sy, box[0], box[1], ph, pw)))
    return out


def cell_labels(things: list, frame: tuple, unit: int, places: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every cell: the classes of the things centred in it, left to right, -1 where crowded; colour and place of one.

    Places are thirds of the view, 1 (top left) to 9 (bottom right).
    """
    sx, sy, left, top, height, width = frame
    rows, cols = height // unit, width // unit
    slots = np.zeros((rows * cols, places), np.int64)
    colour, place = np.zeros(rows * cols, np.int64), np.zeros(rows * cols, np.int64)
    for x, y, label, tint in sorted(things):
        i, j = math.floor((y * sy - top) / unit), math.floor((x * sx - left) / unit)
        if 0 <= i < rows and 0 <= j < cols:
            cell = i * cols + j
            used = int((slots[cell] > 0).sum())
            if used == places or slots[cell, 0] < 0:
                slots[cell] = -1
                continue
            slots[cell, used] = label
            if used == 0:
                colour[cell] = tint
                down, across = (y * sy - top) / height, (x * sx - left) / width
                place[cell] = 1 + 3 * min(2, int(3 * down)) + min(2, int(3 * across))
    return slots, colour, place


def placeholder(cut: Plan, index: int, coarse: bool) -> str:
    """The text which stands for a picture in the prompt."""

    def pads(size: Size) -> str:
        return "<|image_pad|>" * (size[0] * size[1] // PATCH**2 // (16 if coarse else 4))

    rows = ["".join(f"<slice>{pads(cut.slice_size)}</slice>" for _ in range(cut.cols)) for _ in range(cut.rows)]
    return f"<image_id>{index}</image_id><image>{pads(cut.overview)}</image>" + "\n".join(rows)
