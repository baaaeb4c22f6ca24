"""Positions of MiniCPM-V 4.7 on many layouts: exactly those of transformers' own function."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from oracle import MARKERS, Layout, canvas_prompt, config_dict, hub_config, modalities

from pocketvlm.families import MINICPMV4_7
from pocketvlm.families.minicpmv4_7 import _spread, canvas_positions
from pocketvlm.types import DownsampleMode, Prompt


@cache
def reference_model() -> Any:
    from transformers.models.minicpmv4_7.modeling_minicpmv4_7 import MiniCPMV4_7Model

    with torch.device("meta"):
        return MiniCPMV4_7Model(hub_config(config_dict(family=MINICPMV4_7)))


def reference_positions(prompt: Prompt) -> tuple[np.ndarray, int]:
    """Positions [3, tokens] and delta of transformers."""
    types = modalities(prompt)
    sizes = [
        torch.tensor([(v.rows, v.cols) for v in prompt.views if types[0, v.start] == kind]).view(-1, 2)
        for kind in (1, 2)
    ]
    values, delta = reference_model().get_rope_index(
        torch.from_numpy(prompt.ids.astype(np.int64))[None],
        mm_token_type_ids=types,
        target_sizes=sizes[0],
        target_sizes_videos=sizes[1],
        downsample_mode=prompt.views[0].downsample_mode if prompt.views else None,
    )
    return values[:, 0].numpy(), int(delta)


def check(prompt: Prompt) -> None:
    ours = canvas_positions(prompt.ids, prompt.views, MARKERS)
    values, delta = reference_positions(prompt)
    np.testing.assert_array_equal(ours.values, values)
    assert ours.values.dtype == np.int32
    assert ours.delta == delta


def random_layouts(random: np.random.Generator, mode: DownsampleMode) -> list[Layout]:
    """Pictures and frames with and without slices, with text, line breaks or nothing between them."""
    side = 4 if mode == "16x" else 2

    def size(maximum: int) -> tuple[int, int]:
        rows, cols = random.integers(1, maximum, 2).tolist()
        return rows * side, cols * side

    found = []
    for _ in range(int(random.integers(1, 6))):
        grid = tuple(random.integers(1, 5, 2).tolist()) if random.random() < 0.6 else None
        if grid == (1, 1):
            grid = None
        found.append(
            Layout(
                overview=size(13),
                grid=grid,
                slice_size=size(9),
                video=bool(random.random() < 0.4),
                words=int(random.choice([0, 0, 1, 2, 7])),
                breaks=int(random.choice([0, 0, 1, 2])),
                id_tag=bool(random.random() < 0.3),
            )
        )
    return found


@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_random_layouts(mode: DownsampleMode) -> None:
    random = np.random.default_rng(12)
    for seed in range(150):
        check(canvas_prompt(random_layouts(random, mode), mode, seed, lead=int(random.integers(0, 4))))


@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_a_clip_of_sliced_frames(mode: DownsampleMode) -> None:
    frame = Layout((8, 16), (2, 3), (12, 8), video=True)
    check(canvas_prompt([frame] * 7, mode, 1))
    check(canvas_prompt([frame] * 3 + [Layout((8, 8))] + [frame] * 3, mode, 1))


def test_slices_without_a_complete_last_row() -> None:
    """No processor writes it, but the reference has a rule: all slices in one row."""
    whole = canvas_prompt([Layout((8, 8), (2, 3), (8, 12), words=0, breaks=0)], "16x", 1)
    last = whole.views[-1]
    short = Prompt(whole.ids[: last.start - 1], whole.views[:-1], (), "")
    check(short)


def test_a_picture_at_each_end_of_the_prompt() -> None:
    check(canvas_prompt([Layout((12, 8), words=0, breaks=0)], "16x", 1, lead=0))
    check(canvas_prompt([Layout((12, 8), (1, 2), (4, 4), words=0, breaks=0)], "16x", 1, lead=0))


def test_the_overview_is_spread_as_the_reference_rounds() -> None:
    for length in range(1, 120):
        for count in range(1, 40):
            expected = torch.linspace(0, length - 1, count).round().long().numpy()
            np.testing.assert_array_equal(_spread(length, count), expected)
    assert _spread(6, 3).tolist() == [0, 2, 5]  # 2.5 rounds to even


def test_an_example() -> None:
    """The example of docs/model.md 10.2."""
    prompt = canvas_prompt([Layout((4, 8), (2, 1), (4, 8), words=1, breaks=1)], "16x", 0, lead=2)
    ours = canvas_positions(prompt.ids, prompt.views, MARKERS)
    assert ours.values.T.tolist() == [
        [0, 0, 0], [1, 1, 1],  # text
        [2, 1, 1], [2, 2, 2], [2, 2, 3], [2, 4, 4],  # <image>, overview, </image>
        [2, 2, 2], [2, 2, 2], [2, 2, 3], [2, 2, 3],  # <slice>, first slice, </slice>
        [2, 2, 4],  # line break between rows of slices
        [2, 3, 2], [2, 3, 2], [2, 3, 3], [2, 3, 3],  # <slice>, second slice, </slice>
        [2, 2, 2],  # line break after the picture
        [5, 5, 5],  # text
    ]  # fmt: skip
    assert ours.delta == 6 - 17
