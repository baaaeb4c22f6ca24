"""The settings of compressed-tensors checkpoints: which scheme a module has, and which schemes are supported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pocketvlm.checkpoint.formats.format import Settings
from pocketvlm.checkpoint.formats.settings import INSTEAD
from pocketvlm.checkpoint.names import canonical_name
from pocketvlm.errors import ConfigError, TensorError
from pocketvlm.fields import shown

FP4_GROUP, MX_GROUP = 16, 32
_INTEGERS = ("pack-quantized", "int-quantized", "naive-quantized")
_FLOATS = {
    "float-quantized": 8,
    "naive-quantized": 8,
    "nvfp4-pack-quantized": 4,
    "mxfp4-pack-quantized": 4,
    "mxfp6-pack-quantized": 6,
    "mxfp8-quantized": 8,
}
_FIXED_GROUPS = {
    "nvfp4-pack-quantized": FP4_GROUP,
    **dict.fromkeys(("mxfp4-pack-quantized", "mxfp6-pack-quantized", "mxfp8-quantized"), MX_GROUP),
}
_FORMATS = tuple(dict.fromkeys([*_INTEGERS, *_FLOATS]))
_SIDE = re.compile(r"[1-9][0-9]{0,8}")
# Expressions are matched by backtracking: a repeated group, or many repetitions, could take for ever.
_SLOW = re.compile(r"\)[*+{]|([*+{].*){6}", re.DOTALL)
_EMBEDDINGS = (".embed_tokens", ".position_embedding")


@dataclass(frozen=True, slots=True)
class Group:
    """One scheme and the modules that it is for.

    targets: names of modules, classes, or regular expressions after "re:". block: rows and columns that share a scale;
    None means one for each output or for the matrix, as the shape of the scales says.
    """

    name: str
    targets: tuple[str, ...]
    format: str
    bits: int
    is_float: bool
    symmetric: bool
    block: tuple[int, int] | None

    def rank(self, module: str) -> int | None:
        """How exactly a target names a module: 0 its name, 1 an expression, 2 its class; None if no target does."""
        kind = "Embedding" if module.endswith(_EMBEDDINGS) else "Linear"
        ranks = []
        for target in self.targets:
            if target.startswith("re:"):
                if re.match(target.removeprefix("re:"), module):
                    ranks.append(1)
            elif target == kind:
                ranks.append(2)
            elif canonical_name(f"{target}.weight") == f"{module}.weight":
                ranks.append(0)
        return min(ranks, default=None)


def find_group(groups: tuple[Group, ...], module: str, where: str) -> Group:
    """The scheme of a module whose arrays are quantized; `ignore` is no matter then, since lists are often wrong."""
    if len(groups) == 1:
        return groups[0]
    ranked = [(rank, group) for group in groups if (rank := group.rank(module)) is not None]
    if ranked:
        return min(ranked, key=lambda item: item[0])[1]
    raise TensorError(
        f"{where}: {module} is quantized, but no target of {len(groups)} groups in config_groups names it: "
        f"download or copy config.json again"
    )


def read_groups(settings: Settings, where: str) -> tuple[Group, ...]:
    """The schemes that quantize weights. Raises ConfigError for one that is not supported, by its name."""
    sparsity = settings.get("sparsity_config")
    if sparsity and (not isinstance(sparsity, Mapping) or sparsity.get("format") != "dense"):
        given = sparsity.get("format") if isinstance(sparsity, Mapping) else sparsity
        raise ConfigError(f"{where}: sparsity_config: format={shown(given)} is not supported: {INSTEAD}")
    if settings.get("transform_config"):
        raise ConfigError(f"{where}: transform_config is not supported, since it rotates activations: {INSTEAD}")
    groups = settings.get("config_groups")
    if not isinstance(groups, Mapping):
        raise ConfigError(
            f"{where}: config_groups={shown(groups)} is not an object: download or copy config.json again"
        )
    found = tuple(_groups(groups, settings.get("format"), where))
    if not found:
        raise ConfigError(f"{where}: config_groups quantizes no weights: {INSTEAD}")
    return found


def _groups(groups: Mapping[str, Any], common: Any, where: str) -> Iterator[Group]:
    for name, group in groups.items():
        place = f"{where}: config_groups: {name}"
        if not isinstance(group, Mapping):
            raise ConfigError(f"{place}={shown(group)} is not supported: expected an object")
        weights = group.get("weights")
        if weights is None:
            continue
        if not isinstance(weights, Mapping):
            raise ConfigError(f"{place}: weights={shown(weights)} is not supported: expected an object")
        yield _group(name, group, weights, group.get("format") or common, place)


def _group(name: str, group: Mapping[str, Any], weights: Mapping[str, Any], format_: Any, where: str) -> Group:
    if format_ not in _FORMATS:
        raise ConfigError(f"{where}: format {shown(format_)} is not supported: {', '.join(_FORMATS)} are; {INSTEAD}")
    bits, kind = weights.get("num_bits", 8), weights.get("type", "int")
    is_float = kind == "float"
    widths = (_FLOATS[format_],) if is_float and format_ in _FLOATS else range(2, 9)
    fits = kind in ("int", "float") and format_ in (_FLOATS if is_float else _INTEGERS)
    if not fits or type(bits) is not int or bits not in widths:
        raise ConfigError(
            f"{where}: weights: {shown(bits)} bits of type {shown(kind)} are not supported with format {shown(format_)}"
        )
    symmetric = weights.get("symmetric", True)
    if is_float and not symmetric:
        raise ConfigError(
            f"{where}: weights: symmetric={shown(symmetric)} is not supported for type {shown(kind)}: true is"
        )
    return Group(
        name, _targets(group, where), format_, bits, is_float, bool(symmetric), _block(weights, format_, where)
    )


def _targets(group: Mapping[str, Any], where: str) -> tuple[str, ...]:
    targets = group.get("targets")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise ConfigError(f"{where}: targets={shown(targets)} is not supported: expected a list of texts")
    for target in targets:
        if not target.startswith("re:"):
            continue
        try:
            re.compile(target.removeprefix("re:"))
        except (re.error, OverflowError, RecursionError) as error:
            raise ConfigError(f"{where}: targets: {shown(target)} is no regular expression: {error}") from None
        if _SLOW.search(target):
            raise ConfigError(
                f"{where}: targets: {shown(target)} is not supported: it repeats a group, or has more than 5 "
                f"repetitions: name the modules by a simpler expression"
            )
    return tuple(targets)


def _block(weights: Mapping[str, Any], format_: str, where: str) -> tuple[int, int] | None:
    """What the strategy and its sizes say; a group size alone is one too."""
    group, structure = weights.get("group_size"), weights.get("block_structure")
    fixed = _FIXED_GROUPS.get(format_)
    strategy = weights.get("strategy")
    if strategy is None:
        strategy = "group" if isinstance(group, int) and group > 0 else "tensor"
    if strategy in ("group", "tensor_group"):
        if type(group) is not int or group < 1 or group != (fixed or group):
            expected = fixed or "a whole number of at least 1"
            raise ConfigError(f"{where}: weights: group_size={shown(group)} is not supported: expected {expected}")
        return 1, group
    if strategy == "block" and fixed is None:
        given = structure.split("x") if isinstance(structure, str) else structure
        sides = [int(side) for side in given if _SIDE.fullmatch(str(side))] if isinstance(given, list) else []
        if len(sides) != 2:
            raise ConfigError(
                f"{where}: weights: block_structure={shown(structure)} is not supported: expected two sizes"
            )
        return sides[0], sides[1]
    if strategy not in ("tensor", "channel") or fixed is not None:
        raise ConfigError(f"{where}: weights: strategy={shown(strategy)} is not supported with format {shown(format_)}")
    return None
