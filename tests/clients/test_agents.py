"""Coding agents: each gets a task, calls a function, sends the result back and says the final answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clients.kit import DONE, Servers, node, python, run, servers

pytestmark = pytest.mark.clients

COMMAND = "echo called > called.txt"


@dataclass(frozen=True)
class Case:
    """An agent: the function it offers with arguments, and how it is started."""

    calls: dict[str, dict[str, Any]]
    start: Callable[[Servers, Path], str]


def codex(both: Servers, home: Path) -> str:
    """OpenAI's, through /v1/responses."""
    lines = [
        'model = "nano"',
        'model_provider = "local"',
        "[model_providers.local]",
        'name = "local"',
        f'base_url = "{both.agent.url}/v1"',
        'wire_api = "responses"',
        "request_max_retries = 0",
        "stream_max_retries = 0",
        "[analytics]",
        "enabled = false",
    ]
    folder = home / "codex"
    folder.mkdir()
    (folder / "config.toml").write_text("\n".join(lines))
    asked = ["exec", "--skip-git-repo-check", "-s", "danger-full-access", "-i", "picture.png", "--", "Look."]
    return run([node() / "codex", *asked], home, CODEX_HOME=str(folder))


def claude(both: Servers, home: Path) -> str:
    """Anthropic's, through /v1/messages."""
    environment = {
        "ANTHROPIC_BASE_URL": both.agent.url,
        "ANTHROPIC_API_KEY": "none",
        "ANTHROPIC_MODEL": "nano",
        "ANTHROPIC_SMALL_FAST_MODEL": "nano",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
    }
    return run([node() / "claude", "-p", "Look.", "--allowedTools", "Bash,Read"], home, **environment)


def pi(api: str) -> Callable[[Servers, Path], str]:
    """The agent of that name, through each of its interfaces."""

    def start(both: Servers, home: Path) -> str:
        model = {
            "id": "nano",
            "name": "nano",
            "reasoning": True,
            "input": ["text", "image"],
            "contextWindow": 32000,
            "maxTokens": 1000,
            "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        }
        url = both.agent.url if api == "anthropic-messages" else f"{both.agent.url}/v1"
        provider = {"baseUrl": url, "api": api, "apiKey": "none", "models": [model]}
        folder = home / ".pi" / "agent"
        folder.mkdir(parents=True)
        (folder / "models.json").write_text(json.dumps({"providers": {"local": provider}}))
        asked = ["-p", "--thinking", "low", "--provider", "local", "--model", "nano", "@picture.png", "Look."]
        return run([node() / "pi", *asked], home, PI_OFFLINE="1", PI_TELEMETRY="0")

    return start


def opencode(both: Servers, home: Path) -> str:
    """opencode, through /v1/chat/completions."""
    model = {
        "name": "nano",
        "tool_call": True,
        "attachment": True,
        "modalities": {"input": ["text", "image"], "output": ["text"]},
        "limit": {"context": 32000, "output": 1000},
    }
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "local",
        "options": {"baseURL": f"{both.agent.url}/v1", "apiKey": "none"},
        "models": {"nano": model},
    }
    config = {"autoupdate": False, "share": "disabled", "model": "local/nano", "small_model": "local/nano"}
    folder = home / ".config" / "opencode"
    folder.mkdir(parents=True)
    (folder / "opencode.json").write_text(json.dumps({**config, "provider": {"local": provider}}))
    off = ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS")
    environment = {f"OPENCODE_DISABLE_{name}": "1" for name in off}
    return run([node() / "opencode", "run", "-f", "picture.png", "--", "Look."], home, **environment)


def continue_(both: Servers, home: Path) -> str:
    """Continue's command, through /v1/chat/completions."""
    home.mkdir(exist_ok=True)
    (home / "config.yaml").write_text(
        "name: local\nversion: 1.0.0\nschema: v1\nmodels:\n  - name: nano\n    provider: openai\n    model: nano\n"
        f"    apiBase: {both.agent.url}/v1\n    apiKey: none\n    roles: [chat]\n"
        "    capabilities: [tool_use, image_input]\n"
    )
    asked = ["-p", "Look.", "--config", "config.yaml", "--auto"]
    return run([node() / "cn", *asked], home, CONTINUE_TELEMETRY_ENABLED="0")


CASES = {
    "codex": Case({"exec_command": {"cmd": COMMAND}}, codex),
    "claude": Case({"Bash": {"command": COMMAND, "description": "A call."}}, claude),
    "pi, chat": Case({"bash": {"command": COMMAND}}, pi("openai-completions")),
    "pi, responses": Case({"bash": {"command": COMMAND}}, pi("openai-responses")),
    "pi, messages": Case({"bash": {"command": COMMAND}}, pi("anthropic-messages")),
    "opencode": Case({"bash": {"command": COMMAND, "description": "A call."}}, opencode),
    "continue": Case({"Bash": {"command": COMMAND}}, continue_),
}
TAKES_PICTURES = ("codex", "pi, chat", "pi, responses", "pi, messages", "opencode")


@pytest.mark.parametrize("name", CASES)
def test_an_agent_does_its_task(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    with servers(case.calls) as both:
        said = case.start(both, tmp_path)
        assert DONE in said
        assert (tmp_path / "called.txt").read_text() == "called\n"
        assert not both.recorder.failures()
        if name in TAKES_PICTURES:
            assert any(request.prompt.images for request in both.script.requests)


VIEWERS = {
    "codex": Case({"view_image": {"path": "picture.png"}}, codex),
    "claude": Case({"Read": {"file_path": "picture.png"}}, claude),
    "pi, chat": Case({"read": {"path": "picture.png"}}, pi("openai-completions")),
    "pi, responses": Case({"read": {"path": "picture.png"}}, pi("openai-responses")),
    "pi, messages": Case({"read": {"path": "picture.png"}}, pi("anthropic-messages")),
    "opencode": Case({"read": {"filePath": "picture.png"}}, opencode),
}


@pytest.mark.parametrize("name", VIEWERS)
def test_an_agent_looks_at_a_picture(name: str, tmp_path: Path) -> None:
    """The function's result is a picture."""
    case = VIEWERS[name]
    calls = {call: {**given, next(iter(given)): str(tmp_path / "picture.png")} for call, given in case.calls.items()}
    with servers(calls) as both:
        assert DONE in case.start(both, tmp_path)
        assert not both.recorder.failures()
        assert both.script.requests[-1].prompt.images


def test_aider(tmp_path: Path) -> None:
    """It calls no functions: it reads edits out of the text."""
    with servers({}) as both:
        off = ["--no-git", "--no-check-update", "--no-show-model-warnings", "--no-show-release-notes", "--no-pretty"]
        asked = ["--message", "Look.", "--yes-always", "--analytics-disable", *off]
        model = ["--model", "openai/nano", "--openai-api-base", f"{both.agent.url}/v1"]
        environment = {"OPENAI_API_KEY": "none", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        assert DONE in run([python("aider") / "aider", *model, *asked], tmp_path, **environment)
        assert not both.recorder.failures()
