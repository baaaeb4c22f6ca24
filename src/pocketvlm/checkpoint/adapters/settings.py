"""`AdapterSettings` reads adapter_config.json: ranks, scales, and the methods that are no plain LoRA."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pocketvlm.errors import ConfigError
from pocketvlm.fields import Fields, is_finite, shown

MERGE_WITH_PEFT = (
    "merge it with peft (PeftModel.from_pretrained(base, adapter).merge_and_unload()) and use the saved model"
)
_CONVERT = (
    "its training changed the base's weights too: save it with peft's path_initial_model_for_weight_conversion, which "
    "makes a plain LoRA of it"
)
_TRAIN_PLAIN = "train a plain LoRA, or " + MERGE_WITH_PEFT

# Fields that make an adapter something else than W + scale * B A, where they have a value, and the way out.
_OTHER_METHODS = {
    "use_dora": ("DoRA", MERGE_WITH_PEFT),
    "alora_invocation_tokens": ("aLoRA, which updates only the tokens after its invocation", "train a plain LoRA"),
    "lora_bias": ("a bias of lora_B", MERGE_WITH_PEFT),
    "target_parameters": ("LoRA of parameters that are no modules", MERGE_WITH_PEFT),
    "layer_replication": ("a copy of layers", _TRAIN_PLAIN),
    "use_qalora": ("QA-LoRA, which pools the inputs", _TRAIN_PLAIN),
    "use_bdlora": ("BD-LoRA, whose factors are block-diagonal", _TRAIN_PLAIN),
    "arrow_config": ("Arrow, which routes between adapters", "give the adapters one by one"),
    "kasa_config": ("KaSA, which has singular values beside the factors", _TRAIN_PLAIN),
    "monteclora_config": ("MonteCLoRA, which samples its factors", _TRAIN_PLAIN),
}
# Beginnings of `init_lora_weights` whose training starts from other base weights (peft, LoraLayer.update_layer).
_CHANGES_BASE = {
    "pissa": ("PiSSA", _CONVERT),
    "olora": ("OLoRA", _CONVERT),
    "corda": ("CorDA", _CONVERT),
    "lora_ga": ("LoRA-GA", _CONVERT),
    "loftq": ("LoftQ", "its base is a quantized model of its own: " + MERGE_WITH_PEFT),
}
_LARGEST_RANK = 1 << 16


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """What adapter_config.json says of each module.

    where: the file, for errors. base: base_model_name_or_path, "" where it says none. tokens: the field
    trainable_token_indices as it stands.
    """

    where: str
    base: str
    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    tokens: Any

    @classmethod
    def read(cls, data: Mapping[str, Any], where: str) -> AdapterSettings:
        """Read the object of adapter_config.json.

        fan_in_fan_out is ignored, as peft does for the linear layers that this network has. The lists of targets are
        ignored too: the tensors decide which modules are adapted. Raises ConfigError for another method than LoRA, and
        for values of another kind.
        """
        fields = Fields(data, where)
        _refuse_other_methods(data, where)
        base = data.get("base_model_name_or_path")
        return cls(
            where=where,
            base=base if isinstance(base, str) else "",
            rank=fields.integer("r", 8, maximum=_LARGEST_RANK),
            alpha=fields.number("lora_alpha", 8),
            use_rslora=bool(data.get("use_rslora")) and fields.flag("use_rslora", False),
            rank_pattern=_pattern(fields, "rank_pattern", whole=True),
            alpha_pattern=_pattern(fields, "alpha_pattern", whole=False),
            tokens=data.get("trainable_token_indices"),
        )

    def rank_of(self, module: str) -> int:
        """The rank of a module, named as in the network that was trained."""
        return int(_matching(self.rank_pattern, module, self.rank))

    def scale_of(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) with rslora (Kalajdzievski 2023, section 3)."""
        rank, alpha = self.rank_of(module), float(_matching(self.alpha_pattern, module, self.alpha))
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _refuse_other_methods(data: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError, naming field, value and the way out, for an adapter that is no plain LoRA."""
    kind = data.get("peft_type")
    if kind is None:
        raise ConfigError(f"{where}: peft_type is missing: give the adapter_config.json that peft wrote")
    if kind != "LORA":
        raise ConfigError(f"{where}: peft_type={shown(kind)} is not supported, only 'LORA' is: {_TRAIN_PLAIN}")
    for key, (method, way_out) in _OTHER_METHODS.items():
        if data.get(key):
            raise ConfigError(f"{where}: {key}={shown(data[key])}: {method} is not supported: {way_out}")
    start = data.get("init_lora_weights")
    if isinstance(start, str):
        for name, (method, way_out) in _CHANGES_BASE.items():
            if start.lower().startswith(name):
                raise ConfigError(f"{where}: init_lora_weights={start!r}: {method} is not supported: {way_out}")


def _pattern(fields: Fields, key: str, whole: bool) -> dict[str, Any]:
    """A mapping of regular expressions to ranks or alphas."""
    value = fields.data.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise fields.fail(key, "an object of module names and numbers")
    for name, number in value.items():
        valid = is_finite(number) and (not whole or (isinstance(number, int) and 0 < number <= _LARGEST_RANK))
        if not valid:
            wanted = f"a whole number from 1 to {_LARGEST_RANK}" if whole else "a finite number"
            raise ConfigError(f"{fields.where}: {key}[{name!r}]={shown(number)} is not supported: expected {wanted}")
        try:
            re.compile(_expression(name))
        except (re.error, OverflowError, RecursionError) as error:
            raise ConfigError(
                f"{fields.where}: {key}[{name!r}] is no regular expression ({error}): write module names such as "
                f"'layers.0.mlp.up_proj'"
            ) from None
    return dict(value)


def _expression(key: str) -> str:
    return rf"(.*\.)?({key})$"


def _matching(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first key that matches a module as peft matches it: the end of its name, from a dot on."""
    return next((value for key, value in pattern.items() if re.match(_expression(key), module)), default)
