"""Sizes in bytes: options have binary units (512M, 4G), figures for people decimal ones (104.9 MB, 1.3 B weights)."""

from __future__ import annotations

import re

from pocketvlm.errors import OptionError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_size(text: str, label: str) -> int:
    """A number of bytes, written as one or with K, M, G or T after it. Raises OptionError that names `label`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise OptionError(f"{label}={text} is not a size: give a number of bytes, or one such as 512M or 4G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def size_text(nbytes: int) -> str:
    """A number of bytes in the largest unit that divides it: 512M."""
    unit = max((unit for unit, scale in _UNITS.items() if nbytes % scale == 0), key=_UNITS.__getitem__)
    return f"{nbytes // _UNITS[unit]}{unit}" if nbytes else "0"


def readable_size(nbytes: float) -> str:
    """A number of bytes as people write it."""
    value, units = float(nbytes), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def readable_count(number: int) -> str:
    """A number of parameters as people write it: 1.3 B."""
    for unit, scale in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return str(number)
