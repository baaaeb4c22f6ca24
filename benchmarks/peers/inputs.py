"""Random prompts and images, the same for every engine that is compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VIEW, PATCH = 448, 14
FIRST_WORD, LAST_WORD = 300, 240_000


def random_image(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Noise uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_ids(count: int, seed: int = 0) -> list[int]:
    """Ids of ordinary tokens."""
    return np.random.default_rng(seed).integers(FIRST_WORD, LAST_WORD, count).tolist()


def random_patches(seed: int) -> NDArray[np.float32]:
    """A random image of VIEW x VIEW as the model takes it: normalised patches [rows * cols, 3 * PATCH * PATCH]."""
    side = VIEW // PATCH
    grid = (random_image(VIEW, VIEW, seed).astype(np.float32) / 127.5 - 1).reshape(side, PATCH, side, PATCH, 3)
    return np.ascontiguousarray(grid.transpose(0, 2, 4, 1, 3)).reshape(side * side, -1)


def view_tokens(mode: str) -> int:
    """Tokens that a view of VIEW x VIEW takes in a prompt."""
    return (VIEW // PATCH) ** 2 // (4 if mode == "4x" else 16)
