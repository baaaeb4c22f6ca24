"""Someone with an own cache who pulls models from a stand-in hub, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_server import StandInHub

# huggingface_hub reads its environment when it is imported, so each run is a process; it prints one JSON line.
CLIENT = """
import json, sys
from pocketvlm.checkpoint.hub import pull
from pocketvlm.errors import PocketVLMError
model, revision, hook = json.loads(sys.argv[1])
calls = []
try:
    pulled = pull(model, revision, (lambda done, total: calls.append((done, total))) if hook else None)
    answer = {"path": str(pulled.path), "files": pulled.files, "bytes": pulled.nbytes, "calls": calls}
except PocketVLMError as error:
    answer = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(answer))
"""

SMALL_FILES_ONLY = """
from pocketvlm.checkpoint.hub import resolve
from pocketvlm.checkpoint.huggingface import read_checkpoint
import json, sys
path = resolve(json.loads(sys.argv[1])[0], weights=False)
checkpoint = read_checkpoint(path, weights=False)
answer = {"path": str(path), "tensors": len(checkpoint.entries), "vocabulary": checkpoint.model.text.vocab_size}
print(json.dumps(answer))
"""


@dataclass
class User:
    """The hub that they use and their HF_HOME."""

    hub: StandInHub
    home: Path

    def pull(
        self, model: str, revision: str | None = None, hook: bool = False, client: str = CLIENT, **environment: str
    ) -> dict[str, Any]:
        """Run the client to its end; returns its answer with stderr added."""
        process = self.start(model, revision, hook, client, **environment)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        return {**json.loads(stdout), "stderr": stderr}

    def start(
        self, model: str, revision: str | None = None, hook: bool = False, client: str = CLIENT, **environment: str
    ) -> subprocess.Popen[str]:
        """Start the client."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        source = str(Path(__file__).parents[2] / "src")
        settings = {
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]),
            "NO_PROXY": "*",
        }
        return subprocess.Popen(
            [sys.executable, "-c", client, json.dumps([model, revision, hook])],
            env={**inherited, **settings, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def read_files(directory: Path) -> dict[str, bytes]:
    """Name -> content of the files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}
