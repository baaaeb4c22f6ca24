"""Plain values of options: parsed without Typer, with the same result as by Typer."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from pocketvlm.cli.app import app
from pocketvlm.cli.plain import _NOT_PLAIN, _Coercion, _is_bounded, plain

TYPED = [
    "",
    "a",
    "12",
    "-3",
    "0",
    "007",
    "1_0",
    " 5",
    "1.5",
    "-0.0",
    "1e3",
    ".5",
    "nan",
    "16x",
    "int8",
    "INT8",
    "é",
    "٣",
]
GIVEN = [3, 2.5, True, ["a", "b"], ["1", "x"], ("5",), []]


def options() -> list[Any]:
    """Every option and argument of every command, but those with limits, which Typer reads."""
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    found = [option for command in commands for option in command.params if hasattr(option, "type_descriptor")]
    return [option for option in found if not _is_bounded(option)]


def test_typer_says_the_same_of_every_option_and_value() -> None:
    taken, left = 0, 0
    for option in options():
        annotation, usual = option.type_descriptor.annotation, option.get_runtime_param()
        for value in (*TYPED, *GIVEN):
            found = plain(annotation, value)
            if found is _NOT_PLAIN:
                left += 1
                continue
            taken += 1
            expected = usual.coerce(value, param=option, ctx=None)
            assert (found, type(found)) == (expected, type(expected)), (option.name, value)
    assert taken > 200
    assert left > 200


def test_typer_says_the_same_of_every_option_that_is_not_given() -> None:
    for option in options():
        usual = option.get_runtime_param()
        ours = _Coercion(option.type_descriptor.annotation, option.get_runtime_param)
        assert ours.coerce(None, option, None) == usual.coerce(None, param=option, ctx=None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run nano hi --max-tokens 1.5", "'--max-tokens'"),
        ("run nano hi --max-tokens many", "'many'"),
        ("run nano hi --temperature warm", "'warm'"),
        ("run nano hi --weights int9", "did you mean"),
        ("run nano hi --stop-token-id 1 --stop-token-id x", "'x'"),
    ],
)
def test_wrong_values_are_left_to_typer(invoke: Any, line: str, words: str) -> None:
    outcome = invoke(*line.split())
    assert outcome.code == 2
    assert words in outcome.err
