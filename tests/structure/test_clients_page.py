"""docs/clients.md has a section for each client that the tests run, and its blocks of code parse."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from source_tree import ROOT

CLIENTS = ROOT / "tests" / "clients"
TEXT = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
# Names in the tests, and the headings of their sections.
SECTIONS = {
    "agents": "OpenAI Agents", "ai_sdk.mjs": "AI SDK", "aider": "aider", "anthropic": "Anthropic",
    "anthropic.mjs": "OpenAI and Anthropic for JavaScript", "claude": "Claude Code", "codex": "Codex",
    "continue": "Continue", "guidellm": "GuideLLM", "instructor": "Instructor", "langchain": "LangChain",
    "litellm": "LiteLLM", "llm": "llm", "llm_comply": "llm-comply", "ollama": "Ollama",
    "ollama.mjs": "Ollama for JavaScript", "openai": "OpenAI", "openai.mjs": "OpenAI and Anthropic for JavaScript",
    "opencode": "opencode", "pi": "pi", "pydantic_ai": "Pydantic AI", "specs": "Specifications",
}  # fmt: skip


def clients_of_the_tests() -> set[str]:
    """The clients of tests/clients: its programs, the cases of agents, and one test for each command."""
    found = {path.name.removeprefix("use_").removesuffix(".py") for path in (CLIENTS / "programs").glob("use_*")}
    for path in CLIENTS.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("CASES", "VIEWERS"):
                assert isinstance(node.value, ast.Dict)
                found |= {str(ast.literal_eval(key)).split(",")[0] for key in node.value.keys if key is not None}
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and path.stem != "test_programs":
                found.add(node.name.removeprefix("test_").split("_through")[0])
    return {name for name in found if not name.startswith("an_agent")}


def test_every_tested_client_has_a_section() -> None:
    headings = set(re.findall(r"^### (.+)$", TEXT, re.MULTILINE))
    assert clients_of_the_tests() == set(SECTIONS), "docs/clients.md needs a section for each client"
    assert set(SECTIONS.values()) <= headings
    assert headings - set(SECTIONS.values()) == {"Open WebUI", "Ollama's command"}, "these are said not to be run"


def shell(text: str) -> None:
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


PARSERS: dict[str, Callable[[str], object]] = {
    "json": json.loads, "python": ast.parse, "sh": shell, "toml": tomllib.loads, "yaml": yaml.safe_load,
}  # fmt: skip


@pytest.mark.parametrize(("language", "text"), BLOCKS)
def test_blocks_of_code_parse(language: str, text: str, tmp_path: Path) -> None:
    if language != "js":
        assert PARSERS[language](text) != ""
        return
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js")
    program = tmp_path / "block.mjs"
    program.write_text(text, encoding="utf-8")
    subprocess.run([node, "--check", program], check=True)
