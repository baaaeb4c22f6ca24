"""Jobs on many machines with Ray (extra `ray`): `build_processor` for Ray Data, `pocketvlm.ray.serve` for Ray Serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketvlm.ray.config import PocketVLMEngineProcessorConfig
    from pocketvlm.ray.processor import Processor, build_processor

__all__ = ["PocketVLMEngineProcessorConfig", "Processor", "build_processor"]

_HOMES = {
    "PocketVLMEngineProcessorConfig": "pocketvlm.ray.config",
    "Processor": "pocketvlm.ray.processor",
    "build_processor": "pocketvlm.ray.processor",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that actors that need only a part import only that."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
