"""Batch files for tests, and the command as a process that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pocketvlm

EXAMPLES = Path(__file__).parents[2] / "examples"
CHAT = "/v1/chat/completions"
COMMAND = [sys.executable, "-m", "pocketvlm", "batch"]


def line(custom_id: str, content: Any = "hello", url: str = CHAT, **fields: Any) -> dict[str, Any]:
    """A batch line with one user message, greedy and short unless fields say otherwise."""
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "temperature": 0, **fields}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def question(picture: str, text: str = "What is this?") -> list[dict[str, Any]]:
    """Content of a message: one of the examples, and a question."""
    url = str(EXAMPLES / picture)
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]


def write_lines(path: Path, lines: Sequence[Any]) -> Path:
    """A JSONL file; texts are written as they are."""
    texts = [each if isinstance(each, str) else json.dumps(each) for each in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The values of a JSONL file."""
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def timeless(value: Any) -> Any:
    """An output line without what tells of time."""
    if isinstance(value, list):
        return [timeless(each) for each in value]
    if not isinstance(value, dict):
        return value
    cached = ("created", "created_at", "completed_at", "timings", "prompt_tokens_details", "input_tokens_details")
    return {name: timeless(each) for name, each in value.items() if name not in cached}


def start(*arguments: str, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(pocketvlm.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
