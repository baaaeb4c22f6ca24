"""Runs whole prompts through layers, each from its first token, with states that live for one layer only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.batch import Batch, Ints, Step, SubBatch
from pocketvlm.backends.ops import Array
from pocketvlm.config import TextConfig
from pocketvlm.model import text
from pocketvlm.model.weights import DecoderLayer
from pocketvlm.types import Prompt

PAGE_SIZE = 64


def batch_slices(prompts: Sequence[Prompt], max_tokens: int) -> list[slice]:
    """Slices of neighbouring prompts of at most `max_tokens` tokens together; a longer prompt is alone."""
    found, start, tokens = [], 0, 0
    for index, prompt in enumerate(prompts):
        if tokens and tokens + len(prompt.ids) > max_tokens:
            found.append(slice(start, index))
            start, tokens = index, 0
        tokens += len(prompt.ids)
    return [*found, slice(start, len(prompts))]


def whole_step(backend: AnyBackend, prompts: Sequence[Prompt], rotary_axes: tuple[int, ...] = ()) -> Step[Any]:
    """A step that holds all tokens of the prompts end to end, each as a sequence of its own."""
    lengths = np.array([len(prompt.ids) for prompt in prompts], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    counts = -(-lengths // PAGE_SIZE)
    pages = np.full((len(prompts), int(counts.max())), -1, np.int32)
    first = np.cumsum(counts) - counts
    for row, (start, count) in enumerate(zip(first, counts, strict=True)):
        pages[row, :count] = np.arange(start, start + count)
    slots, zeros = np.arange(len(prompts), dtype=np.int32), np.zeros(len(prompts), np.int32)
    rows = np.arange(offsets[-1], dtype=np.int32)
    batch = Batch(
        offsets,
        zeros,
        pages,
        PAGE_SIZE,
        rotary_positions=np.concatenate([_positions(prompt, rotary_axes) for prompt in prompts], axis=-1),
        sub_batches=(SubBatch(slice(None), offsets, zeros, slots, slots),),
        ids=np.concatenate([np.asarray(prompt.ids, np.int32) for prompt in prompts]),
        logit_rows=rows,
    )
    return backend.step(batch)


def _positions(prompt: Prompt, rotary_axes: tuple[int, ...]) -> Ints:
    if prompt.positions is not None and rotary_axes:
        return prompt.positions.values
    return np.broadcast_to(np.arange(len(prompt.ids), dtype=np.int32), (*rotary_axes, len(prompt.ids)))


def run_layer(
    backend: AnyBackend,
    config: TextConfig,
    layer: DecoderLayer[Any, Any],
    index: int,
    x: Array,
    step: Step[Any],
    ops: Any = None,
) -> Array:
    """Layer `index` on rows [T, hidden] of a `whole_step`; its state is made for the call.

    ops: operations to call instead of the backend's, on the backend's arrays.
    """
    kind = config.layer_types[index]
    count = int(step.host.pages.max()) + 1 if kind == "full_attention" else step.host.sequences
    state = text.new_state(backend, config, kind, count, PAGE_SIZE)
    specs = text.LayerSpecs.of(config)
    out: Array = text.decoder_layer(backend if ops is None else ops, layer, specs, x, step, state, ())
    return out
