"""Starts the compared servers as processes and pauses those without a turn."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pocketvlm.bench.load.http import Address, Client
from pocketvlm.bench.load.prompts import Cost, Prompts
from pocketvlm.bench.load.run import learn_cost

PEERS = Path(__file__).resolve().parent.parent / "peers"
ROUTE = "/chat/completions"
START_SECONDS = 180


class StartError(Exception):
    """A server that did not start; the text says why."""


@dataclass
class Server:
    """A server. fields: of each request. output: most tokens that it is asked for in a turn; slow ones get fewer."""

    name: str
    command: Sequence[str]
    model: str
    port: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    output: int = 128
    process: subprocess.Popen[bytes] | None = None
    cost: Cost = field(default_factory=Cost)
    prompts: Prompts = field(init=False)

    def __post_init__(self) -> None:
        self.prompts = Prompts("chat", {"model": self.model, "temperature": 0, **self.fields}, seed=0)

    def client(self) -> Client:
        """A client with connections of its own; it belongs to the running event loop."""
        return Client(Address.parse(f"http://127.0.0.1:{self.port}/v1"))

    def start(self, log: Path) -> None:
        """Start it and wait until it answers. Raises StartError."""
        environment = {**os.environ, **self.environment}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                list(self.command), stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise StartError(f"it ended with status {self.process.returncode}: {_last(log)}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                self.cost = asyncio.run(self._first())
            except Exception:  # any failure may only mean that the server still loads
                time.sleep(0.5)
                continue
            return
        raise StartError(f"no answer within {START_SECONDS} s: {_last(log)}")

    async def _first(self) -> Cost:
        client = self.client()
        try:
            return await learn_cost(client, self.prompts, ROUTE)
        finally:
            client.close()

    def pause(self) -> None:
        """Stop the process while other servers are measured."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def shown(self) -> str:
        """The command that started it, without paths of this machine."""
        parts = [Path(part).name if "/" in part else part for part in self.command]
        return " ".join(part for part in parts if part != str(self.port)).replace(" --port", "")

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.resume()
            self.process.kill()
            self.process.wait()
            self.process = None

    def request(self, body: Mapping[str, Any], client: Client) -> bytes:
        """A request as it is sent."""
        return client.request("POST", ROUTE, json.dumps(body).encode())


def free_port() -> int:
    """A free port."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def ours(checkpoint: str, cache: Path, threads: int, weights: str) -> Server:
    """`pocketvlm serve`."""
    port = free_port()
    command = [sys.executable, "-m", "pocketvlm", "serve", checkpoint, "--port", str(port), "--log", "none"]
    command += ["--weights", weights, "--threads", str(threads), "--served-model-name", "bench"]
    environment = {"POCKETVLM_CACHE": str(cache)}
    return Server("pocketvlm", command, "bench", port, {"ignore_eos": True}, environment)


def llama(binary: Path, files: Mapping[str, Path], threads: int, more: Sequence[str]) -> Server:
    """llama.cpp's own server: Q4_K_M text weights, bf16 vision, 16 slots of 2048 tokens."""
    port = free_port()
    command = [str(binary), "-m", str(files["text Q4_K_M"]), "--mmproj", str(files["mmproj BF16"])]
    command += ["--host", "127.0.0.1", "--port", str(port), "--threads", str(threads), "--threads-batch", str(threads)]
    command += [
        "--parallel",
        "16",
        "--cont-batching",
        "--ctx-size",
        str(16 * 2048),
        "--flash-attn",
        "on",
        "--no-webui",
        *more,
    ]
    return Server("llama.cpp server Q4_K_M", command, "bench", port, {"ignore_eos": True})


def llama_python(packages: Sequence[Path], files: Mapping[str, Path], threads: int) -> Server:
    """The server of llama-cpp-python, which answers one request at a time; used without a binary of llama.cpp's."""
    port = free_port()
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(files["text Q4_K_M"])]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_threads", str(threads), "--n_ctx", "2048"]
    return Server("llama-cpp-python server Q4_K_M", command, "bench", port, environment=_search(packages))


def transformers(checkpoint: Path, packages: Sequence[Path], threads: int) -> Server:
    """`transformers serve` in bf16; it refuses `ignore_eos`, and has no continuous batching for this model."""
    port = free_port()
    command = [sys.executable, str(PEERS / "transformers_serve.py"), str(checkpoint), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", "cpu", "--dtype", "bfloat16", "--continuous-batching"]
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads), **_search(packages)}
    return Server("transformers serve bf16", command, str(checkpoint), port, {}, environment, output=32)


def _search(packages: Sequence[Path]) -> dict[str, str]:
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([*map(str, packages), *([before] if before else [])])}


def _last(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " / ".join(lines[-3:])[-600:]
