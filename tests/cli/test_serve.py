"""`pocketvlm serve` as a process: its line when it is ready, where options come from, signals, and refusals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import pocketvlm

COMMAND = [sys.executable, "-m", "pocketvlm", "serve"]
SOURCE = str(Path(pocketvlm.__file__).parents[1])


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A server process, its address, and its first line."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", *arguments],
        env={**os.environ, "PYTHONPATH": SOURCE, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address is not None, line + process.stderr.read()
        yield process, address[0], line
    finally:
        process.kill()
        process.communicate()


def refused(*arguments: str, **environment: str) -> str:
    """What a start that fails says, which is one line."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "PYTHONPATH": SOURCE, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def ask(stream: bool, tokens: int) -> dict[str, object]:
    messages = [{"role": "user", "content": "hello"}]
    return {"model": "nano", "messages": messages, "stream": stream, "ignore_eos": True, "max_tokens": tokens}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_answers_end(number: signal.Signals) -> None:
    with serving() as (process, url, line):
        assert re.search(r"serving nano at http://127\.0\.0\.1:\d+: native \w+ \w+, .* of 2048 tokens, no key", line)
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=ask(True, 1500), timeout=60) as response:
            text = ""
            for chunk in response.iter_text():
                if not text:
                    process.send_signal(number)
                text += chunk
        assert text.endswith("data: [DONE]\n\n")
        assert '"finish_reason":"length"' in text
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert out == ""
        assert [json.loads(line)["status"] for line in err.splitlines()] == [200]


def test_what_is_typed_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("served-model-name: [from-file, other]\nmax-seqs: 3\nmax_model_len: 100\nlog: none\n")
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-mine\n")
    environment = {"POCKETVLM_SERVE_MAX_SEQS": "4", "POCKETVLM_SERVE_MAX_MODEL_LEN": "200"}
    more = ("--max-model-len", "300", "--api-key-file", str(keys), "--memory", "100M")
    with serving("--config", str(file), *more, **environment) as (process, url, line):
        assert "4 answers at once of 300 tokens, 1 key;" in line
        assert "104.9 MB of state" in line
        models = httpx.get(f"{url}/v1/models", headers={"x-api-key": "a-key-of-mine"}).json()["data"]
        assert [model["id"] for model in models] == ["from-file", "other"]
        assert httpx.get(f"{url}/v1/models").status_code == 401
        process.terminate()
        assert process.communicate(timeout=30) == ("", "")


def test_starts_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("max-sqs: 3\n")
    assert "did you mean 'max-seqs'" in refused("--config", str(file))
    assert "--insecure" in refused("--host", "0.0.0.0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port}: Address already in use" in refused("--port", port)
