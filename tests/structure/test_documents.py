"""Documents that must not drift: the file map, the dependency page, and paths of somebody's machine."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from source_tree import ROOT


@pytest.fixture(scope="module")
def filemap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("filemap", ROOT / "docs" / "filemap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tracked() -> Iterator[Path]:
    """The files under version control."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    yield from (ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file())


def test_the_file_map_is_fresh(filemap: ModuleType) -> None:
    same = filemap.PAGE.read_text(encoding="utf-8") == filemap.fresh_page()
    assert same, "docs/architecture.md is stale: run `python docs/filemap.py` (or `make docs`) and commit it"


def test_every_source_file_says_what_it_is(filemap: ModuleType) -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in filemap.sources()
        if not (filemap.summary(path) or filemap.instruction_set(path))
    ]
    assert not silent, "give these a first line that says what they are (docstring, or // comment at the head)"


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    places = re.compile(rb"(?<![\w.:/-])/(?:work|home|root|Users)/\w")
    found = [
        f"{path.relative_to(ROOT)}: line {number}"
        for path in tracked()
        if b"\0" not in (data := path.read_bytes())
        for number, line in enumerate(data.splitlines(), 1)
        if places.search(line)
    ]
    assert not found


def declared() -> set[str]:
    """The names of all dependencies in pyproject.toml, in lower case with hyphens."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    lines = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(x for xs in extras for x in xs),
    ]
    # An extra may name the package itself, with another extra.
    return {normal(re.split(r"[<>=!~\[; ]", line)[0]) for line in lines} - {"pocketvlm"}


def normal(name: str) -> str:
    return name.strip("` ").lower().replace("_", "-")


def test_the_dependency_page_has_a_row_for_each_dependency() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = {normal(row.split("|")[1]) for row in page.splitlines() if row.startswith("| `")}
    assert declared() <= rows, "add rows to docs/dependencies.md"
    assert rows - {"cmake", "ninja"} <= declared(), "rows of docs/dependencies.md without an entry in pyproject.toml"


def test_links_between_the_documents_lead_somewhere() -> None:
    broken = []
    for path in tracked():
        if path.suffix == ".md":
            for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
                if "://" not in link and not (path.parent / link).exists():
                    broken.append(f"{path.relative_to(ROOT)}: {link}")
    assert not broken
