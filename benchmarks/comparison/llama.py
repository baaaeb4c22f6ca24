"""Runs llama.cpp on the exported files, one process for each file and build."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp_files import places
from numpy.typing import NDArray
from process import Worker, WorkerError

from comparison.rows import MissingError
from pocketvlm.tensors import DenseTensor

PEERS = Path(__file__).resolve().parent.parent / "peers"
TEXT = ("F32", "BF16", "Q8_0", "Q4_K_M", "Q4_0", "Q4_0-pure")
MMPROJ = ("BF16", "F16", "BF16-4x")
GET = "`pip install llama-cpp-python gguf` builds it here, or name folders with --llama-packages"
GET_AVX2 = (
    'CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON" '
    "pip install --no-binary llama-cpp-python --target FOLDER llama-cpp-python, then --avx2-packages FOLDER"
)
# gcc's -march=native turns AMX on whatever GGML_AMX_INT8 says, so the compiler itself has to be told.
GET_NO_AMX = (
    'CMAKE_ARGS="-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8" '
    "pip install --no-binary llama-cpp-python --target FOLDER llama-cpp-python, then --no-amx-packages FOLDER"
)


def find_files(
    tensors: Mapping[str, DenseTensor], directory: Path, packages: Sequence[Path], threads: int
) -> dict[str, Path]:
    """The exported files; missing ones are made. Raises MissingError if that fails."""
    found = places(tensors, directory, TEXT, MMPROJ)
    if not all(path.exists() for path in found.values()):
        command = [sys.executable, str(PEERS / "llama_cpp_files.py"), str(directory), "--threads", str(threads)]
        search = [*map(str, packages), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [*command, "--text", *TEXT, "--mmproj", *MMPROJ],
            stdout=subprocess.PIPE,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
        )
        if done.returncode:
            raise MissingError(f"llama.cpp is left out, its files could not be made: {GET}")
    return found


class Llama:
    """The processes of one build."""

    def __init__(self, files: Mapping[str, Path], packages: Sequence[Path], threads: int, scratch: Path) -> None:
        self._files, self._packages, self._threads, self._scratch = files, packages, threads, scratch
        self._running: dict[str, Worker] = {}

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, kinds: str, do: str, **values: Any) -> dict[str, Any]:
        """A command to the process of a text file and vision files, as "Q4_K_M BF16 BF16-4x"."""
        if kinds not in self._running:
            text, *vision = kinds.split()
            arguments = ["--text", str(self._files[f"text {text}"])]
            for kind in vision:
                arguments += ["--mmproj", str(self._files[f"mmproj {kind}"])]
            arguments += ["--threads", str(self._threads), "--scratch", str(self._scratch)]
            self._running[kinds] = Worker(PEERS / "llama_cpp_worker.py", arguments, self._packages)
        return self._running[kinds](do, **values)

    def info(self, kinds: str, missing: str) -> dict[str, Any]:
        """The build that runs; raises MissingError if none does."""
        try:
            return self.ask(kinds, "info")
        except WorkerError as error:
            raise MissingError(f"llama.cpp is left out ({error}): {missing}") from error

    def array(self, kinds: str, do: str, **values: Any) -> NDArray[np.float32]:
        """The array that a command saves."""
        path = Path(self.ask(kinds, do, **values)["path"])
        saved: NDArray[np.float32] = np.load(path)
        path.unlink()
        return saved

    def seconds(self, kinds: str, do: str, shared: int = 1, **values: Any) -> Callable[[], float]:
        """A timer of a command; shared: by how many its seconds are divided."""
        return lambda: float(self.ask(kinds, do, **values)["seconds"]) / shared

    def stop(self, kinds: str | None = None) -> None:
        """End a process, or all; one that is needed again starts again."""
        for name in [kinds] if kinds else list(self._running):
            if worker := self._running.pop(name, None):
                worker.__exit__()
