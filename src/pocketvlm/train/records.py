"""`Record` is what training retains of an example: ids, where the loss counts, and the names of its views."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketvlm.train.sample import IGNORED, Example
from pocketvlm.types import DownsampleMode


@dataclass(frozen=True, slots=True)
class ViewKey:
    """A view without its pixels: the first placeholder, the number of placeholders, the mode, and the digest."""

    start: int
    tokens: int
    downsample_mode: DownsampleMode
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """An example without pixels.

    ids, labels: int32 [n] as in `Example`. views: in reading order. positions: rotary positions int32 [3, n], or None
    where the position of each token is its index.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    views: tuple[ViewKey, ...]
    positions: NDArray[np.int32] | None
    place: str

    @classmethod
    def of(cls, example: Example) -> Record:
        """The record of an example; positions of the answer continue those of the prompt."""
        positions = None
        if example.prompt.positions is not None:
            inside, delta = example.prompt.positions.values, example.prompt.positions.delta
            after = np.arange(inside.shape[1], len(example.ids), dtype=np.int32) + np.int32(delta)
            positions = np.concatenate([inside, np.tile(after, (3, 1))], axis=1)
        views = tuple(
            ViewKey(view.start, view.tokens, view.downsample_mode, view.digest) for view in example.prompt.views
        )
        return cls(example.ids, example.labels, views, positions, example.place)

    @property
    def loss_tokens(self) -> int:
        """Number of tokens whose loss counts."""
        return int(np.count_nonzero(self.labels != IGNORED))


def digest(records: Sequence[Record]) -> str:
    """Hex digest of everything that training reads of these examples."""
    found = hashlib.blake2b(digest_size=16)
    for record in records:
        found.update(f"{len(record.ids)} {record.views}".encode())
        found.update(np.ascontiguousarray(record.ids).data)
        found.update(np.ascontiguousarray(record.labels).data)
        if record.positions is not None:
            found.update(np.ascontiguousarray(record.positions).data)
    return found.hexdigest()
