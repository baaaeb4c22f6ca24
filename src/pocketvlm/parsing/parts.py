"""Deltas are the parts of an answer in the order in which they become known."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call begins. index: counts the calls of an answer from 0. name: as the model wrote it, known or not."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments; the pieces of one call concatenate to one JSON object."""

    index: int
    json: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call is whole. Every CallBegin has one, also where the answer was cut off."""

    index: int


AnswerPart = Content | Reasoning | CallBegin | CallArguments | CallEnd


def merged(parts: list[AnswerPart]) -> list[AnswerPart]:
    """The same with neighbours of one kind joined and empty ones left out."""
    result: list[AnswerPart] = []
    for part in parts:
        last = result[-1] if result else None
        if isinstance(part, Content) and isinstance(last, Content):
            result[-1] = Content(last.text + part.text)
        elif isinstance(part, Reasoning) and isinstance(last, Reasoning):
            result[-1] = Reasoning(last.text + part.text)
        elif isinstance(part, CallArguments) and isinstance(last, CallArguments) and last.index == part.index:
            result[-1] = CallArguments(part.index, last.json + part.json)
        elif not (isinstance(part, Content | Reasoning) and not part.text):
            result.append(part)
    return result
