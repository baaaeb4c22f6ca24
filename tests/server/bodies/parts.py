"""What the recorded request bodies share: a picture, a function with its call, a schema."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = base64.b64encode((Path(__file__).parents[3] / "examples" / "apple.png").read_bytes()).decode()
URI = f"data:image/png;base64,{DATA}"
ID = "call_0a1b2c3d4e5f"
ARGUMENTS = {"city": "Paris"}
ARGUMENTS_TEXT = '{"city":"Paris"}'
# Values come from lists, so that the small model ends its answers.
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
DRAFT = {"$schema": "http://json-schema.org/draft-07/schema#", **SCHEMA}


@dataclass(frozen=True)
class Sent:
    """One request as a client sends it. schema: what the text of its answer must match."""

    client: str
    about: str
    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    schema: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The name of its test."""
        return f"{self.client}: {self.about}"


def function(name: str = "weather", parameters: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A function in the form of chat completions and of Ollama."""
    told = {"name": name, "description": "The weather.", "parameters": parameters or SCHEMA}
    return {"type": "function", "function": {**told, **more}}


def flat(name: str = "weather", parameters: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A function in the form of responses."""
    told = {"name": name, "description": "The weather.", "parameters": parameters or SCHEMA}
    return {"type": "function", **told, **more}


def call(arguments: Any = ARGUMENTS_TEXT, name: str = "weather") -> dict[str, Any]:
    """An earlier call in the form of chat completions."""
    return {"id": ID, "type": "function", "function": {"name": name, "arguments": arguments}}
