"""The engine: many requests, one step at a time. It knows ids, not text."""

from pocketvlm.engine.engine import Engine
from pocketvlm.engine.request import Request, TokenEvent

__all__ = ["Engine", "Request", "TokenEvent"]
