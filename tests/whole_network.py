"""Hidden rows and logits of whole prompts by `MiniCPMV`, to compare with networks that run layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pocketvlm.backends.ops import Array
from pocketvlm.model import text
from pocketvlm.model.minicpmv import MiniCPMV
from pocketvlm.model.sequences import run_layer, whole_step
from pocketvlm.types import Prompt


def hidden_rows(network: MiniCPMV, prompts: Sequence[Prompt]) -> Array:
    """Hidden rows [T, hidden] before the final norm of all tokens of the prompts, end to end."""
    backend = network.backend
    step = whole_step(backend, prompts, network.rotary_axes)
    splices: list[tuple[Any, Array]] = []
    for prompt, offset in zip(prompts, step.host.offsets.tolist(), strict=False):
        for view in prompt.views:
            at = np.arange(offset + view.start, offset + view.start + view.tokens, dtype=np.int32)
            splices.append((backend.indices(at), network.encode([view.load()])[0]))
    x: Array = network.embed(step, splices)
    for index, layer in enumerate(network.weights.layers):
        x = run_layer(backend, network.config.text, layer, index, x, step)
    return x


def logits(network: MiniCPMV, rows: Array) -> Array:
    """Logits [n, vocab] of hidden rows [n, hidden]."""
    found: Array = text.head(
        network.backend, network.weights.norm, network.weights.lm_head, network.config.text.rms_norm_eps, rows
    )
    return found
