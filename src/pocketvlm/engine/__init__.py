"""The engine runs many requests one step at a time; it knows token ids, not text."""

from pocketvlm.engine.driver import EngineDriver, Ticket
from pocketvlm.engine.engine import Engine
from pocketvlm.engine.request import Request, StageSeconds, TokenEvent
from pocketvlm.engine.stats import EngineStats

__all__ = ["Engine", "EngineDriver", "EngineStats", "Request", "StageSeconds", "Ticket", "TokenEvent"]
