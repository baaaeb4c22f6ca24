"""Helpers of the chat tests: lines as they are typed."""

from __future__ import annotations

from pocketvlm.chat.commands import Reply, command
from pocketvlm.chat.session import Session


def run(session: Session, line: str) -> Reply:
    found = command(line)
    assert found is not None
    return found[0].run(session, found[1])


def lines(session: Session, line: str) -> str:
    return "\n".join(run(session, line).lines)


def ask(session: Session, line: str) -> None:
    list(session.ask(session.hear(line).text))
