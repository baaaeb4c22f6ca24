"""`Fields` reads the values of a JSON object or of a file's metadata, each checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import ConfigError

_SHOWN = 200  # characters of a value in an error
_LARGEST = 2**48  # of sizes: their products stay far from the limits of arrays


def shown(value: Any) -> str:
    """A value of a file as errors show it: long ones are cut."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class Fields:
    """Typed reading of one JSON object; every complaint names file, key and value."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data = data
        self.where = where

    def fail(self, key: str, wanted: str) -> ConfigError:
        """The error for a key whose value we do not support."""
        if key not in self.data:
            return ConfigError(f"{self.where}: {key} is missing: expected {wanted}")
        return ConfigError(f"{self.where}: {key}={shown(self.data[key])} is not supported: expected {wanted}")

    def integer(self, key: str, default: int | None = None, minimum: int = 1, maximum: int = _LARGEST) -> int:
        """A whole number from `minimum` to `maximum`; without a default the key must be there."""
        value = self.data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.fail(key, f"a whole number of at least {minimum}")
        if value > maximum:
            raise self.fail(key, f"a whole number of at most {maximum}")
        return value

    def optional_integer(self, key: str) -> int | None:
        """A whole number or null."""
        return None if self.data.get(key) is None else self.integer(key, minimum=0)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.data.get(key, default)
        if not is_finite(value):
            raise self.fail(key, "a finite number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.data.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def section(self, key: str) -> Fields:
        """A nested object."""
        value = self.data.get(key)
        if not isinstance(value, Mapping):
            raise self.fail(key, "an object")
        return Fields(value, f"{self.where}: {key}")

    def only(self, key: str, *allowed: object, default: object) -> None:
        """Refuse any value that is not one of `allowed` (an absent key counts as `default`)."""
        value = self.data.get(key, default)
        value = tuple(value) if isinstance(value, list) else value
        if value not in allowed:
            raise self.fail(key, " or ".join(repr(item) for item in allowed))

    def ids(self, key: str) -> tuple[int, ...]:
        """One id, several, or none."""
        value = self.data.get(key)
        items = [] if value is None else value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) or not isinstance(item, int) or item < 0 for item in items):
            raise self.fail(key, "a token id or a list of token ids")
        return tuple(items)


def is_finite(value: Any) -> bool:
    """Whether a value is a number that float32 holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2.0**127
