"""Everything at once for a while: good, bad and broken-off requests; nothing fails that should not, nothing grows."""

from __future__ import annotations

import itertools
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from server.kit import image
from server.wire import chat_body, post

import pocketvlm

SECONDS = float(os.environ.get("POCKETVLM_SOAK_SECONDS", "600"))
PICTURES = ("dog.png", "apple.png", "open.png", "stars.png")
BAD: list[dict[str, Any]] = [
    {"modalities": ["audio"]},
    {"temperature": -1},
    {"messages": []},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}]},
    {"messages": [{"role": "user", "content": "long " * 5000}]},
]


class Process:
    """A server in a process of its own, and what the system says about it."""

    def __init__(self, *arguments: str) -> None:
        source = str(Path(pocketvlm.__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pocketvlm", "serve", "--port", "0", "--log", "none", *arguments],
            env={**os.environ, "PYTHONPATH": source},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found is not None, line
        self.url, self.port = found[0], int(found[1])

    def figures(self) -> dict[str, int]:
        """Resident bytes, threads and open files."""
        place = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines() if ":" in line)
        return {
            "memory": int(status["VmRSS"].split()[0]) << 10,
            "threads": int(status["Threads"]),
            "files": len(list((place / "fd").iterdir())),
        }


@contextmanager
def process(*arguments: str) -> Iterator[Process]:
    found = Process(*arguments)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.communicate()


def good(client: httpx.Client, draw: random.Random) -> None:
    """One of the things that must always work."""
    content: Any = f"hello {draw.randrange(50)}"
    if draw.random() < 0.4:
        content = [image(name) for name in draw.sample(PICTURES, draw.choice((1, 1, 2)))]
        content.append({"type": "text", "text": "What is this?"})
    body = {
        "model": "nano",
        "messages": [{"role": "user", "content": content}],
        "n": draw.choice((1, 1, 1, 2)),
        "temperature": draw.choice((0, 1)),
        "max_tokens": draw.choice((1, 20, 60)),
        "stream": draw.random() < 0.5,
    }
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    if body["stream"]:
        assert response.text.endswith("data: [DONE]\n\n")
        assert '"error"' not in response.text
    else:
        assert len(response.json()["choices"]) == body["n"]


def bad(client: httpx.Client, draw: random.Random) -> None:
    """One of the things that must be refused."""
    body = {"model": "nano", "messages": [{"role": "user", "content": "x"}], **draw.choice(BAD)}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400, response.text


def broken(server: Process, draw: random.Random) -> None:
    """A request that its client gives up somewhere."""
    data = post(chat_body(stream=draw.random() < 0.5, ignore_eos=True, max_tokens=1000, n=2))
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        connection.sendall(data[: draw.choice((10, len(data) - 3, len(data), len(data)))])
        time.sleep(draw.random() * 0.1)


def soak(server: Process, seconds: float, clients: int) -> Counter[str]:
    """So many clients for so long; raises what any of them found wrong."""
    until, done, wrong = time.monotonic() + seconds, Counter[str](), []

    def one(number: int) -> None:
        draw = random.Random(number)
        try:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                while time.monotonic() < until and not wrong:
                    kind = draw.choices(("good", "bad", "broken"), (6, 2, 2))[0]
                    if kind == "broken":
                        broken(server, draw)
                    else:
                        (good if kind == "good" else bad)(client, draw)
                    done[kind] += 1
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]
    deadline = time.monotonic() + 20
    while httpx.get(f"{server.url}/health").json()["concurrency"]:
        assert time.monotonic() < deadline, "sequences are left"
        time.sleep(0.02)
    return done


def test_a_short_soak() -> None:
    with process("--max-queue", "200") as server:
        done = soak(server, 3.0, 8)
        assert all(done[kind] > 0 for kind in ("good", "bad", "broken"))


@pytest.mark.long
def test_a_long_soak_leaves_nothing_allocated() -> None:
    with process("--max-queue", "200") as server:
        soak(server, SECONDS / 4, 32)
        before = server.figures()
        done = soak(server, SECONDS * 3 / 4, 32)
        time.sleep(0.5)
        after = server.figures()
    print(f"{done.total()} requests, {dict(done)}; before {before}, after {after}")
    assert after["threads"] <= before["threads"] + 6  # pools start a thread when none of theirs is free
    assert after["files"] <= before["files"] + 2
    assert after["memory"] < before["memory"] * 1.1 + (16 << 20)


def test_what_the_model_saw_survives_a_kill(tmp_path: Path) -> None:
    body = {"model": "nano", "messages": [{"role": "user", "content": [image("penguin.png")]}], "max_tokens": 8}
    said, missed = [], []
    for _ in itertools.repeat(None, 2):
        with process("--vision-cache-dir", str(tmp_path)) as server:
            answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
            said.append(answer["choices"][0]["message"]["content"])
            page = httpx.get(f"{server.url}/metrics").text
            missed.append(float(page.split("\npocketvlm_engine_vision_misses ")[1].split()[0]))
            deadline = time.monotonic() + 10
            while not any(path.is_file() for path in tmp_path.rglob("*")):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            server.process.kill()  # kill -9
    assert said[0] == said[1]
    assert missed[0] > 0
    assert missed[1] == 0
