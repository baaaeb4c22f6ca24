"""What the structure tests know about the source tree: its files, floors and imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"

# Imports go down only; parts on one floor never import each other. docs/architecture.md draws this.
FLOORS = (
    ("types", "options", "errors", "bytesize", "schemes", "atomic", "lru", "packfile", "suggest"),
    ("tensors", "families", "fields", "backends.options", "backends.batch", "backends.top"),
    ("config", "backends.ops", "adapters"),
    ("backends.backend",),
    ("backends.native", "backends.torch"),
    ("backends",),
    ("model", "processor", "checkpoint", "parsing", "scoring"),
    ("engine", "guided", "quantize", "train"),
    ("answers",),
    ("api",),
    ("interfaces",),
    ("jobs",),
    ("server", "bench", "chat"),
    ("cli", "ray"),
)
BASE = "base"


@dataclass(frozen=True)
class Import:
    """One import statement: the module it stands in, the dotted name it asks for, its line, whether it runs."""

    module: str
    target: str
    line: int
    runs: bool

    def __str__(self) -> str:
        return f"{self.module} line {self.line} imports {self.target}"


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    found = {}
    for path in sorted(SOURCE.glob("pocketvlm/**/*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def part_of(module: str) -> tuple[int, str] | None:
    """Floor and name of the part that a module of the package belongs to; None for the root and the entry point."""
    local = module.removeprefix("pocketvlm").removeprefix(".")
    for floor, parts in enumerate(FLOORS):
        for part in parts:
            if local == part or local.startswith(part + "."):
                # The modules of the ground floor are one part: they build on each other.
                return floor, BASE if floor == 0 else part
    return None


def imports(module: str, path: Path) -> Iterator[Import]:
    """Every import in a file, those inside functions and by `import_module("...")` included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known = modules()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def walk(node: ast.AST, runs: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(module, name.name, node.lineno, runs)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            start = ".".join(filter(None, (base, node.module)))
            for name in node.names:
                whole = f"{start}.{name.name}"
                is_module = whole in known or start in {"pocketvlm", "urllib"} or part_of(whole) != part_of(start)
                yield Import(module, whole if is_module else start, node.lineno, runs)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            text = node.args[0] if node.args else None
            if called in {"import_module", "__import__"} and isinstance(text, ast.Constant):
                yield Import(module, str(text.value), node.lineno, runs)
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, runs and not checking)

    yield from walk(tree, runs=True)


def all_imports() -> list[Import]:
    """Every import of the package."""
    return [found for module, path in modules().items() for found in imports(module, path)]
