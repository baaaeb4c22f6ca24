"""The package's layers: imports go down only, and each outside library has its one place."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from source_tree import Import, all_imports, imports, modules, part_of

# Outside module -> the only places in the package that may import it (dotted prefixes). Nothing else may be imported.
PLACES: dict[str, tuple[str, ...]] = {
    "PIL": ("processor",),
    "accelerate": ("train",),
    "av": ("processor",),
    "fastapi": ("server",),
    "huggingface_hub": ("checkpoint.download", "checkpoint.download_errors"),
    "jinja2": ("processor",),
    "llguidance": ("guided",),
    "matplotlib": ("bench.load.plot", "bench.comparison.plot", "train.plot"),
    "numpy": (
        *(
            "types",
            "tensors",
            "adapters",
            "families",
            "backends",
            "model",
            "processor",
            "checkpoint",
            "parsing",
            "scoring",
            "engine",
            "guided",
            "quantize",
            "train",
            "api",
        ),
        *("interfaces", "bench", "jobs", "ray"),
    ),
    "peft": ("train",),
    "pillow_heif": ("processor.decode",),
    "prometheus_client": ("server.metrics",),
    "prompt_toolkit": ("cli.chatting.editor",),
    "pyarrow": ("jobs.parquet", "train.data.files"),
    "pydantic": ("interfaces.endpoints", "interfaces.schemas"),
    "pydantic_core": ("guided", "interfaces.endpoints"),
    "pypdfium2": ("processor.pdf",),
    "ray": ("ray",),
    "rich": ("cli",),
    "safetensors": ("quantize", "train"),
    "starlette": ("ray.ingress", "server"),
    "tokenizers": ("processor",),
    "torch": ("backends.torch", "train"),
    "transformers": ("train",),
    "tqdm": ("checkpoint.download",),
    "typer": ("cli",),
    "uvicorn": ("server",),
    "yaml": ("server.settings",),
}
# Parts of the standard library that open connections.
NETWORK = {"ftplib", "http", "smtplib", "socket", "socketserver", "ssl", "urllib.error", "urllib.request", "xmlrpc"}
NETWORK_PLACES = ("checkpoint.download", "processor.fetch", "server")
# Reserves names of Unix sockets, and opens no connection.
NAME_PLACES = ("ray.cores",)
NATIVE = "pocketvlm._native"


def inside(module: str, places: tuple[str, ...]) -> bool:
    local = module.removeprefix("pocketvlm.")
    return any(local == place or local.startswith(place + ".") for place in places)


def is_network(target: str) -> bool:
    return any(target == name or target.startswith(name + ".") for name in NETWORK)


def complaint(found: Import) -> str | None:
    """What is wrong with an import, or None."""
    top = found.target.split(".")[0]
    if found.target.startswith(NATIVE):
        return None if inside(found.module, ("backends.native",)) else "only backends/native uses the C++ extension"
    if top == "pocketvlm":
        return floor_complaint(found)
    if found.target == "socket" and inside(found.module, NAME_PLACES):
        return None
    if is_network(found.target):
        return None if inside(found.module, NETWORK_PLACES) else f"only {', '.join(NETWORK_PLACES)} touch the network"
    if top in sys.stdlib_module_names:
        return None
    if top not in PLACES:
        return "a new dependency: give it a place in tests/structure/test_floors.py and a row in docs/dependencies.md"
    if not inside(found.module, PLACES[top]):
        return f"only {', '.join(PLACES[top])} may import {top}"
    here = part_of(found.module)
    if here is not None and here[0] == 0 and found.runs:
        return "the ground floor runs on the standard library alone"
    return None


def floor_complaint(found: Import) -> str | None:
    """What is wrong with an import inside the package, or None."""
    here, there = part_of(found.module), part_of(found.target)
    if here is None:
        # The root hands out public names on first use, `__main__` starts the command line: no floor above them.
        return "the package root imports nothing when it is imported" if module_is_root(found) else None
    if there is None:
        return None if found.target in {"pocketvlm", "pocketvlm.__version__"} else "this module belongs to no floor"
    if here[1] == there[1] or there[0] < here[0]:
        return None
    return f"{here[1]} (floor {here[0]}) may not import {there[1]} (floor {there[0]}): imports go down only"


def module_is_root(found: Import) -> bool:
    return found.module == "pocketvlm" and found.runs


def test_every_module_has_a_floor() -> None:
    homeless = [name for name in modules() if part_of(name) is None]
    packages = {"pocketvlm", "pocketvlm.__main__", "pocketvlm.backends"}
    assert set(homeless) <= packages, "give these a place in tests/structure/source_tree.py: FLOORS"


def test_imports_go_down_only_and_libraries_stay_in_their_place() -> None:
    wrong = [f"{found}: {text}" for found in all_imports() if (text := complaint(found)) is not None]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "code", "message"),
    [
        ("pocketvlm.model.text", "from pocketvlm.engine.engine import Engine", "go down only"),
        ("pocketvlm.model.text", "from pocketvlm.processor import sizes", "go down only"),
        ("pocketvlm.model.text", "def f():\n    import pocketvlm.api", "go down only"),
        ("pocketvlm.backends.torch.ops", "from pocketvlm.backends import native", "go down only"),
        ("pocketvlm.backends.torch.ops", "from ..native import ops", "go down only"),
        ("pocketvlm.engine.engine", "import importlib\nimportlib.import_module('pocketvlm.cli')", "go down only"),
        ("pocketvlm.engine.engine", "import torch", "only backends.torch"),
        ("pocketvlm.engine.engine", "from pocketvlm import _native", "C\\+\\+ extension"),
        ("pocketvlm.engine.engine", "from PIL import Image", "only processor"),
        ("pocketvlm.processor.image", "import urllib.request", "touch the network"),
        ("pocketvlm.processor.image", "from urllib import request", "touch the network"),
        ("pocketvlm.processor.image", "import requests", "new dependency"),
        ("pocketvlm.config", "import numpy", "only types"),
        ("pocketvlm.types", "import numpy", "standard library alone"),
        ("pocketvlm", "from pocketvlm.api import load", "root imports nothing"),
    ],
)
def test_the_walk_sees_what_is_forbidden(tmp_path: Path, module: str, code: str, message: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(code)
    texts = [text for found in imports(module, path) if (text := complaint(found)) is not None]
    assert len(texts) == 1
    assert re.search(message, texts[0])


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("pocketvlm.types", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy"),
        ("pocketvlm.engine.engine", "from pocketvlm.model import text\nfrom pocketvlm.errors import OptionError"),
        ("pocketvlm.cli.app", "from pocketvlm import __version__\nimport typer"),
        ("pocketvlm.backends.native.ops", "from pocketvlm import _native"),
        ("pocketvlm.processor.media", "from urllib.parse import quote"),
    ],
)
def test_the_walk_allows_what_is_allowed(tmp_path: Path, module: str, code: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(code)
    assert [complaint(found) for found in imports(module, path)] == [None] * len(list(imports(module, path)))


def test_no_module_runs_code_for_its_effect() -> None:
    """At module level only definitions, assignments, imports and conditions: no bare calls."""
    calls = [
        f"{name} line {node.lineno}: {ast.unparse(node)[:80]}"
        for name, path in modules().items()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    allowed = [call for call in calls if call.split()[0].startswith("pocketvlm.cli")]
    assert calls == allowed, "\n".join(calls)
