"""Runs a client as a process of its own against servers in this one, and records what it asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from server.kit import EXAMPLES, Running, Script, running

from pocketvlm.engine.driver import Ticket
from pocketvlm.engine.request import Request, TokenEvent
from pocketvlm.server.context import Context

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
NODE = ROOT / "build" / "clients"
PICTURE = EXAMPLES / "apple.png"
DONE = "It is done."
SECONDS = 120


@dataclass
class Exchange:
    """One request and the status of its answer."""

    method: str
    path: str
    body: Any = None
    status: int = 0
    error: str = ""


class Recorder:
    """An ASGI application around the server's that notes each request."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []

    def around(self, app: Any) -> Any:
        """Wrap an application."""

        async def recorded(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            exchange = Exchange(scope["method"], scope["path"])
            self.exchanges.append(exchange)
            parts: list[bytes] = []

            async def heard() -> Any:
                message = await receive()
                if message["type"] == "http.request":
                    parts.append(message.get("body", b""))
                    if not message.get("more_body", False):
                        exchange.body = _parsed(b"".join(parts))
                return message

            async def said(message: Any) -> None:
                if message["type"] == "http.response.start":
                    exchange.status = message["status"]
                elif exchange.status >= 400:
                    exchange.error += message.get("body", b"").decode("utf-8", "replace")
                await send(message)

            await app(scope, heard, said)

        return recorded

    def failures(self) -> list[str]:
        """The requests that were not answered with success."""
        bad = [each for each in self.exchanges if each.status >= 400]
        return [f"{each.method} {each.path}: {each.status} {each.error[:300]}" for each in bad]


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


class Agent(Script):
    """Stands in for a model that calls each offered function once, and says DONE when it has the result.

    calls: arguments by the function's name; the first that is offered is called. The prompt decides, because agents
    ask for titles and the like at the same time.
    """

    def __init__(self, calls: dict[str, dict[str, Any]]) -> None:
        super().__init__([DONE])
        self.calls = calls

    def install(self, context: Context) -> None:
        """Put it into the place of a server's engine; agents' prompts are longer than the small model's context."""
        super().install(context)
        context.builder.max_model_len = 1 << 17

    def submit(self, request: Request, deliver: Callable[[TokenEvent], None]) -> Ticket:
        """Answer one request."""
        text = str(request.prompt.text)
        offered = [name for name in self.calls if f'"name": "{name}"' in text]
        answer = DONE
        if offered and "<tool_response>" not in text:
            name = offered[0]
            given = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in self.calls[name].items())
            answer = f"<tool_call>\n<function={name}>\n{given}</function>\n</tool_call>"
        thinks = text.rstrip().endswith("<think>")
        self.texts = [f"I look.\n</think>\n\n{answer}" if thinks else answer]
        return super().submit(request, deliver)


@dataclass
class Servers:
    """The real model, and the stand-in that calls functions; what both were asked, and the stand-in's prompts."""

    model: Running
    agent: Running
    script: Agent
    recorder: Recorder = field(default_factory=Recorder)

    def asked(self) -> str:
        """All that was sent, as text."""
        return json.dumps([each.body for each in self.recorder.exchanges])


@contextmanager
def servers(calls: dict[str, dict[str, Any]]) -> Iterator[Servers]:
    """Both servers, for one test."""
    recorder, script = Recorder(), Agent(calls)
    with (
        running(around=recorder.around) as model,
        running(around=recorder.around, prepare=script.install) as agent,
    ):
        yield Servers(model, agent, script, recorder)


def python(environment: str) -> Path:
    """The programs of one of the Python environments."""
    return _installed(ROOT / ".venv-clients" / environment) / "bin"


def node() -> Path:
    """The programs of npm's packages."""
    return _installed(NODE) / "node_modules" / ".bin"


def _installed(folder: Path) -> Path:
    if not (folder / ".installed").exists():
        pytest.skip("`make test-clients` installs the clients")
    return folder


def run(command: list[str | Path], home: Path, **environment: str) -> str:
    """What a client prints; raises AssertionError where it fails. It gets no proxies and no settings of the user."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(PICTURE, home / "picture.png")
    path = os.pathsep.join([str(NODE / "node_modules" / ".bin"), os.environ["PATH"]])
    quiet = dict.fromkeys(("DO_NOT_TRACK", "DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "NO_COLOR"), "1")
    found = subprocess.run(
        [str(part) for part in command],
        cwd=home,
        env={"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", **quiet, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-6000:]
    return found.stdout


def settings(servers_: Servers) -> dict[str, str]:
    """What the programs in programs/ read."""
    return {
        "MODEL_SERVER": servers_.model.url,
        "AGENT_SERVER": servers_.agent.url,
        "PICTURE": str(PICTURE),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
    }
