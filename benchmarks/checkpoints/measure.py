"""Measures one format after another: checks, starts of processes, memory, speed in turns with llama.cpp, errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from comparison.machines import code
from comparison.rows import Figures, Row, measure
from inputs import VIEW, random_ids
from numpy.typing import NDArray
from process import Worker, WorkerError

from checkpoints.make import VALUES, Format

HERE = Path(__file__).resolve().parent
OWN_WORKER, PEER_WORKER = HERE / "worker.py", HERE.parent / "peers" / "llama_cpp_worker.py"
LLAMA = "llama.cpp"
TEXT, CHECKED_TOKENS, DECODED, PREFILL = "What is this?", 64, 32, 512
FIRST_STARTS, NEXT_STARTS = 3, 5
# How far llama.cpp may be from exact arithmetic on the same file: it rounds activations to 8 bits, and networks with
# random weights amplify rounding.
LLAMA_LIMIT = 0.5
# Of features: its vision file has 16-bit floats, which it does not round further.
FEATURES_LIMIT = 1e-2
IMAGE_PROMPT = {"views": 1, "text": 24}

Floats = NDArray[np.float32]


class DifferentError(Exception):
    """Values or logits that are not equal: nothing may be timed."""


@dataclass
class Measured:
    """What was measured of a format, and with what commit.

    Starts are in seconds, memory and disk in bytes, errors relative and by engine.
    """

    title: str
    hub: str
    code: str = ""
    peer: str = ""
    disk: int = 0
    matrices: int = 0
    first_starts: list[float] = field(default_factory=list)
    first_peaks: list[int] = field(default_factory=list)
    next_starts: list[float] = field(default_factory=list)
    next_peaks: list[int] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    rows: dict[str, Figures] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """How to measure. llama_packages: folders with the peer, put in front of its module search path."""

    directory: Path
    threads: int
    runs: int
    quick: bool
    llama_packages: tuple[Path, ...]

    @property
    def small(self) -> Path:
        """The folder of the checkpoints of a few layers."""
        return self.directory / "small"

    @property
    def scratch(self) -> Path:
        """A folder for caches and saved arrays."""
        path = self.directory / "scratch"
        path.mkdir(exist_ok=True)
        return path


def measured(kind: Format, setup: Setup, left_out: list[str]) -> Measured:
    """Everything about one format; lines on what is left out are added.

    Raises DifferentError, before anything is timed, if results are not equal.
    """
    path = setup.directory / kind.key
    found = Measured(kind.title, kind.hub, code())
    found.disk = sum(file.stat().st_size for file in path.iterdir() if file.suffix in (".safetensors", ".gguf"))
    checkpoint = next(path.glob("model-*.gguf"), path)
    cache = setup.scratch / f"cache-{kind.key}"
    shutil.rmtree(cache, ignore_errors=True)
    environment = {**os.environ, "POCKETVLM_CACHE": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has compiled modules

    def worker(precision: str) -> Worker:
        os.environ["POCKETVLM_CACHE"] = str(cache)
        arguments = [str(checkpoint), "--precision", precision, "--threads", str(setup.threads)]
        return Worker(OWN_WORKER, [*arguments, "--scratch", str(setup.scratch)])

    found.matrices = check_values(path, worker)
    say(f"{kind.key}: values of {found.matrices} matrices are equal")
    exact = results(worker("exact"))
    fast = results(worker("fast"))
    found.errors = {f"pocketvlm, {what}": error(fast[what], exact[what]) for what in exact}
    peer = Peer(checkpoint, setup, left_out) if checkpoint.is_file() else None
    try:
        if peer:
            found.peer = f"{peer.info['llama_cpp']} (llama-cpp-python {peer.info['llama_cpp_python']})"
            peer.check(exact, found.errors)
        say(f"{kind.key}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.errors.items()))
        command = [
            sys.executable,
            "-m",
            "pocketvlm",
            "run",
            str(checkpoint),
            "-p",
            TEXT,
            "--max-tokens",
            "1",
            "--quiet",
        ]
        command += ["--threads", str(setup.threads)]
        for _ in range(1 if setup.quick else FIRST_STARTS):
            shutil.rmtree(cache, ignore_errors=True)
            start(command, environment, found.first_starts, found.first_peaks)
        for _ in range(1 if setup.quick else NEXT_STARTS):
            start(command, environment, found.next_starts, found.next_peaks)
        say(f"{kind.key}: first starts {found.first_starts}, next {found.next_starts}")
        with worker("fast") as ours:
            ours("image")
            found.memory = ours("memory")
            for row in rows(ours, peer):
                found.rows[row.name] = measure(row, 1 if setup.quick else setup.runs, lambda: 0.0, left_out.append)
    finally:
        if peer:
            peer.stop()
        shutil.rmtree(cache, ignore_errors=True)
    return found


def check_values(path: Path, worker: Callable[[str], Worker]) -> int:
    """Compare all values of quantized matrices with those that the format's library computed; returns their number."""
    expected = json.loads((path / VALUES).read_text())
    with worker("exact") as ours:
        answer = ours("values", dtypes={name: dtype for name, (dtype, _) in expected.items()})
    if answer["others"]:
        raise DifferentError(f"{path}: other matrices are quantized than the library did: {answer['others'][:3]}")
    wrong = [name for name, value in answer["digests"].items() if value != expected[name]]
    if wrong:
        raise DifferentError(f"{path}: {len(wrong)} matrices have other values than the library says, as {wrong[0]}")
    return len(expected)


def results(worker: Worker) -> dict[str, Floats]:
    """Logits of a prompt and features of a view."""
    with worker:
        return {
            "text": array(worker("logits", ids=random_ids(CHECKED_TOKENS, 7))),
            "image": array(worker("features")),
        }


def array(answer: Mapping[str, Any]) -> Floats:
    """What a worker saved."""
    path = Path(answer["path"])
    values: Floats = np.load(path)
    path.unlink()
    return values


def error(values: Floats, reference: Floats) -> float:
    """Norm of the difference, relative to the reference's."""
    return float(np.linalg.norm(values - reference) / np.linalg.norm(reference))


def start(command: list[str], environment: Mapping[str, str], seconds: list[float], peaks: list[int]) -> None:
    """Time a whole process that answers with one token, and take the most memory that it had."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds.append(time.perf_counter() - began)
    peaks.append(usage.ru_maxrss * 1024)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise WorkerError(f"{' '.join(command)} ended with status {process.returncode}: its message is on stderr")


def rows(ours: Worker, peer: Peer | None) -> list[Row]:
    """What is timed, with llama.cpp where it reads the file."""
    ids = random_ids(PREFILL)

    def row(name: str, do: str, tokens: int, values: dict[str, Any], theirs: dict[str, Any] | None) -> Row:
        peers = {} if peer is None or theirs is None else {LLAMA: lambda: peer.seconds(do, theirs)}
        return Row(name, lambda: float(ours(do, **values)["seconds"]), peers, tokens)

    decode, view = {"depth": 32, "tokens": DECODED}, {"width": VIEW, "height": VIEW}
    sees = peer is not None and peer.sees
    return [
        row("decode", "decode", 1, decode, decode),
        row("prefill", "prefill", PREFILL, {"ids": ids}, {"ids": ids}),
        row("vision", "vision", 0, {}, view if sees else None),
        row("first token, 1 view", "image_prompt", 0, IMAGE_PROMPT, IMAGE_PROMPT if sees else None),
    ]


class Peer:
    """llama.cpp with the same files; without its part for images where the build has none."""

    def __init__(self, text: Path, setup: Setup, left_out: list[str]) -> None:
        base = ["--text", str(text), "--threads", str(setup.threads), "--scratch", str(setup.scratch)]
        mmproj = next(text.parent.glob("mmproj-*.gguf"))
        self.sees = True
        try:
            self._worker = Worker(PEER_WORKER, [*base, "--mmproj", str(mmproj)], setup.llama_packages)
            self.info = self._worker("info")
        except WorkerError as failure:
            left_out.append(f"llama.cpp without images ({failure})")
            self.sees = False
            self._worker = Worker(PEER_WORKER, base, setup.llama_packages)
            self.info = self._worker("info")

    def seconds(self, do: str, values: dict[str, Any]) -> float:
        """One timed command."""
        return float(self._worker(do, **values)["seconds"])

    def check(self, exact: Mapping[str, Floats], errors: dict[str, float]) -> None:
        """Its errors on the same file. Raises DifferentError where rounding cannot explain them."""
        ids = random_ids(CHECKED_TOKENS, 7)
        found = {"text": (array(self._worker("logits", ids=ids, all=True)), LLAMA_LIMIT)}
        if self.sees:
            features = array(self._worker("vision", width=VIEW, height=VIEW, save=True))
            found["image"] = features, FEATURES_LIMIT
        for what, (values, limit) in found.items():
            errors[f"{LLAMA}, {what}"] = value = error(values, exact[what])
            if not value <= limit:
                raise DifferentError(f"{LLAMA} and exact arithmetic differ by {value:.2f} on {what}: nothing was timed")

    def stop(self) -> None:
        """End the process."""
        self._worker.__exit__()


def say(line: str) -> None:
    """Print progress."""
    print(line, file=sys.stderr, flush=True)
