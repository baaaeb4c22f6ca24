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


Delta = Content | Reasoning | CallBegin | CallArguments | CallEnd


def merged(deltas: list[Delta]) -> list[Delta]:
    """The same with neighbours of one kind joined and empty ones left out."""
    result: list[Delta] = []
    for delta in deltas:
        last = result[-1] if result else None
        if isinstance(delta, Content) and isinstance(last, Content):
            result[-1] = Content(last.text + delta.text)
        elif isinstance(delta, Reasoning) and isinstance(last, Reasoning):
            result[-1] = Reasoning(last.text + delta.text)
        elif isinstance(delta, CallArguments) and isinstance(last, CallArguments) and last.index == delta.index:
            result[-1] = CallArguments(delta.index, last.json + delta.json)
        elif not (isinstance(delta, Content | Reasoning) and not delta.text):
            result.append(delta)
    return result
