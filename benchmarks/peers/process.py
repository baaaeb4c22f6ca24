"""Talks to a worker process in JSON lines over its pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class WorkerError(Exception):
    """A worker that ended, or a command that it refused."""


class Worker:
    """A running worker. A context manager: the process ends with the block."""

    def __init__(self, script: Path, arguments: Sequence[str], packages: Sequence[Path] = ()) -> None:
        """Start `script`; packages: folders put in front of its module search path."""
        before = os.environ.get("PYTHONPATH")
        search = [str(path) for path in packages] + ([before] if before else [])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search)} if search else None
        command = [sys.executable, str(script), *arguments]
        self._name = script.name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, do: str, **values: Any) -> dict[str, Any]:
        """Have one command carried out; raises WorkerError where it is not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        try:
            print(json.dumps({"do": do, **values}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        if not line:
            raise WorkerError(f"{self._name} ended with status {self._process.wait()}: its message is on stderr")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self._name}, {do}: {answer['error']}")
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
