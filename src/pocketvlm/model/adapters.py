"""Adapters on a backend: low-rank updates of matrices (LoRA), and tensors that stand in for the checkpoint's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pocketvlm.adapters import Adapter, Update
from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.batch import Step
from pocketvlm.backends.ops import AdaptedRows, Array, LowRank
from pocketvlm.config import ModelConfig
from pocketvlm.errors import OptionError
from pocketvlm.model import text
from pocketvlm.model.weights import Shape, VisionWeights, Weights, WeightsBuilder, expected_tensors, preparing
from pocketvlm.model.weights import tensor_roles as roles_of
from pocketvlm.schemes import ARRAY_ROLES, Role
from pocketvlm.tensors import DenseTensor

EMBEDDING, FINAL_NORM = "model.language_model.embed_tokens.weight", "model.language_model.norm.weight"
HEAD = "lm_head.weight"  # also the name of a tied head: an adapter may change the head and not the embedding
_VISION = ("model.vision_tower.", "model.merger.")
_UPDATED: tuple[Role, ...] = (
    "matrix", "gate", "head", "vision_matrix", "patch_embedding", "embedding", "tied_embedding",
)  # fmt: skip
# Float32 products of more rows add in another order, so that a row's bits would depend on the other rows.
_HEAD_ROWS = 3


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedEmbedding:
    """table: its own rows, or None. rows [vocab, rank] and update: what is added to the checkpoint's rows, or None."""

    table: Any = None
    rows: Any = None
    update: LowRank[Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedHead:
    """The handles of the final norm and of the output matrix, of which at least one is the adapter's own."""

    norm: Any
    matrix: Any


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoadedAdapter:
    """An adapter as one backend has prepared it for one network.

    digest: of all values. vision_digest: of those that change features; "" if features are the checkpoint's. updates:
    by weight handle, of decoder layers, head and vision tower. embedding, head, vision: None if they are the
    checkpoint's, but for updates. updates_layers: whether decoder layers have updates.
    """

    digest: str
    vision_digest: str
    updates: Mapping[Any, LowRank[Any]]
    updates_layers: bool
    embedding: AdaptedEmbedding | None
    head: AdaptedHead | None
    vision: VisionWeights[Any, Any] | None


def load_adapter(
    backend: AnyBackend, config: ModelConfig, weights: Weights[Any, Any], name: str, adapter: Adapter
) -> LoadedAdapter:
    """Check and prepare an adapter. Any thread may call it.

    Raises OptionError that names adapter, tensor and shapes: for tensors that the network lacks, for updates that fit
    no matrix, and for replaced tensors of decoder layers, which the rows of a step share.
    """
    shapes = {HEAD: (config.text.vocab_size, config.text.hidden_size), **expected_tensors(config)}
    roles: dict[str, Role] = {HEAD: "head", **roles_of(config)}
    for tensor in (*adapter.updates, *adapter.replacements):
        if tensor not in shapes:
            raise OptionError(
                f"adapter {name!r}: the model has no tensor {tensor!r}: use the adapter with its own base"
            )
    for matrix, update in adapter.updates.items():
        _check_update(name, matrix, shapes[matrix], roles[matrix], update)
    for tensor, replacement in adapter.replacements.items():
        _check_replacement(name, tensor, shapes[tensor], replacement)
    prepare = preparing(backend, adapter.replacements)
    own = {tensor: prepare(tensor, shapes[tensor], _as_stored(roles[tensor])) for tensor in adapter.replacements}
    handles = {HEAD: weights.lm_head, **weights.handles, **own}
    # In the order in which a step reads them.
    updated = {
        matrix: adapter.updates[matrix]
        for matrix in (*roles_of(config), HEAD)
        if matrix in adapter.updates and matrix != EMBEDDING
    }
    prepared = backend.low_ranks([(update.a, update.b, update.scale) for update in updated.values()])
    updates = {handles[matrix]: made for matrix, made in zip(updated, prepared, strict=True)}
    vision = _vision_part(adapter)
    return LoadedAdapter(
        digest=adapter.digest(),
        vision_digest="" if vision is None else vision.digest(),
        updates=updates,
        updates_layers=any(roles[matrix] in ("matrix", "gate") for matrix in adapter.updates),
        embedding=_embedding(backend, adapter.updates.get(EMBEDDING), own.get(EMBEDDING)),
        head=AdaptedHead(handles[FINAL_NORM], handles[HEAD]) if FINAL_NORM in own or HEAD in own else None,
        vision=None if vision is None or not vision.replacements else _vision(config, handles),
    )


def embed(backend: AnyBackend, weights: Weights[Any, Any], step: Step[Any], adapters: Sequence[LoadedAdapter]) -> Array:
    """Embeddings [T, hidden] of the step's ids, each row with its adapter."""
    x: Array = backend.embed(weights.embed_tokens, step.ids)
    for index, rows in step.adapter_rows:
        own = adapters[index].embedding
        if own is None:
            continue
        if own.table is not None:
            backend.put(x, rows, backend.take(backend.embed(own.table, step.ids), rows))
        if own.update is not None:
            inner = backend.embed(own.rows, step.ids)
            backend.add_updates(inner, (own,), (x,), (AdaptedRows(rows, {own: own.update}),))
    return x


def layer_rows(step: Step[Any], adapters: Sequence[LoadedAdapter]) -> list[AdaptedRows[Any, Any, Any]]:
    """The rows of a step that have updates in decoder layers."""
    return [
        AdaptedRows(rows, adapters[index].updates)
        for index, rows in step.adapter_rows
        if adapters[index].updates_layers
    ]


def head(
    backend: AnyBackend,
    weights: Weights[Any, Any],
    eps: float,
    rows: Array,
    step: Step[Any],
    adapters: Sequence[LoadedAdapter],
) -> Array:
    """Final norm and output matrix of each row's adapter: the step's logit rows [n, hidden] -> logits [n, vocab]."""
    shared = [
        AdaptedRows(at, adapters[index].updates)
        for index, at in step.adapter_logit_rows
        if adapters[index].head is None and weights.lm_head in adapters[index].updates
    ]
    own = [(adapters[index], at) for index, at in step.adapter_logit_rows if adapters[index].head is not None]
    if own and len(own[0][1]) == len(rows) <= _HEAD_ROWS:  # no row needs the checkpoint's head
        return _own_head(backend, own[0][0], eps, rows)
    logits: Array = text.head(backend, weights.norm, weights.lm_head, eps, rows, shared)
    for adapter, at in own:
        for start in range(0, len(at), _HEAD_ROWS):
            part = at[start : start + _HEAD_ROWS]
            backend.put(logits, part, _own_head(backend, adapter, eps, backend.take(rows, part)))
    return logits


def _own_head(backend: AnyBackend, adapter: LoadedAdapter, eps: float, rows: Array) -> Array:
    """Logits of rows that all have this adapter, which has a final norm or an output matrix of its own."""
    assert adapter.head is not None
    norm, matrix = adapter.head.norm, adapter.head.matrix
    updates: Sequence[AdaptedRows[Any, Any, Any]] = (
        [AdaptedRows(None, adapter.updates)] if matrix in adapter.updates else []
    )
    logits: Array = text.head(backend, norm, matrix, eps, rows, updates)
    return logits


def _check_update(name: str, matrix: str, shape: Shape, role: Role, update: Update) -> None:
    if role not in _UPDATED:
        raise OptionError(f"adapter {name!r}: {matrix!r} is no matrix that takes a low-rank update: leave it out")
    (outputs, inputs), rank = (shape[0], int(np.prod(shape[1:]))), len(update.a)
    if update.a.shape != (rank, inputs) or update.b.shape != (outputs, rank) or rank == 0:
        raise OptionError(
            f"adapter {name!r}: {matrix} is {outputs} x {inputs}, which updates of the shapes "
            f"{list(update.a.shape)} and {list(update.b.shape)} do not fit: use the adapter with its own base"
        )
    if not (np.isfinite(update.a).all() and np.isfinite(update.b).all() and np.isfinite(update.scale)):
        raise OptionError(
            f"adapter {name!r}: the update of {matrix} has values that are no finite numbers: train it anew"
        )


def _check_replacement(name: str, tensor: str, shape: Shape, replacement: DenseTensor) -> None:
    if tensor not in (EMBEDDING, HEAD, FINAL_NORM) and not tensor.startswith(_VISION):
        raise OptionError(
            f"adapter {name!r} replaces {tensor}, which rows of other adapters share: "
            f"merge it into a checkpoint with `pocketvlm merge`"
        )
    if replacement.shape != shape:
        raise OptionError(
            f"adapter {name!r}: {tensor} has the shape {list(shape)}, its replacement {list(replacement.shape)}: "
            f"use the adapter with its own base"
        )


def _vision_part(adapter: Adapter) -> Adapter | None:
    """What of an adapter changes features; None if nothing does."""
    updates = {name: update for name, update in adapter.updates.items() if name.startswith(_VISION)}
    replaced = {name: tensor for name, tensor in adapter.replacements.items() if name.startswith(_VISION)}
    return Adapter(updates, replaced) if updates or replaced else None


def _as_stored(role: Role) -> Role:
    """A role whose dense tensors no scheme quantizes: replaced matrices are stored as they were trained."""
    if role in ("embedding", "tied_embedding"):
        return "embedding"
    return role if role in (*ARRAY_ROLES, "position_embedding") else "patch_embedding"


def _embedding(backend: AnyBackend, update: Update | None, table: Any) -> AdaptedEmbedding | None:
    if update is None:
        return None if table is None else AdaptedEmbedding(table)
    rows = DenseTensor(EMBEDDING, "f32", np.ascontiguousarray(update.b, np.float32))
    # The rows of b are looked up, so the rest of the update is a product with the identity, then with a.
    after = backend.low_rank(np.eye(update.rank, dtype=np.float32), np.ascontiguousarray(update.a.T), update.scale)
    return AdaptedEmbedding(table, backend.prepare(rows, "embedding"), after)


def _vision(config: ModelConfig, handles: Mapping[str, Any]) -> VisionWeights[Any, Any]:
    """The vision tower and its mergers, of these handles."""
    assert config.vision is not None
    return WeightsBuilder(config, lambda name, shape, role: handles[name]).vision(config.vision)
