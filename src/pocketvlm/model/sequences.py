"""Runs whole prompts through the network, each from its first token, with states that live for one layer only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.batch import Batch, Ints, Step, SubBatch
from pocketvlm.backends.ops import Array
from pocketvlm.config import TextConfig
from pocketvlm.model import text
from pocketvlm.model.minicpmv import MiniCPMV
from pocketvlm.model.weights import DecoderLayer
from pocketvlm.types import PendingView, Prompt, View

PAGE_SIZE = 64


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


def embeddings(network: MiniCPMV, prompts: Sequence[Prompt], step: Step[Any]) -> Array:
    """Embeddings [T, hidden] of a `whole_step` of these prompts, features of their views included."""
    backend = network.backend
    splices: list[tuple[Any, Array]] = []
    for prompt, offset in zip(prompts, step.host.offsets.tolist(), strict=False):
        for view, features in zip(prompt.views, encode(network, prompt.views), strict=True):
            at = np.arange(offset + view.start, offset + view.start + view.tokens, dtype=np.int32)
            splices.append((backend.indices(at), features))
    return network.embed(step, splices)


def encode(network: MiniCPMV, views: Sequence[View | PendingView]) -> list[Array]:
    """Features of each view, one view at a time."""
    return [network.encode([view.load()])[0] for view in views]


def run_layer(
    backend: AnyBackend, config: TextConfig, layer: DecoderLayer[Any, Any], index: int, x: Array, step: Step[Any]
) -> Array:
    """Layer `index` on rows [T, hidden] of a `whole_step`; its state is made for the call."""
    kind = config.layer_types[index]
    count = int(step.host.pages.max()) + 1 if kind == "full_attention" else step.host.sequences
    state = text.new_state(backend, config, kind, count, PAGE_SIZE)
    out: Array = text.decoder_layer(backend, layer, text.LayerSpecs.of(config), x, step, state, ())
    return out


def hidden_rows(network: MiniCPMV, prompts: Sequence[Prompt]) -> Array:
    """Hidden rows [T, hidden] before the final norm of all tokens of the prompts, end to end."""
    step = whole_step(network.backend, prompts, network.rotary_axes)
    x: Array = embeddings(network, prompts, step)
    for index, layer in enumerate(network.weights.layers):
        x = run_layer(network.backend, network.config.text, layer, index, x, step)
    return x


def logits(network: MiniCPMV, rows: Array) -> Array:
    """Logits [n, vocab] of hidden rows [n, hidden]."""
    found: Array = text.head(network.backend, network.weights, network.config.text.rms_norm_eps, rows)
    return found
