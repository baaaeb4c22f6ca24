"""Trained tokens (`trainable_token_indices` of peft): new values of some rows of the embedding, and of a tied head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.adapters import Update
from pocketvlm.checkpoint.adapters.keys import Key
from pocketvlm.checkpoint.adapters.settings import AdapterSettings
from pocketvlm.checkpoint.names import EMBEDDING, HEAD
from pocketvlm.errors import CheckpointError, ConfigError, TensorError
from pocketvlm.fields import shown
from pocketvlm.tensors import DenseTensor, Tensor


def token_updates(
    key: Key,
    name: str,
    rows: DenseTensor,
    settings: AdapterSettings,
    base: Mapping[str, Tensor] | None,
    tied: bool,
) -> dict[str, Update]:
    """New rows as low-rank updates: b selects the rows, and a holds new minus old values.

    rows: [tokens, hidden], the new values. base: the model's tensors, for the old values. tied: the head follows the
    embedding, as peft ties their new rows. Raises ConfigError for token ids that are wrong, TensorError for another
    number of rows, and CheckpointError without the base's tensors.
    """
    ids = _ids(settings, key, name)
    if base is None:
        raise CheckpointError(
            f"{rows.label}: trained tokens need the base's embedding, which is not at hand here: merge the adapter "
            f"with `pocketvlm merge`"
        )
    old = base[EMBEDDING if tied else name]
    count = old.shape[0]
    wrong = [each for each in ids if not 0 <= each < count]
    if wrong:
        raise ConfigError(
            f"{settings.where}: trainable_token_indices has the token {wrong[0]}, but the model has {count} tokens: "
            f"give the adapter's own base"
        )
    if len(ids) != rows.shape[0]:
        raise TensorError(
            f"{rows.label}: has {rows.shape[0]} rows, but trainable_token_indices of {settings.where} {len(ids)} "
            f"tokens: the files do not belong together"
        )
    a = rows.float32() - _rows(old, ids)
    b = np.zeros((count, len(ids)), np.float32)
    b[ids, np.arange(len(ids))] = 1.0
    update = Update(a, b, 1.0)
    return {EMBEDDING: update, HEAD: update} if tied else {name: update}


def _rows(tensor: Tensor, ids: list[int]) -> NDArray[np.float32]:
    """Some rows of a matrix in float32; reads no others of a dense one."""
    if isinstance(tensor, DenseTensor):
        return DenseTensor(tensor.name, tensor.dtype, tensor.data[ids], tensor.origin).float32()
    return tensor.dequantize()[ids]


def _ids(settings: AdapterSettings, key: Key, name: str) -> list[int]:
    """The token ids of a module. Raises ConfigError."""
    value: Any = settings.tokens
    if isinstance(value, Mapping):
        parts = [ids for module, ids in value.items() if key.module == module or key.module.endswith(f".{module}")]
        value = parts[0] if len(parts) == 1 else None
    valid = isinstance(value, list) and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
    if not valid or len(set(value)) != len(value):
        raise ConfigError(
            f"{settings.where}: trainable_token_indices={shown(settings.tokens)} names no tokens of {name}: expected a "
            f"list of different token ids"
        )
    return list(value)
