"""Adapters (LoRA) of the language model: low-rank updates of matrices, applied to the rows of some sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.adapters import Update
from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.ops import LowRank
from pocketvlm.config import ModelConfig
from pocketvlm.errors import OptionError
from pocketvlm.model.weights import Weights, expected_tensors, tensor_roles


def prepare_adapter(
    backend: AnyBackend, config: ModelConfig, weights: Weights[Any, Any], name: str, updates: Mapping[str, Update]
) -> dict[Any, LowRank[Any]]:
    """A backend's updates of an adapter by weight handle. Raises OptionError, naming adapter, matrix and shapes.

    Only matrices of the decoder layers have updates: the rows of embedding and head are not the rows of a step.
    """
    shapes, roles = expected_tensors(config), tensor_roles(config)
    prepared = {}
    for matrix, update in updates.items():
        if roles.get(matrix) not in ("matrix", "gate"):
            raise OptionError(f"adapter {name!r}: {matrix!r} is no matrix of a decoder layer: leave it out")
        (outputs, inputs), rank = shapes[matrix], len(update.a)
        if update.a.shape != (rank, inputs) or update.b.shape != (outputs, rank) or rank == 0:
            raise OptionError(
                f"adapter {name!r}: {matrix} is {outputs} x {inputs}, which updates of the shapes "
                f"{list(update.a.shape)} and {list(update.b.shape)} do not fit"
            )
        prepared[weights.handles[matrix]] = backend.low_rank(update.a, update.b, update.scale)
    return prepared
