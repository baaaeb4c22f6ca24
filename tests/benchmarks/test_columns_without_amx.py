"""On a processor with AMX, quantized files have a column of a build without AMX, and of the native one if it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest
from comparison import engines as module
from comparison.engines import DENSE_FILES, MAIN_FILES, Engines
from comparison.goals import MAIN, judge
from comparison.rows import Figures
from process import WorkerError


class Build:
    """A build of llama.cpp; crashes: with quantized files."""

    def __init__(self, crashes: bool = False) -> None:
        self.crashes = crashes

    def ask(self, kinds: str, do: str, **values: Any) -> dict[str, Any]:
        if self.crashes and "Q4" in kinds:
            raise WorkerError("ended with status -11")
        return {"seconds": 1.0}

    def seconds(self, kinds: str, do: str, shared: int = 1, **values: Any) -> Callable[[], float]:
        return lambda: float(self.ask(kinds, do)["seconds"])

    def stop(self, kinds: str | None = None) -> None:
        pass


def made(monkeypatch: pytest.MonkeyPatch, amx: bool, crashes: bool) -> tuple[Engines, list[str]]:
    """Engines on such a processor, and the lines that they complain with."""
    said: list[str] = []
    monkeypatch.setattr(module, "has_amx", lambda: amx)
    engines = Engines(argparse.Namespace(no_llama=False), said.append)
    engines.__dict__ |= {"llama": Build(crashes), "without_amx": Build() if amx else None}
    return engines, said


@pytest.mark.parametrize(
    ("amx", "crashes", "columns", "vision_files"),
    [
        (False, False, [MAIN], MAIN_FILES),
        (True, False, [MAIN, f"{MAIN} without AMX"], MAIN_FILES),
        (True, True, [f"{MAIN} without AMX"], DENSE_FILES),
    ],
)
def test_columns(
    monkeypatch: pytest.MonkeyPatch, amx: bool, crashes: bool, columns: list[str], vision_files: str
) -> None:
    engines, said = made(monkeypatch, amx, crashes)
    found = engines.llama_columns(MAIN_FILES, MAIN, "decode", depth=32, tokens=1)
    assert list(found) == columns
    assert all(timer() == 1.0 for timer in found.values())
    assert list(engines.llama_columns("BF16", "llama.cpp BF16", "prefill", ids=[1])) == ["llama.cpp BF16"]
    assert engines.vision_files == vision_files
    assert len(said) == crashes
    assert engines.quantized_llama() is (engines.without_amx if crashes else engines.llama)


def test_goals_are_judged_by_the_build_without_amx_where_the_other_is_missing() -> None:
    name = "decode, depth 32, int4"
    pairs = {f"{MAIN} without AMX": [(1.0, 2.0)]}
    verdicts = judge({name: Figures(name, tokens=1, pairs=pairs)})
    assert [verdict.met for verdict in verdicts if verdict.goal.kind == "ratio"] == [True]
