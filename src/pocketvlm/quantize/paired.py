"""Runs the same prompts through two networks, a part at a time, and measures how far the second one is from the first.

Each network reads its own features and its own rows, as in use, so that errors add up from layer to layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.batch import Step
from pocketvlm.backends.ops import Array
from pocketvlm.errors import CheckpointError
from pocketvlm.model.parts import NetworkParts
from pocketvlm.model.sequences import batch_slices, whole_step
from pocketvlm.quantize.divergence import Doubles, RowError, compare_rows, counted_positions
from pocketvlm.types import Prompt

Floats = NDArray[np.float32]
# What runs, units done, and units in all.
Progress = Callable[[str, int, int], None]

_STEP_TOKENS = 2048  # prompts run together up to so many tokens


@dataclass(frozen=True, slots=True)
class Pair:
    """Differences of two networks over prompts.

    divergences: of the counted positions of each prompt, float64. agrees: whether the best token is the same there.
    features: error of the features of views, by mode. layers: error of the rows after each layer; empty if the
    networks differ in layers or width.
    """

    divergences: list[Doubles]
    agrees: list[NDArray[np.bool_]]
    features: dict[str, RowError] = field(default_factory=dict)
    layers: list[RowError] = field(default_factory=list)


def run_pair(
    reference: NetworkParts,
    candidate: NetworkParts,
    prompts: Sequence[Prompt],
    threads: int,
    progress: Progress | None = None,
    release: Callable[[], None] = lambda: None,
) -> Pair:
    """Run all prompts through both networks.

    The networks have the same vocabulary and rotary axes, and a vision tower each if a prompt has views. threads: of
    the comparison of logits; the backends have their own. release: called after each part, to drop what was read of
    files. Raises CheckpointError if logits are infinite or NaN.
    """
    say = progress or (lambda what, done, total: None)
    batches = batch_slices(prompts, _STEP_TOKENS)
    sides = [_Side(network, prompts, batches, release) for network in (reference, candidate)]
    features = _features(sides, prompts, say)
    layers = _layers(sides, say)
    divergences, agrees = _logits(sides, prompts, threads, say)
    return Pair(divergences, agrees, features, layers)


class _Side:
    """One network with its rows of all prompts."""

    def __init__(
        self,
        network: NetworkParts,
        prompts: Sequence[Prompt],
        batches: Sequence[slice],
        release: Callable[[], None],
    ) -> None:
        self.network = network
        self.release = release
        self.embedded = network.embed([np.asarray(prompt.ids, np.int32) for prompt in prompts])
        self._parts = [prompts[batch] for batch in batches]
        self._batches = batches
        self._joined: list[tuple[Array, Step[Any]]] = []
        release()

    def splice(self, prompt: int, start: int, features: Floats) -> Floats:
        """Put the features of a view over the embeddings of its placeholders, and return them."""
        rows: Floats = self.embedded[prompt][start : start + len(features)]
        rows[:] = features
        return rows

    def run_layer(self, index: int) -> None:
        """Run one layer on all rows."""
        if not self._joined:
            network, backend = self.network, self.network.backend
            for batch, prompts in zip(self._batches, self._parts, strict=True):
                rows = backend.from_numpy(np.concatenate(self.embedded[batch]))
                self._joined.append((rows, whole_step(backend, prompts, network.rotary_axes)))
            self.embedded = []
        found = self.network.layer(index, self._joined)
        self._joined = [(rows, step) for rows, (_, step) in zip(found, self._joined, strict=True)]
        self.release()

    @property
    def rows(self) -> list[Floats]:
        """The rows of all prompts, by step."""
        return [self.network.backend.to_numpy(rows) for rows, _ in self._joined]

    def select(self, chosen: NDArray[np.intp]) -> Floats:
        """Some rows of all prompts, which are released."""
        rows = np.concatenate(self.rows)[chosen]
        self._joined = []
        return rows


def _features(sides: Sequence[_Side], prompts: Sequence[Prompt], say: Progress) -> dict[str, RowError]:
    """Encode all views with both networks, one after the other, and splice the features in."""
    views = [(index, view) for index, prompt in enumerate(prompts) for view in prompt.views]
    errors: dict[str, RowError] = {}
    done, total = 0, len(sides) * len(views)
    reference = sides[0]
    comparable = sides[0].network.config.text.hidden_size == sides[1].network.config.text.hidden_size
    for side in sides if views else ():
        prepared = side.network.prepared_vision()
        assert prepared is not None, "a prompt with views needs a vision tower"
        for index, view in views:
            say("vision", done, total)
            rows = side.splice(index, view.start, side.network.encode(prepared, view))
            if side is not reference and comparable:
                expected = reference.embedded[index][view.start : view.start + view.tokens]
                errors.setdefault(view.downsample_mode, RowError()).add(expected, rows)
            done += 1
        del prepared
        side.release()
    return errors


def _layers(sides: Sequence[_Side], say: Progress) -> list[RowError]:
    """Run all layers, with both networks in step if they have as many layers of the same width."""
    counts = [side.network.layers for side in sides]
    widths = {side.network.config.text.hidden_size for side in sides}
    comparable = len(set(counts)) == len(widths) == 1
    errors: list[RowError] = []
    for index in range(max(counts)):
        say("layers", index, max(counts))
        for side, count in zip(sides, counts, strict=True):
            if index < count:
                side.run_layer(index)
        if comparable:
            errors.append(error := RowError())
            for expected, rows in zip(sides[0].rows, sides[1].rows, strict=True):
                error.add(expected, rows)
    return errors


def _logits(
    sides: Sequence[_Side], prompts: Sequence[Prompt], threads: int, say: Progress
) -> tuple[list[Doubles], list[NDArray[np.bool_]]]:
    """Divergence and agreement at the counted positions of each prompt."""
    lengths = [len(prompt.ids) for prompt in prompts]
    counted = [
        counted_positions(length, [(view.start, view.tokens) for view in prompt.views])
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    offsets = np.cumsum([0, *lengths[:-1]])
    chosen = np.concatenate([rows + offset for rows, offset in zip(counted, offsets, strict=True)])
    say("logits", 0, len(chosen))
    rows = [side.select(chosen) for side in sides]
    heads = [side.network.head() for side in sides]
    values, agrees = compare_rows(
        rows[0],
        rows[1],
        heads[0],
        heads[1],
        sides[0].network.config.text.vocab_size,
        threads,
        lambda done: say("logits", done, len(chosen)),
    )
    if not np.isfinite(values).all():
        wrong = int((~np.isfinite(values)).sum())
        raise CheckpointError(
            f"at {wrong} of {len(values)} positions the logits of one of the two models are infinite or NaN: "
            f"its weights are damaged, or its quantization failed: make or copy it again"
        )
    cuts = np.cumsum([len(rows) for rows in counted])[:-1]
    return np.split(values, cuts), np.split(agrees, cuts)
