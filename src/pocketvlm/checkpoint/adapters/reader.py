"""`read_adapter` reads an adapter in PEFT's file format and checks that it fits a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pocketvlm.adapters import Adapter, Update
from pocketvlm.checkpoint.adapters.keys import Key, parse_key
from pocketvlm.checkpoint.adapters.options import read_options
from pocketvlm.checkpoint.adapters.settings import AdapterSettings
from pocketvlm.checkpoint.adapters.state import read_state
from pocketvlm.checkpoint.adapters.tokens import token_updates
from pocketvlm.checkpoint.files import ADAPTER_CONFIG, ADAPTER_OPTIONS
from pocketvlm.checkpoint.hub import resolve_adapter
from pocketvlm.checkpoint.jsonfile import read_json
from pocketvlm.checkpoint.names import EMBEDDING, HEAD
from pocketvlm.errors import TensorError
from pocketvlm.tensors import DenseTensor, Tensor, same_values

Shape = tuple[int, ...]
_SHOWN = 4
_CONVOLUTION = ".conv1d.weight"
_PATCHES = "patch_embedding.weight"


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
    options = read_options(directory / ADAPTER_OPTIONS)
    file, state = read_state(directory)
    shapes = dict(expected)
    tied = HEAD not in shapes
    if tied:
        shapes[HEAD] = shapes[EMBEDDING]
    keys = _by_part([parse_key(text) for text in state], str(file))
    _check(keys, state, shapes, settings, str(file))
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
    return Adapter(updates, replacements, options, str(path))


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


def _check(
    keys: Mapping[tuple[str, str], Key],
    state: Mapping[str, DenseTensor],
    shapes: Mapping[str, Shape],
    settings: AdapterSettings,
    where: str,
) -> None:
    """Raise one TensorError that lists the tensors that the model lacks, or that have another shape or rank."""
    problems = [
        problem
        for (part, name), key in keys.items()
        if (problem := _problem(keys, part, name, key, state[key.text].shape, shapes, settings))
    ]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        made_for = f" (it was trained on {settings.base})" if settings.base else ""
        raise TensorError(
            f"{where}: the adapter does not fit the model{made_for}: {'; '.join(problems[:_SHOWN])}{more}: give the "
            f"adapter's own base, or save the adapter again"
        )


def _problem(
    keys: Mapping[tuple[str, str], Key],
    part: str,
    name: str,
    key: Key,
    found: Shape,
    shapes: Mapping[str, Shape],
    settings: AdapterSettings,
) -> str | None:
    """What is wrong with a tensor; None if it fits."""
    if part == "unknown":
        method = " (DoRA)" if "lora_magnitude" in key.text else " (a bias of lora_B)" if ".bias" in key.text else ""
        return f"{key.text} is no tensor of a plain LoRA{method}"
    if name not in shapes:
        return f"{key.text} changes {name}, which the model does not have"
    shape = shapes[name]
    if part in ("replacement", "base"):
        return None if found == shape else f"{key.text} is {list(found)}, but {name} {list(shape)}"
    if part == "tokens":
        fits = len(found) == 2 and found[1] == shape[-1]
        return None if fits else f"{key.text} is {list(found)}, but rows of {name} have {shape[-1]} values"
    kind, half = part.rsplit("_", 1)
    if (f"{kind}_{'B' if half == 'A' else 'A'}", name) not in keys:
        return f"{key.text} has no other half, lora_{'embedding_' * (kind != 'lora')}{'B' if half == 'A' else 'A'}"
    if len(shape) == 1 or name.endswith(_CONVOLUTION):
        what = "a depthwise convolution" if name.endswith(_CONVOLUTION) else "a vector"
        return f"{key.text} updates {name}, which is {what} and no matrix"
    rank = settings.rank_of(key.module)
    wanted = _factor_shape(part, shape, rank)
    if found == wanted:
        return None
    if found[:1] + wanted[1:] == found and half == "A":
        return f"{key.text} has rank {found[0]}, but {settings.where} says {rank}"
    if found[1:] == wanted[1:2] + wanted[2:] and half == "B":
        return f"{key.text} is {list(found)}, but {name} {list(shape)}"
    return f"{key.text} is {list(found)} instead of {list(wanted)} (rank {rank}, {name} {list(shape)})"


def _factor_shape(part: str, shape: Shape, rank: int) -> Shape:
    """The shape of a factor as peft saves it: of linear layers, embeddings, and convolutions."""
    ones = (1,) * len(shape[2:])
    return {
        "lora_A": (rank, *shape[1:]),
        "lora_B": (shape[0], rank, *ones),
        "embedding_A": (rank, shape[0]),
        "embedding_B": (shape[1], rank),
    }[part]


def _updates(
    keys: Mapping[tuple[str, str], Key],
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
