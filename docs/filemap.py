"""This script writes docs/files.md from the first sentence of each source file: `python docs/filemap.py`."""

from __future__ import annotations

import ast
import re
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "files.md"
FOLDERS = ("src/pocketvlm", "native", "web/src", "recipes", "benchmarks", "docs")
SUFFIXES = {".py", ".h", ".cpp", ".ts", ".tsx"}
MAX_LENGTH = 120
HEAD = """# Files

`python docs/filemap.py` (or `make docs`) writes this page from the first sentence of each file, and a test checks it.
[architecture.md](architecture.md) says how the parts fit together.
"""


def summary(path: Path) -> str:
    """The first sentence of a file; empty if it has none.

    Python: the first line of the docstring. C++ and TypeScript: the first sentences of the comment at the head, or,
    without one, the header of the same name that it implements.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    comment: list[str] = []
    for line in text.splitlines():
        if line.startswith("// "):
            comment.append(line.removeprefix("// ").strip())
        elif comment or line.strip() not in {"", "#pragma once"}:
            break
    if comment:
        said, *more = re.split(r"(?<=\.)\s", " ".join(comment))
        for sentence in more:
            if len(said) + len(sentence) > MAX_LENGTH:
                break
            said += " " + sentence
        return said
    header = path.stem + ".h"
    return f"The implementation of `{header}`." if f'#include "{path.parent.name}/{header}"' in text else ""


def sources() -> list[Path]:
    """The files that the map lists, in its order."""
    found = [
        (number, path)
        for number, folder in enumerate(FOLDERS)
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SUFFIXES and "build" not in path.relative_to(ROOT).parts
    ]
    found.sort(key=lambda item: (item[0], item[1].parent.parts, item[1].name != "__init__.py", item[1].name))
    return [path for _, path in found]


def rows(paths: list[Path]) -> list[str]:
    """The table rows of one folder."""
    return [f"| `{path.name}` | {summary(path).replace('|', chr(92) + '|')} |" for path in paths]


def render() -> str:
    """The tables, one for each folder."""
    lines: list[str] = []
    for folder, paths in groupby(sources(), key=lambda path: path.parent):
        title = folder.relative_to(ROOT).as_posix()
        lines += ["", f"**{title}/**", "", "| file | purpose |", "|---|---|", *rows(list(paths))]
    return "\n".join([*lines, ""])


def fresh_page() -> str:
    """docs/files.md as it should be."""
    return HEAD + render()


if __name__ == "__main__":
    PAGE.write_text(fresh_page(), encoding="utf-8")
