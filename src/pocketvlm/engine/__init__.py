"""The engine runs many requests one step at a time; it knows token ids, not text."""

from pocketvlm.engine.engine import Engine
from pocketvlm.engine.request import Request, StageSeconds, TokenEvent
from pocketvlm.engine.service import EngineService, Ticket
from pocketvlm.engine.stats import EngineStats

__all__ = ["Engine", "EngineService", "EngineStats", "Request", "StageSeconds", "Ticket", "TokenEvent"]
