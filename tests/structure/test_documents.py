"""Documents must agree with the code: file map, dependencies, citations, walks, links, and no paths of a machine."""

from __future__ import annotations

import ast
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
    assert same, "docs/files.md is stale: run `python docs/filemap.py` (or `make docs`) and commit it"


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


def test_each_module_begins_with_a_sentence() -> None:
    package = ROOT / "src" / "pocketvlm"
    first = {
        path: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "") for path in package.rglob("*.py")
    }
    bad = [
        str(path.relative_to(ROOT))
        for path, text in first.items()
        if text.partition("\n")[0][-1:] not in {".", ")", "`"}
    ]
    assert not bad, (
        "the first line of a module's docstring is one whole sentence: it becomes the entry in docs/files.md"
    )


def sections(page: str) -> set[str]:
    """The numbers of a page's headings, and of the list items below them: "3.5", "3.5.2"."""
    found: set[str] = set()
    heading = ""
    for line in page.splitlines():
        if number := re.match(r"#+ (\d+(?:\.\d+)*)\.? ", line):
            found.add(heading := number[1])
        elif heading and (item := re.match(r"(\d+)\. ", line)):
            found.add(f"{heading}.{item[1]}")
    return found


def test_every_cited_model_fact_exists() -> None:
    known = sections((ROOT / "docs" / "model.md").read_text(encoding="utf-8"))
    cited: dict[str, str] = {}
    for path in tracked():
        if path.suffix in {".py", ".h", ".cpp"}:
            for numbers in re.findall(r"docs/model\.md ([\d., -]*\d)", path.read_text(encoding="utf-8")):
                cited |= dict.fromkeys(re.split(r"[, -]+", numbers), str(path.relative_to(ROOT)))
    assert len(cited) > 20
    missing = {number: path for number, path in cited.items() if number not in known}
    assert not missing, "docs/model.md has no such section"


def test_the_walks_name_functions_that_exist() -> None:
    """Numbered stops of docs/architecture.md: `path.py:name`, `path.py:Class.name` or `path.h:name`."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    stops = re.findall(r"`([\w/]+\.(?:py|h|cpp)):([\w.]+)`", page)
    assert len(stops) > 30
    missing = []
    for name, function in stops:
        path = ROOT / ("" if name.startswith("native/") else "src/pocketvlm") / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for part in function.split("."):
            defined = rf"(?:def|class) {part}\b" if path.suffix == ".py" else rf"\b{part}\("
            if not re.search(defined, text):
                missing.append(f"{name}:{function}")
    assert not missing


def test_the_architecture_page_stays_short() -> None:
    lines = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 250, "move what is about one topic to that topic's page"


def test_every_page_is_linked() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    index = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8") + (ROOT / "README.md").read_text(
        encoding="utf-8"
    )
    lost = {name for name in pages if f"{name})" not in index and f"{name}#" not in index}
    assert not lost, "link each page of docs/ from docs/architecture.md or README.md"


def anchors(page: Path) -> set[str]:
    """What links to the headings of a page end with, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_the_documents_lead_somewhere() -> None:
    broken = []
    for path in tracked():
        if path.suffix == ".md":
            for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?[^)]*\)", path.read_text(encoding="utf-8")):
                target = path.parent / link if link else path
                if "://" in link:
                    continue
                if not target.exists() or (anchor and anchor not in anchors(target)):
                    broken.append(f"{path.relative_to(ROOT)}: {link}#{anchor}")
    assert not broken
