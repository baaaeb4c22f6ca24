"""Checked values of a checkpoint's quantization settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pocketvlm.checkpoint.formats.format import Settings
from pocketvlm.errors import ConfigError
from pocketvlm.fields import shown

INSTEAD = "use another export of the model, or the 16-bit checkpoint, e.g. openbmb/MiniCPM-V-4.6"


def method_of(settings: Settings) -> str | None:
    """The quantization method in lower case; None where the settings name none."""
    value = settings.get("quant_method") or settings.get("method")
    return value.lower() if isinstance(value, str) else None


def integer(settings: Settings, keys: Sequence[str], where: str, default: int, minimum: int = 1) -> int:
    """The value of the first key that is there, null counting as absent. Raises ConfigError unless a whole number."""
    for key in keys:
        value = settings.get(key)
        if value is None:
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value >= minimum and value != 0:
            return value
        raise ConfigError(
            f"{where}: {key}={shown(value)} is not supported: download or copy the file again, or {INSTEAD}"
        )
    return default


def choice(settings: Settings, keys: Sequence[str], where: str, default: str, choices: Sequence[str]) -> str:
    """The value of the first key that is there, in lower case. Raises ConfigError, naming it, unless a choice."""
    for key in keys:
        value = settings.get(key)
        if value is None:
            continue
        if isinstance(value, str) and value.lower() in choices:
            return value.lower()
        names = " or ".join(map(repr, choices))
        raise ConfigError(f"{where}: {key}={shown(value)} is not supported, only {names} is: {INSTEAD}")
    return default


def flag(settings: Settings, key: str, where: str, default: bool) -> bool:
    """The value of a key, null counting as absent. Raises ConfigError for a value that is not true or false."""
    value: Any = settings.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {key}={shown(value)} is neither true nor false: download or copy the file again")
    return value


def refuse_if_set(settings: Settings, key: str, where: str, what: str) -> None:
    """Raise ConfigError if a key has a value that asks for something: `what` says for what."""
    if settings.get(key):
        raise ConfigError(f"{where}: {key}={shown(settings[key])}: {what} is not supported: {INSTEAD}")
