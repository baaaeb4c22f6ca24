"""AutoRound's own format: the layouts of GPTQ and AWQ under the method "auto-round" with a `packing_format`.

Its words hold 2 to 8 bits a value. What AutoRound exports as GPTQ or AWQ names these methods and is read there.
"""

from __future__ import annotations

from typing import Any

from pocketvlm.checkpoint.formats.awq import AWQFormat
from pocketvlm.checkpoint.formats.format import Entries, Settings
from pocketvlm.checkpoint.formats.gptq import GPTQFormat, group_sizes
from pocketvlm.checkpoint.formats.gptq_zeros import Zeros
from pocketvlm.checkpoint.formats.settings import INSTEAD, flag, integer, method_of, refuse_if_set
from pocketvlm.errors import ConfigError
from pocketvlm.fields import shown

METHODS = ("auto-round", "auto_round", "autoround", "intel/auto-round")
_WORD_BITS = (2, 3, 4, 5, 6, 7, 8)
_AWQ_BITS = (4, 5, 6, 7)
_DENSE_BITS = 16
# Parts of a packing's name that name the kernel which was to read it, not another layout.
_KERNELS = frozenset({"exllamav2", "tritonv2", "triton", "marlin", "cuda"})


def read_auto_round(settings: Settings, where: str, entries: Entries) -> GPTQFormat | AWQFormat | None:
    """The format that settings describe, None for another method. Raises ConfigError for an unsupported variant."""
    if method_of(settings) not in METHODS:
        return None
    for section, place in _sections(settings, where):
        _check_numbers(section, place)
    for key in ("rotation_config", "spinquant_config"):
        refuse_if_set(settings, key, where, "a rotation of activations")
    packing = settings.get("packing_format") or settings.get("backend") or "auto"
    names = _names(packing)
    bits = integer(settings, ("bits",), where, 4)
    sizes = group_sizes(settings, where, "extra_config")
    symmetric = flag(settings, "sym", where, True)
    if names in ({"auto_round", "auto_awq"}, {"auto_round", "awq"}):
        return AWQFormat("AutoRound", bits, sizes, symmetric, _AWQ_BITS)
    if names in ({"auto"}, {"auto_round", "auto_gptq"}, {"auto_round", "gptq"}):
        zeros = Zeros(offset=1.0)
    elif names == {"auto_round", "gptqmodel"} or (names == {"auto_round"} and ":" not in str(packing)):
        zeros = Zeros()
    else:
        raise ConfigError(
            f"{where}: packing_format={shown(packing)} is not supported, only auto_round, auto_round:auto_gptq, "
            f"auto_round:gptqmodel and auto_round:auto_awq are: {INSTEAD}"
        )
    return GPTQFormat("AutoRound", bits, sizes, symmetric, zeros, _WORD_BITS)


def _sections(settings: Settings, where: str) -> list[tuple[Settings, str]]:
    """The settings, and those that `extra_config` gives for some modules, with the place of each."""
    extra = settings.get("extra_config")
    if extra is not None and not isinstance(extra, dict):
        raise ConfigError(f"{where}: extra_config={shown(extra)} is not an object: download or copy the file again")
    sections = [(settings, where)]
    for module, values in (extra or {}).items():
        if isinstance(values, dict):
            sections.append((values, f"{where}: extra_config[{module!r}]"))
    return sections


def _check_numbers(settings: Settings, where: str) -> None:
    """Refuse other numbers than integers, scales of scales, and activations that are quantized too."""
    if integer(settings, ("bits",), where, 4) >= _DENSE_BITS:
        return
    kind: Any = settings.get("data_type")
    if kind is not None and kind not in ("int", "int_sym", "int_asym"):
        raise ConfigError(f"{where}: data_type={shown(kind)} is not supported, only 'int' is: {INSTEAD}")
    activations = integer(settings, ("act_bits",), where, _DENSE_BITS)
    if activations < _DENSE_BITS:
        raise ConfigError(
            f"{where}: act_bits={activations} is not supported: activations have 16 bits or more: {INSTEAD}"
        )
    for key in ("super_bits", "super_group_size"):
        refuse_if_set(settings, key, where, "a scale of scales")


def _names(packing: Any) -> set[str]:
    """The parts of a packing's name without kernels."""
    return set(str(packing).lower().split(":")) - _KERNELS
