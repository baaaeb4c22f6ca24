"""Boxes are found in all spellings, matched one to one, and scored by their intersection over union."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.scoring.boxes import Box, assign, find_boxes, iou, overlap

EDGE = st.integers(0, 20)
BOX = st.builds(Box, EDGE, EDGE, EDGE, EDGE)
ONE, TWO = Box(1, 2, 3, 4), Box(5, 6, 7.5, 8)


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("<box>1 2 3 4</box>", [ONE]),
        ("<ref>cat</ref><box>1 2 3 4</box> and <box>5 6 7.5 8</box>.", [ONE, TWO]),
        ("<box>[[1, 2, 3, 4], [5, 6, 7.5, 8]]</box>", [ONE, TWO]),
        ("<|box_start|>(1,2),(3,4)<|box_end|>", [ONE]),
        ("It is at [1, 2, 3, 4].", [ONE]),
        ("(1, 2), (3, 4)", [ONE]),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6, 7.5, 8]}]', [ONE, TWO]),
        ("[[1, 2, 3, 4], [5, 6, 7.5, 8]]", [ONE, TWO]),
        ("<box>1 2 3 4", [ONE]),
        ("<box>1 2 3 4<box>5 6 7.5 8</box>", [ONE, TWO]),
        ("<box>1 2 3</box>", []),
        ("[9, 9, 9, 9] <box>1 2 3 4</box>", [ONE]),
        ("[1, 2, 3]", []),
        ("in 1 2 3 4 steps", []),
        ("<point>1 2</point>", []),
        ("", []),
    ],
)
def test_boxes_are_found(text: str, boxes: list[Box]) -> None:
    assert find_boxes(text) == boxes


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        (Box(0, 0, 10, 10), Box(0, 0, 10, 10), 1),
        (Box(0, 0, 10, 10), Box(5, 0, 15, 10), 50 / 150),
        (Box(0, 0, 10, 10), Box(5, 5, 15, 15), 25 / 175),
        (Box(0, 0, 10, 10), Box(10, 0, 20, 10), 0),
        (Box(0, 0, 10, 10), Box(2, 2, 4, 4), 4 / 100),
        (Box(10, 0, 0, 10), Box(0, 0, 10, 10), 0),
        (Box(5, 5, 5, 5), Box(5, 5, 5, 5), 0),
        (Box(10, 10, 0, 0), Box(10, 10, 0, 0), 0),
    ],
)
def test_overlap(first: Box, second: Box, share: float) -> None:
    assert overlap(first, second) == pytest.approx(share)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("<box>0 0 10 10</box>", "[5, 0, 15, 10]", 1 / 3),
        ("nothing", "[0, 0, 10, 10]", 0),
        # In another order; then one missing; then one too many.
        ("[20, 20, 30, 30] [0, 0, 10, 10]", "[0, 0, 10, 10] [20, 20, 30, 30]", 1),
        ("[0, 0, 10, 10]", "[0, 0, 10, 10] [20, 20, 30, 30]", 1 / 2),
        ("[0, 0, 10, 10] [20, 20, 30, 30] [40, 40, 50, 50]", "[0, 0, 10, 10] [20, 20, 30, 30]", 2 / 3),
        # The nearest pair first would leave 0 for the other: 1/3 + 0 < 9/11 + 1/3 is what matching finds.
        ("[0, 0, 10, 10] [1, 0, 11, 10]", "[6, 0, 16, 10] [0, 0, 10, 10]", (1 + 1 / 3) / 2),
    ],
)
def test_iou_of_texts(answer: str, reference: str, score: float) -> None:
    assert iou(answer, reference) == pytest.approx(score)


@given(BOX, BOX)
def test_overlap_is_a_symmetric_share(first: Box, second: Box) -> None:
    assert 0 <= overlap(first, second) <= 1
    assert overlap(first, second) == overlap(second, first)
    assert overlap(first, first) == (1 if first.area else 0)


@given(BOX, BOX)
def test_overlap_counts_cells(first: Box, second: Box) -> None:
    cells = [
        {(x, y) for x in range(int(b.left), int(b.right)) for y in range(int(b.top), int(b.bottom))}
        for b in (first, second)
    ]
    union = len(cells[0] | cells[1])
    assert overlap(first, second) == pytest.approx(len(cells[0] & cells[1]) / union if union else 0)


@settings(max_examples=60)
@given(st.integers(1, 4).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(rows, 5))), st.data())
def test_assignment_has_the_largest_sum(shape: tuple[int, int], data: st.DataObject) -> None:
    rows, columns = shape
    gains = [[data.draw(st.integers(0, 9)) / 9 for _ in range(columns)] for _ in range(rows)]
    chosen = assign(gains)
    assert len(set(chosen)) == rows
    best = max(sum(gains[r][c] for r, c in enumerate(order)) for order in permutations(range(columns), rows))
    assert sum(gains[row][column] for row, column in enumerate(chosen)) == pytest.approx(best)


@given(st.lists(BOX, min_size=1, max_size=4), st.lists(BOX, min_size=1, max_size=4))
def test_iou_is_symmetric(answer: list[Box], reference: list[Box]) -> None:
    first, second = ("".join(f"<box>{' '.join(map(str, box))}</box>" for box in each) for each in (answer, reference))
    assert iou(first, second) == pytest.approx(iou(second, first))
    assert 0 <= iou(first, second) <= 1
