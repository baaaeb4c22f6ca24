"""The schemes among which each matrix of the language model may have its own, by format, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from pocketvlm.config import ModelConfig
from pocketvlm.model import expected_tensors, tensor_roles
from pocketvlm.quantize.awq import rounded
from pocketvlm.quantize.recipes import FUSED_GROUPS
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.schemes import Role

Floats = NDArray[np.float32]
DENSE_BITS = 16.0
# What a budget of bits counts: the language model's matrices and its head.
COUNTED: tuple[Role, ...] = ("matrix", "gate", "head", "tied_embedding")
_CHOSEN: tuple[Role, ...] = ("matrix", "head", "tied_embedding")
_WIDTHS = {2: (32, 64), 3: (32, 64, 128), 4: (32, 64, 128), 5: (32, 64, 128), 6: (64, 128), 8: (64, 128)}
_AFFINE = tuple(f"int{bits}-g{group}" for bits, groups in _WIDTHS.items() for group in groups)
_MIXED: Mapping[str, tuple[str, ...]] = {
    "native": (*_AFFINE, "Q4_K", "Q5_K", "Q6_K"),
    "mlx": tuple(f"{name}-bias" for name in _AFFINE),
    "gguf": ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"),
}
_SAMPLED_ROWS, _SAMPLED_HEAD_ROWS = 128, 2048


def units_of(
    config: ModelConfig,
    format: str,
    schemes: Mapping[str, str | None],
    roles: Mapping[str, Role],
    fits: Callable[[str, str], bool],
) -> dict[tuple[str, ...], tuple[str | None, ...]]:
    """For matrices that share one scheme, the schemes that they may have; None: 16 bits.

    schemes: of the recipe; what it leaves dense stays dense. Formats that do not mix schemes choose between the
    recipe's and 16 bits, for matrices that engines join together. fits: whether the format holds a tensor in a scheme.
    """
    shapes = expected_tensors(config)
    found: dict[tuple[str, ...], tuple[str | None, ...]] = {}
    for name, role in roles.items():
        base = schemes[name]
        if base is None or role not in _CHOSEN or any(name in unit for unit in found):
            continue
        mixed = _MIXED.get(format)
        if mixed is None:
            joined = tuple(other for other in _joined(name) if schemes.get(other) is not None)
            found[joined] = (base, None)
        else:
            found[(name,)] = tuple(
                other
                for other in dict.fromkeys((*mixed, base))
                if tensor_scheme(other).problem((shapes[name][0], shapes[name][1])) is None and fits(name, other)
            )
    return found


def mixes(format: str, schemes: Mapping[str, str | None], roles: Mapping[str, Role]) -> bool:
    """Whether a format takes other schemes of the same family for each matrix of a recipe."""
    family = _MIXED.get(format, ())
    return all(scheme is None or scheme in family for name, scheme in schemes.items() if roles[name] in _CHOSEN)


def _joined(name: str) -> tuple[str, ...]:
    """The matrices that engines join with this one."""
    for group in FUSED_GROUPS:
        for module in group:
            if name.endswith(f".{module}.weight"):
                return tuple(name.replace(module, other) for other in group)
    return (name,)


def bits_of(scheme: str | None, shape: tuple[int, ...]) -> float:
    """Bits of all values of a matrix."""
    each = DENSE_BITS if scheme is None else tensor_scheme(scheme).bits_per_weight((shape[0], shape[1]))
    return each * prod(shape)


def mean_bits(schemes: Mapping[str, str | None], config: ModelConfig) -> float:
    """Bits for each weight of the language model's matrices and head, scales included."""
    shapes = expected_tensors(config)
    counted = [name for name, role in tensor_roles(config).items() if role in COUNTED]
    return sum(bits_of(schemes[name], shapes[name]) for name in counted) / sum(prod(shapes[name]) for name in counted)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some rows of a matrix, evenly spread. weight: how many rows of the matrix each of them stands for."""

    values: Floats
    weight: float


def sampled_rows(w: Floats, role: Role) -> Rows:
    """Rows from which the error of a matrix is estimated."""
    wanted = _SAMPLED_ROWS if role == "matrix" else _SAMPLED_HEAD_ROWS
    rows = np.ascontiguousarray(w[:: max(1, len(w) // wanted)])
    return Rows(rows, len(w) / len(rows))


def rounding_error(rows: Rows, gram: Floats, scheme: str) -> float:
    """The squared output error of a whole matrix after rounding to nearest."""
    importance = np.ascontiguousarray(np.diagonal(gram))
    difference = rows.values - rounded(rows.values, tensor_scheme(scheme), importance)
    return float(((difference @ gram) * difference).sum(dtype=np.float64)) * rows.weight
