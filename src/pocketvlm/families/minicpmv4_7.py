"""MiniCPM-V 4.7: positions in three dimensions put the views of each picture on one canvas (docs/model.md 10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from pocketvlm.families.family import Family, Markers
from pocketvlm.types import PendingView, RotaryPositions, View

Ints = NDArray[np.int32]
# Patches along each side of the square that becomes one token.
_MERGED_SIDE = {"16x": 4, "4x": 2}


@dataclass(frozen=True, slots=True)
class _Crop:
    """The tokens start..stop of one view, row by row of a grid of height x width tokens."""

    start: int
    stop: int
    height: int
    width: int

    @classmethod
    def of(cls, view: View | PendingView) -> _Crop:
        side = _MERGED_SIDE[view.downsample_mode]
        return cls(view.start, view.start + view.tokens, view.rows // side, view.cols // side)


@dataclass(frozen=True, slots=True)
class _Picture:
    """An image or a frame of a video: its overview, and the slices that tile its canvas row by row."""

    overview: _Crop
    slices: tuple[_Crop, ...]

    @property
    def columns(self) -> int:
        """Slices in a row: between two rows lies a line break, so the first wide gap ends the first row."""
        count = len(self.slices)
        columns = next((i for i in range(1, count) if self._row_ends(i)), count)
        return columns if columns and count % columns == 0 else count

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width in tokens: of all slices together, or of the overview where there are none."""
        if not self.slices:
            return self.overview.height, self.overview.width
        first, columns = self.slices[0], self.columns
        return len(self.slices) // columns * first.height, columns * first.width

    def _row_ends(self, index: int) -> bool:
        """Whether more than the two slice markers separate slice `index` from the one before."""
        return self.slices[index].start - self.slices[index - 1].stop > 2

    def place(self, values: Ints, stop: int, origin: int) -> None:
        """Write the positions of the picture's tokens, from its start marker to `stop`, for a canvas at `origin`."""
        overview, (height, width) = self.overview, self.canvas
        start = max(overview.start - 1, 0)
        values[:, start:stop] = origin
        values[1:, start] = max(origin - 1, 0)
        if overview.stop < stop:
            values[1:, overview.stop] = origin + height, origin + width
        rows, columns = _spread(height, overview.height), _spread(width, overview.width)
        _place_grid(values, overview, origin + rows, origin + columns)
        if self.slices:
            self._place_slices(values, stop, origin)

    def _place_slices(self, values: Ints, stop: int, origin: int) -> None:
        first, columns = self.slices[0], self.columns
        for index, crop in enumerate(self.slices):
            top = origin + index // columns * first.height
            left = origin + index % columns * first.width
            values[1:, crop.start - 1] = top, left
            if crop.stop < stop:
                values[1:, crop.stop] = top + crop.height - 1, left + crop.width - 1
            _place_grid(values, crop, top + np.arange(crop.height), left + np.arange(crop.width))
        for index in range(1, len(self.slices)):
            if self._row_ends(index):
                bottom = origin + ((index - 1) // columns + 1) * first.height - 1
                between = slice(self.slices[index - 1].stop + 1, self.slices[index].start - 1)
                values[1, between], values[2, between] = bottom, origin + columns * first.width


def _spread(length: int, count: int) -> NDArray[np.int64]:
    """`count` whole numbers evenly from 0 to length - 1, int64 [count].

    The reference rounds values of torch.linspace, which counts in float32 from both ends; so halves round as they do
    there.
    """
    if count == 1:
        return np.zeros(1, np.int64)
    end, indices = np.float32(length - 1), np.arange(count, dtype=np.float32)
    step = end / np.float32(count - 1)
    values = np.where(indices < count // 2, step * indices, end - step * indices[::-1])
    return np.rint(values).astype(np.int64)


def _place_grid(values: Ints, crop: _Crop, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
    values[1, crop.start : crop.stop] = np.repeat(rows, crop.width)
    values[2, crop.start : crop.stop] = np.tile(columns, crop.height)


def _pictures(ids: Ints, views: Sequence[View | PendingView], markers: Markers) -> Iterator[_Picture]:
    """A view after a slice marker is a slice of the picture before it; any other view begins a picture."""
    crops = [_Crop.of(view) for view in views]
    first = 0
    for index in range(1, len(crops) + 1):
        if index == len(crops) or ids[crops[index].start - 1] != markers.slice_start:
            yield _Picture(crops[first], tuple(crops[first + 1 : index]))
            first = index


def canvas_positions(ids: Ints, views: Sequence[View | PendingView], markers: Markers) -> RotaryPositions:
    """Positions of a prompt: int32 [3, tokens] for time, height and width (docs/model.md 10.2).

    ids: int32 [tokens]. views: in reading order, each with a token before it.
    """
    values = np.empty((3, len(ids)), np.int32)
    known = frozenset(astuple(markers))
    origin = index = 0  # the next position, and the first token without one
    for picture in _pictures(ids, views, markers):
        start = picture.overview.start - 1
        if start > index:
            values[:, index:start] = np.arange(origin, origin + start - index)
            origin += start - index
        index = picture.slices[-1].stop if picture.slices else picture.overview.stop
        while index < len(ids) and int(ids[index]) in known:
            index += 1
        picture.place(values, index, origin)
        origin += max(picture.canvas) + 1
    values[:, index:] = np.arange(origin, origin + len(ids) - index)
    return RotaryPositions(values, int(values.max()) + 1 - len(ids))


MINICPMV4_7 = Family(
    name="MiniCPM-V 4.7",
    model_type="minicpmv4_7",
    vision_type="minicpmv4_7_vision",
    architecture="MiniCPMV4_7ForConditionalGeneration",
    mrope_section=(11, 11, 10),
    positions=canvas_positions,
    video_id_tag=False,
)
