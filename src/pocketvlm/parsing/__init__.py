"""Answers taken apart (stand-in until the real parsers are merged)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Content:
    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    index: int
    json: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    index: int


Delta = Content | Reasoning | CallBegin | CallArguments | CallEnd


class AnswerParser:
    def __init__(
        self, *, tools: Sequence[Mapping[str, Any]] = (), thinking: bool = False, parallel: bool = True
    ) -> None:
        self.thinking = thinking

    def feed(self, text: str) -> list[Delta]:
        return [Reasoning(text) if self.thinking else Content(text)] if text else []

    def finish(self) -> list[Delta]:
        return []


class RunawayGuard:
    def add(self, token_id: int) -> bool:
        return False
