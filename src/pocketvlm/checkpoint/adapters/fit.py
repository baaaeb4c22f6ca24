"""`check_fit` checks that the tensors of an adapter are those of a plain LoRA and fit a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pocketvlm.checkpoint.adapters.keys import Key
from pocketvlm.checkpoint.adapters.settings import MERGE_WITH_PEFT, AdapterSettings
from pocketvlm.errors import TensorError
from pocketvlm.tensors import DenseTensor

Shape = tuple[int, ...]
Keys = Mapping[tuple[str, str], Key]  # by what they are, and the checkpoint's name of the tensor that they change

_SHOWN = 4
_CONVOLUTION = ".conv1d.weight"
_VISION = ("model.vision_tower.", "model.merger.")
_OTHER_BASE = "give the adapter's own base as the model"
_NO_VISION = "the model has no vision tower here: give its vision file (mmproj)"
_OTHER_FILES = "settings and tensors do not belong together, or were saved incompletely: copy or save both again"
_LEAVE_OUT = "leave it out of the targets and train again"


@dataclass(frozen=True, slots=True)
class _Problem:
    """What is wrong with a tensor, and the way out."""

    text: str
    way_out: str


def check_fit(
    keys: Keys, state: Mapping[str, DenseTensor], shapes: Mapping[str, Shape], settings: AdapterSettings, where: str
) -> None:
    """Raise one TensorError that lists the tensors that the model lacks, or that have another shape or rank.

    state: the tensors by the text of their keys. shapes: of the model's tensors. where: the file.
    """
    check = _Check(keys, shapes, settings)
    found = [check.problem(part, name, key, state[key.text].shape) for (part, name), key in keys.items()]
    problems = [problem for problem in found if problem is not None]
    if not problems:
        return
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    made_for = f" (it was trained on {settings.base})" if settings.base else ""
    listed = "; ".join(problem.text for problem in problems[:_SHOWN])
    ways_out = "; or ".join(dict.fromkeys(problem.way_out for problem in problems))
    raise TensorError(f"{where}: the adapter does not fit the model{made_for}: {listed}{more}: {ways_out}")


@dataclass(frozen=True, slots=True)
class _Check:
    """What the tensors are checked against."""

    keys: Keys
    shapes: Mapping[str, Shape]
    settings: AdapterSettings

    def problem(self, part: str, name: str, key: Key, found: Shape) -> _Problem | None:
        """What is wrong with a tensor; None if it fits."""
        if part == "unknown":
            return _Problem(f"{key.text} is no tensor of a plain LoRA{_method(key.text)}", MERGE_WITH_PEFT)
        if name not in self.shapes:
            blind = name.startswith(_VISION) and not any(each.startswith(_VISION) for each in self.shapes)
            text = f"{key.text} changes {name}, which the model does not have"
            return _Problem(text, _NO_VISION if blind else _OTHER_BASE)
        shape = self.shapes[name]
        if part in ("replacement", "base"):
            text = f"{key.text} is {list(found)}, but {name} {list(shape)}"
            return None if found == shape else _Problem(text, _OTHER_BASE)
        if part == "tokens":
            text = f"{key.text} is {list(found)}, but rows of {name} have {shape[-1]} values"
            return None if len(found) == 2 and found[1] == shape[-1] else _Problem(text, _OTHER_BASE)
        return self._factor_problem(part, name, key, found)

    def _factor_problem(self, part: str, name: str, key: Key, found: Shape) -> _Problem | None:
        kind, half = part.rsplit("_", 1)
        other, shape = "B" if half == "A" else "A", self.shapes[name]
        if (f"{kind}_{other}", name) not in self.keys:
            missing = f"lora_{'' if kind == 'lora' else 'embedding_'}{other}"
            return _Problem(f"{key.text} has no other half, {missing}", _OTHER_FILES)
        if name.endswith(_CONVOLUTION) or len(shape) == 1:
            what = "a vector" if len(shape) == 1 else "a depthwise convolution"
            return _Problem(f"{key.text} updates {name}, which is {what} and no matrix", _LEAVE_OUT)
        rank = self.settings.rank_of(key.module)
        wanted = _factor_shape(part, shape, rank)
        if found == wanted:
            return None
        axis = 1 if part.endswith("B") else 0
        if len(found) == len(wanted) and found[:axis] + found[axis + 1 :] == wanted[:axis] + wanted[axis + 1 :]:
            return _Problem(f"{key.text} has rank {found[axis]}, but {self.settings.where} says {rank}", _OTHER_FILES)
        return _Problem(
            f"{key.text} is {list(found)} instead of {list(wanted)} (rank {rank}, {name} {list(shape)})", _OTHER_BASE
        )


def _method(key: str) -> str:
    """The method that a key is of, for a message."""
    if "lora_magnitude" in key:
        return " (DoRA)"
    return " (a bias of lora_B)" if key.endswith(".bias") else ""


def _factor_shape(part: str, shape: Shape, rank: int) -> Shape:
    """The shape of a factor as peft saves it: of linear layers, embeddings, and convolutions."""
    ones = (1,) * len(shape[2:])
    return {
        "lora_A": (rank, *shape[1:]),
        "lora_B": (shape[0], rank, *ones),
        "embedding_A": (rank, shape[0]),
        "embedding_B": (shape[1], rank),
    }[part]
