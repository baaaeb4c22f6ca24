"""`choose_targets` turns the names of --targets into the matrices that an adapter updates."""

from __future__ import annotations

import re

from pocketvlm.config import ModelConfig
from pocketvlm.errors import OptionError
from pocketvlm.model import tensor_roles
from pocketvlm.suggest import nearest

_SUFFIX = ".weight"
_LANGUAGE = ("matrix", "gate")
_NAMES = ("auto", "attention", "vision", "all")


def choose_targets(config: ModelConfig, targets: str) -> tuple[str, ...]:
    """Modules to update, in the network's order, named as in the checkpoint without ".weight".

    targets: "auto" (the linear layers of the language model's layers), "attention" (those of attention and DeltaNet
    alone), "vision" (those of the vision tower and its mergers), "all" (auto and vision), or a regular expression that
    matches the end of module names from a dot on, as in "mlp.(up|down)_proj"; several separated by commas. Raises
    OptionError for a name that matches nothing.
    """
    roles = tensor_roles(config)
    linear = [name.removesuffix(_SUFFIX) for name, role in roles.items() if role in (*_LANGUAGE, "vision_matrix")]
    chosen: set[str] = set()
    for part in _parts(targets):
        found = {name for name in linear if _matches(part, name, str(roles[name + _SUFFIX]))}
        if not found:
            raise OptionError(f"targets={part!r} names no matrix of this checkpoint{_hint(part, config, linear)}")
        chosen |= found
    return tuple(name for name in linear if name in chosen)


def trains_vision(targets: tuple[str, ...]) -> bool:
    """Whether any of these modules is part of the vision tower or its mergers."""
    return any(not name.startswith("model.language_model.") for name in targets)


def _parts(targets: str) -> list[str]:
    """The parts between commas that are in no brackets."""
    return [part.strip() for part in re.split(r",(?![^({\[]*[)}\]])", targets) if part.strip()]


def _matches(part: str, module: str, role: str) -> bool:
    if part == "all":
        return True
    if part == "vision":
        return role == "vision_matrix"
    if part == "auto":
        return role in _LANGUAGE
    if part == "attention":
        return role in _LANGUAGE and ".mlp." not in module
    try:
        return re.fullmatch(rf"(.*\.)?({part})", module) is not None
    except re.error as error:
        raise OptionError(f"targets={part!r} is no regular expression ({error}): give {', '.join(_NAMES)}") from None


def _hint(part: str, config: ModelConfig, linear: list[str]) -> str:
    if part == "vision" and config.vision is None:
        return ": it has no vision tower"
    leaves = sorted({name.rpartition(".")[2] for name in linear})
    near = nearest(part, [*_NAMES, *leaves])
    return f": did you mean {near!r}?" if near else f": give {', '.join(_NAMES)}, or one of {', '.join(leaves)}"
