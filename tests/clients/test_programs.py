"""Libraries: a program for each goes through text, streams, pictures, functions, schemas and thinking."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from clients.kit import NODE, PROGRAMS, node, python, run, servers, settings

pytestmark = pytest.mark.clients

CALLS = {"weather": {"city": "Paris", "days": 3}}
ENVIRONMENTS = {"instructor": "instructor"}


@pytest.mark.parametrize("program", sorted(path.stem for path in PROGRAMS.glob("use_*.py")))
def test_python(program: str, tmp_path: Path) -> None:
    interpreter = python(ENVIRONMENTS.get(program.removeprefix("use_"), "libraries")) / "python"
    with servers(CALLS) as both:
        run([interpreter, PROGRAMS / f"{program}.py"], tmp_path, **settings(both))


@pytest.mark.parametrize("program", sorted(path.stem for path in PROGRAMS.glob("use_*.mjs")))
def test_javascript(program: str, tmp_path: Path) -> None:
    found = node()
    for path in PROGRAMS.glob("*.mjs"):  # packages are looked for above the program's folder
        shutil.copy(path, NODE)
    with servers(CALLS) as both:
        run([found / "node", NODE / f"{program}.mjs"], tmp_path, **settings(both))
        # A thread that goes on is not found: clients then send the whole conversation.
        assert not [failure for failure in both.recorder.failures() if "thread_not_found" not in failure]
