"""What is loaded when: `import pocketvlm` and `pocketvlm --help` stay light, and PyTorch is never needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from source_tree import SOURCE, modules

REPORT = "import json, sys; sys.stderr.write('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"

HEAVY = {
    "PIL",
    "av",
    "fastapi",
    "httpx",
    "httpx2",
    "huggingface_hub",
    "jinja2",
    "llguidance",
    "numpy",
    "pillow_heif",
    "prometheus_client",
    "prompt_toolkit",
    "pydantic",
    "pypdfium2",
    "requests",
    "rich",
    "safetensors",
    "starlette",
    "tokenizers",
    "torch",
    "tqdm",
    "transformers",
    "typer",
    "uvicorn",
    "yaml",
}


def loaded(code: str) -> set[str]:
    """Top-level modules in memory after a fresh interpreter ran some code."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", f"{code}\n{REPORT}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded("import pocketvlm") & HEAVY


def test_importing_the_errors_and_types_loads_nothing_heavy() -> None:
    assert not loaded("from pocketvlm import OptionError, SamplingParams; SamplingParams()") & HEAVY


@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "run --help", "chat --help", "serve --help", "batch --help", "quantize --help"]
)
def test_the_command_line_answers_without_heavy_libraries(arguments: str) -> None:
    code = f"""
from pocketvlm.cli import main
try:
    status = main({arguments.split()!r})
except SystemExit as stop:
    status = stop.code
assert not status, status
"""
    light = {"rich", "typer"}
    assert not loaded(code) & (HEAVY - light)


def test_naming_a_model_on_disk_does_not_load_the_download_client() -> None:
    assert not loaded("from pocketvlm.checkpoint.hub import resolve; resolve('nano')") & (HEAVY - {"numpy"})


def test_a_text_prompt_loads_only_what_it_needs() -> None:
    """Each of these would take some 10 to 160 ms of every start."""
    code = """
from pocketvlm.cli import main
status = main("run nano -p hi --max-tokens 1 --weights int4 --threads 1 --temperature 0 --stop x --no-cache -q".split())
assert not status, status
"""
    needed = {"jinja2", "numpy", "tokenizers", "typer"}
    found = loaded(code)
    assert found & HEAVY == needed
    assert "pydantic" not in found


def test_the_interfaces_need_no_web_framework() -> None:
    """All of them, and an answer: batch jobs run where no server is installed."""
    names = [name for name in modules() if name.startswith("pocketvlm.interfaces")]
    code = (
        "\n".join(f"import {name}" for name in names)
        + """
import pocketvlm
from pocketvlm.interfaces.responder import Responder
with pocketvlm.load("nano", threads=1) as model:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    assert Responder(model).answer("/v1/chat/completions", body).status == 200
"""
    )
    assert len(names) > 20
    found = loaded(code)
    assert "pydantic" in found
    assert not found & {"anyio", "fastapi", "httptools", "multipart", "prometheus_client", "starlette", "uvicorn"}
