"""What a caller may ask of a backend: the names, which of them go together, and what is meant where nothing is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from pocketvlm.errors import OptionError
from pocketvlm.suggest import nearest

Backend = Literal["native", "torch"]
Precision = Literal["exact", "fast"]
Weights = Literal["auto", "int4", "int8", "bf16"]

BACKENDS: tuple[str, ...] = get_args(Backend)
PRECISIONS: tuple[str, ...] = get_args(Precision)
WEIGHTS: tuple[str, ...] = get_args(Weights)


@dataclass(frozen=True, slots=True)
class Choice:
    """Arithmetic and weight type that a backend uses, and the reason for each; weights are never "auto" here."""

    precision: Precision
    weights: Weights
    precision_reason: str
    weights_reason: str


def choose(backend: str, weights: str = "auto", precision: str | None = None) -> Choice:
    """What weights and precision mean on a backend; precision None is "fast" on native and "exact" on torch.

    Raises OptionError for a name that is not known and for names that contradict each other.
    """
    _known("backend", backend, BACKENDS)
    _known("weights", weights, WEIGHTS)
    if precision is not None:
        _known("precision", precision, PRECISIONS)
    if backend == "torch":
        if precision == "fast":
            raise OptionError(
                "precision='fast' needs backend='native': the torch backend computes in float32; leave precision out"
            )
        if weights not in ("auto", "bf16"):
            raise OptionError(
                f"weights={weights!r} needs backend='native': the torch backend keeps weights as stored; leave it out"
            )
    elif precision == "exact" and weights not in ("auto", "bf16"):
        raise OptionError(
            f"weights={weights!r} contradicts precision='exact', which keeps weights as stored: "
            f"leave one of them out, or give weights='bf16'"
        )
    fast = backend == "native" and precision != "exact"
    auto = "int8" if fast else "bf16"
    return Choice(
        precision="fast" if fast else "exact",
        weights=cast(Weights, auto if weights == "auto" else weights),
        precision_reason=f"the default of backend {backend}" if precision is None else "asked for",
        weights_reason=f"the default of precision {'fast' if fast else 'exact'}" if weights == "auto" else "asked for",
    )


def _known(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = nearest(str(value), choices)
        hint = f": did you mean {near!r}?" if near else ""
        raise OptionError(f"{option}={value!r} is not known: choose one of {', '.join(choices)}{hint}")
