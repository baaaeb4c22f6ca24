"""The steps of deploy/Dockerfile, in a scratch directory instead of a container, and the unit of systemd."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def stages() -> list[list[tuple[str, str]]]:
    """Instructions and arguments of each stage."""
    text = re.sub(r"\\\n\s*", " ", DOCKERFILE.read_text(encoding="utf-8"))
    found: list[list[tuple[str, str]]] = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        instruction, _, argument = line.partition(" ")
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, argument))
    return found


def argument(instruction: str) -> str:
    """The argument of the last stage's only such instruction."""
    (found,) = [text for name, text in stages()[-1] if name == instruction]
    return found


def test_the_image_runs_as_an_ordinary_user_with_a_health_check() -> None:
    build, run = stages()
    assert build[0][1].endswith(" AS build")
    assert argument("USER") == "pocketvlm"
    names = [name for name, _ in run]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "/health/ready" in argument("HEALTHCHECK")


def test_the_unit_has_no_errors_but_the_missing_program() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(ROOT / "deploy" / "pocketvlm.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "pocketvlm.service" in line]
    assert all("is not executable" in line for line in said), done.stderr


@pytest.mark.scale
def test_the_steps_build_a_server_that_becomes_healthy_and_stops(tmp_path: Path) -> None:
    build, run = stages()
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, files):
        path = Path(name.decode())
        if (ROOT / path).exists():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, source / path)
    steps = [text for name, text in build if name == "RUN" and not text.startswith("apt-get")]
    execute(steps, tmp_path / "builder", source, wheels)
    steps = [text for name, text in run if name == "RUN" and not text.startswith("useradd")]
    execute(steps, tmp_path / "image", tmp_path, wheels)
    assert not wheels.exists(), "the image's last layers hold no wheels"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [str(tmp_path / "image" / "bin" / word) for word in json.loads(argument("ENTRYPOINT"))]
    command = ["nano" if "/" in word else word for word in json.loads(argument("CMD"))]
    server = subprocess.Popen(
        [*program, *command, "--port", str(port), "--insecure", "--threads", "1"], cwd=tmp_path, stderr=subprocess.PIPE
    )
    try:
        check = json.loads(argument("HEALTHCHECK").partition("CMD ")[2].replace(":8000/", f":{port}/"))
        while subprocess.run([sys.executable, *check[1:]], stderr=subprocess.DEVNULL, check=False).returncode != 0:
            assert server.poll() is None, server.stderr and server.stderr.read()
            time.sleep(0.2)
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    finally:
        server.kill()


def execute(steps: list[str], environment: Path, folder: Path, wheels: Path) -> None:
    """Run shell steps with a Python of their own, with the path of the wheels moved into the scratch directory."""
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    assert steps
    for step in steps:
        moved = step.replace("/wheels", shlex.quote(str(wheels)))
        subprocess.run(moved, shell=True, check=True, cwd=folder, env={"PATH": f"{environment}/bin:/usr/bin:/bin"})
