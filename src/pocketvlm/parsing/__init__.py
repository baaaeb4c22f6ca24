"""Parsers read the text of an answer: reasoning, text, tool calls, stop strings, endless repetition.

Every parser reads a stream and gives the same result at any split of it. Names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketvlm.parsing.answer import AnswerParser
    from pocketvlm.parsing.newlines import NewlineNormalizer, normalize_newlines
    from pocketvlm.parsing.parts import AnswerPart, CallArguments, CallBegin, CallEnd, Content, Reasoning
    from pocketvlm.parsing.runaway import RunawayGuard
    from pocketvlm.parsing.stops import StopStrings

__all__ = [
    "AnswerParser",
    "AnswerPart",
    "CallArguments",
    "CallBegin",
    "CallEnd",
    "Content",
    "NewlineNormalizer",
    "Reasoning",
    "RunawayGuard",
    "StopStrings",
    "normalize_newlines",
]

_HOME = {
    "AnswerParser": "answer",
    "CallArguments": "parts",
    "CallBegin": "parts",
    "CallEnd": "parts",
    "Content": "parts",
    "AnswerPart": "parts",
    "NewlineNormalizer": "newlines",
    "Reasoning": "parts",
    "RunawayGuard": "runaway",
    "StopStrings": "stops",
    "normalize_newlines": "newlines",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
