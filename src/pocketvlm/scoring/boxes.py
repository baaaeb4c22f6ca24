"""Boxes in texts, and the intersection over union (IoU) of those in an answer with those of a reference.

Coordinates run from 0 to 1000 over the width and the height of the image: left, top, right, bottom.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

LIMIT = 1000
_NUMBER = r"-?\d+(?:\.\d+)?"
# Also without its end tag, where an answer was cut.
_TAGGED = re.compile(r"<(?:box|\|box_start\|)>(.*?)(?:</box>|<\|box_end\|>|(?=<box>|<\|box_start\|>)|\Z)", re.DOTALL)
_PAIR = rf"\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)"
_PLAIN = re.compile(rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}\s*\]|{_PAIR}\s*,?\s*{_PAIR}")


class Box(NamedTuple):
    """Edges of a box. One whose right edge is left of its left edge, or whose bottom is above its top, has no area."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Width times height; 0 for edges in the wrong order."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)


def find_boxes(text: str) -> list[Box]:
    """The boxes of a text, in order.

    Those in `<box>x1 y1 x2 y2</box>`, which MiniCPM-V writes, or between `<|box_start|>` and `<|box_end|>`, with any
    characters between the numbers, and several boxes of four numbers in one tag. Without such a tag, [x1, y1, x2, y2]
    and (x1, y1), (x2, y2), also as values of JSON. A tag whose numbers are no multiple of four is not read.
    """
    found = [match[1] for match in _TAGGED.finditer(text)] or [match[0] for match in _PLAIN.finditer(text)]
    boxes = []
    for part in found:
        numbers = [float(number) for number in re.findall(_NUMBER, part)]
        if len(numbers) % 4 == 0:
            boxes += [Box(*numbers[index : index + 4]) for index in range(0, len(numbers), 4)]
    return boxes


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, areas of real numbers (Everingham et al. 2010, Pascal VOC, section 4.2)."""
    width = min(first.right, second.right) - max(first.left, second.left)
    height = min(first.bottom, second.bottom) - max(first.top, second.top)
    shared = max(0.0, width) * max(0.0, height)
    if shared == 0 or first.area == 0 or second.area == 0:
        return 0.0
    return shared / (first.area + second.area - shared)


def iou(answer: str, reference: str) -> float:
    """Sum of the overlaps of matched boxes over the number of boxes of that text which has more of them.

    Boxes are matched one to one so that the sum is the largest. So each missing box, and each surplus one, counts as 0.
    """
    found, wanted = find_boxes(answer), find_boxes(reference)
    if not found or not wanted:
        return 0.0
    fewer, more = sorted((found, wanted), key=len)
    overlaps = [[overlap(one, other) for other in more] for one in fewer]
    return sum(overlaps[row][column] for row, column in enumerate(assign(overlaps))) / len(more)


def assign(gains: Sequence[Sequence[float]]) -> list[int]:
    """The column of each row, all different, with the largest sum of gains; there are as many columns as rows, or more.

    The Hungarian method (Kuhn 1955) with potentials: shortest augmenting paths, rows^2 * columns steps.
    """
    columns = len(gains[0])
    row_potentials = [0.0] * len(gains)
    column_potentials = [0.0] * (columns + 1)
    row_of = [-1] * (columns + 1)  # the last column is where the row that is added starts
    for row in range(len(gains)):
        row_of[columns] = row
        column = columns
        distances, before = [float("inf")] * columns, [columns] * columns
        visited = [False] * (columns + 1)
        while row_of[column] >= 0:
            visited[column] = True
            current = row_of[column]
            for other in range(columns):
                if not visited[other]:
                    cost = -gains[current][other] - row_potentials[current] - column_potentials[other]
                    if cost < distances[other]:
                        distances[other], before[other] = cost, column
            nearest = min((other for other in range(columns) if not visited[other]), key=distances.__getitem__)
            step = distances[nearest]
            for other in range(columns + 1):
                if visited[other]:
                    row_potentials[row_of[other]] += step
                    column_potentials[other] -= step
                elif other < columns:
                    distances[other] -= step
            column = nearest
        while column != columns:
            row_of[column] = row_of[before[column]]
            column = before[column]
    found = [-1] * len(gains)
    for column in range(columns):
        if row_of[column] >= 0:
            found[row_of[column]] = column
    return found
