"""These are the requests of /v1/load_lora_adapter and /v1/unload_lora_adapter, with vLLM's fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pocketvlm.interfaces.fields import ADAPTERS
from pocketvlm.interfaces.schemas.common import Body

_Text = Annotated[str, Field(min_length=1, max_length=4096)]


class LoadAdapterRequest(Body):
    """An adapter to load, and the name that requests then use."""

    interface = ADAPTERS
    lora_name: _Text
    lora_path: _Text = Field(description="Its directory, below --adapter-dir; also relative to that.")
    load_inplace: bool | None = Field(None, description="true: in place of the adapter of this name, if there is one.")


class UnloadAdapterRequest(Body):
    """The name of an adapter that new requests shall not use."""

    interface = ADAPTERS
    lora_name: _Text
