"""`Family` says what differs between models that share the network: configuration, positions, prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketvlm.types import PendingView, RotaryPositions, View


@dataclass(frozen=True, slots=True)
class Markers:
    """Ids of the tokens around views. config.json names each with the suffix `_id`."""

    image_start: int
    image_end: int
    slice_start: int
    slice_end: int
    newline: int


Positions = Callable[[NDArray[np.int32], Sequence[View | PendingView], Markers], RotaryPositions]


@dataclass(frozen=True, slots=True)
class Family:
    """What a family has of its own; everything else is shared.

    name: for people. model_type, vision_type, architecture: what its config.json says of model, vision tower and class.
    mrope_section: the rotary sections where config.json gives none; None: positions have one dimension.
    positions: positions of a prompt with views, from its ids [tokens] and the ids of its markers; None: each token has
    its index. video_id_tag: whether a video may have an id tag.
    """

    name: str
    model_type: str
    vision_type: str
    architecture: str
    mrope_section: tuple[int, int, int] | None = None
    positions: Positions | None = None
    video_id_tag: bool = True
