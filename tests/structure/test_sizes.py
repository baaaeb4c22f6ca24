"""Ceilings on the length of files: 400 lines of Python, 600 of C++, 350 of TypeScript; a mean under 150 in each."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_tree import ROOT

FOLDERS = ("src", "native", "tests", "recipes", "benchmarks", "docs", "examples", "web/src", "web/tests")
LANGUAGES = {"Python": ({".py"}, 400), "C++": ({".cpp", ".h"}, 600), "TypeScript": ({".ts", ".tsx"}, 350)}
MEAN = 150


def lengths(suffixes: set[str]) -> dict[str, int]:
    """Path -> number of lines, for each file of a language."""
    files: list[Path] = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    return {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_file_is_too_long(language: str) -> None:
    suffixes, ceiling = LANGUAGES[language]
    long = {path: lines for path, lines in lengths(suffixes).items() if lines > ceiling}
    assert not long, f"split these by what they do; {language} files have at most {ceiling} lines"


@pytest.mark.parametrize("language", LANGUAGES)
def test_files_are_short_on_the_average(language: str) -> None:
    lines = lengths(LANGUAGES[language][0]).values()
    if lines:
        assert sum(lines) / len(lines) < MEAN
