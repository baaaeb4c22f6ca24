"""`read_adapter` reads an adapter in PEFT's file format and checks that it fits a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pocketvlm.adapters import Adapter, Update
from pocketvlm.checkpoint.adapters.fit import Keys, Shape, check_fit
from pocketvlm.checkpoint.adapters.keys import Key, parse_key
from pocketvlm.checkpoint.adapters.options import read_notes
from pocketvlm.checkpoint.adapters.settings import AdapterSettings
from pocketvlm.checkpoint.adapters.state import read_state
from pocketvlm.checkpoint.adapters.tokens import token_updates
from pocketvlm.checkpoint.files import ADAPTER_CONFIG, ADAPTER_OPTIONS
from pocketvlm.checkpoint.hub import resolve_adapter
from pocketvlm.checkpoint.jsonfile import read_json
from pocketvlm.checkpoint.names import EMBEDDING, HEAD
from pocketvlm.errors import TensorError
from pocketvlm.tensors import DenseTensor, Tensor, same_values


def read_adapter(
    path: str | Path,
    expected: Mapping[str, Shape],
    *,
    revision: str | None = None,
    base: Mapping[str, Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Adapter:
    """Read an adapter and check it against a model.

    path: a folder, or a hub id such as "org/name" or "org/name@revision". expected: name -> shape of the model's
    tensors (`expected_tensors`). revision: branch, tag or commit of a hub id. base: the model's tensors, needed by
    adapters with trained tokens alone. progress(done, total): bytes of a download.

    The result has the checkpoint's names. An update of the patch embedding is one of the matrix [out, 3 * side * side].
    Where embedding and head are tied, the name of the embedding means the embedding alone, and "lm_head.weight" the
    head alone: an adapter that changes both names both.

    Raises CheckpointError or one of its kinds, naming file, key, value and the way out: for files that are missing or
    damaged, methods other than plain LoRA, and tensors that do not fit the model. Raises OptionError for a revision of
    a folder.
    """
    directory = resolve_adapter(path, revision, progress)
    config_file = directory / ADAPTER_CONFIG
    settings = AdapterSettings.read(read_json(config_file), str(config_file))
    options, own_base = read_notes(directory / ADAPTER_OPTIONS)
    file, state = read_state(directory)
    shapes = dict(expected)
    tied = HEAD not in shapes
    if tied:
        shapes[HEAD] = shapes[EMBEDDING]
    keys = _by_part([parse_key(text) for text in state], str(file))
    check_fit(keys, state, shapes, settings, str(file))
    updates = _updates(keys, state, shapes, settings)
    for (part, name), key in keys.items():
        if part == "tokens":
            updates |= token_updates(key, name, state[key.text], settings, base, tied)
    replacements = {
        name: replace(state[key.text], name=name)
        for (part, name), key in keys.items()
        if part == "replacement" or (part == "base" and _differs(state[key.text], base, _stored(name, tied)))
    }
    for tensor in replacements.values():
        tensor.finite_data()
    if not updates and not replacements:
        raise TensorError(f"{file}: no tensor changes the model: the adapter was saved before it was trained")
    return Adapter(updates, replacements, options, str(path), own_base)


def _stored(name: str, tied: bool) -> str:
    """The name of the tensor that a checkpoint stores for it."""
    return EMBEDDING if tied and name == HEAD else name


def _differs(saved: DenseTensor, base: Mapping[str, Tensor] | None, name: str) -> bool:
    """Whether an embedding that an adapter brings is another one than the base's, as far as that is known."""
    own = None if base is None else base[name]
    return isinstance(own, DenseTensor) and not same_values(saved, own)


def _by_part(keys: list[Key], where: str) -> dict[tuple[str, str], Key]:
    """Keys by what they are and which tensor they change. Raises TensorError for two of one kind."""
    adapters = {key.adapter for key in keys if key.adapter}
    if len(adapters) > 1:
        raise TensorError(
            f"{where}: has the tensors of {len(adapters)} adapters ({', '.join(sorted(adapters))}): save each in a "
            f"folder of its own"
        )
    found: dict[tuple[str, str], Key] = {}
    for key in keys:
        other = found.setdefault((key.part, key.name), key)
        if other is not key:
            raise TensorError(f"{where}: {other.text!r} and {key.text!r} both mean {key.name!r}: keep one of them")
    return found


def _updates(
    keys: Keys,
    state: Mapping[str, DenseTensor],
    shapes: Mapping[str, Shape],
    settings: AdapterSettings,
) -> dict[str, Update]:
    """The updates of all pairs of factors, in float32."""
    updates: dict[str, Update] = {}
    for (part, name), key in keys.items():
        if part == "lora_A":
            a, b = (state[each.text].float32() for each in (key, keys["lora_B", name]))
            a, b = a.reshape(len(a), math.prod(shapes[name][1:])), b.reshape(len(b), -1)
        elif part == "embedding_A":
            # An embedding's rows are looked up: its update is (B A)^T, so B^T takes the part of a.
            first, second = (state[each.text].float32() for each in (key, keys["embedding_B", name]))
            a, b = second.T.copy(), first.T.copy()
        else:
            continue
        updates[name] = Update(a, b, settings.scale_of(key.module))
    return updates
