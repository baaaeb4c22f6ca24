"""The families of models that share the network: one file each, and one line each in the table `FAMILIES`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pocketvlm.families.family import Family, Markers
from pocketvlm.families.minicpmv4_6 import MINICPMV4_6
from pocketvlm.families.minicpmv4_7 import MINICPMV4_7

__all__ = ["FAMILIES", "MINICPMV4_6", "MINICPMV4_7", "Family", "Markers"]

# By the `model_type` of config.json.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        MINICPMV4_6.model_type: MINICPMV4_6,
        MINICPMV4_7.model_type: MINICPMV4_7,
    }
)
