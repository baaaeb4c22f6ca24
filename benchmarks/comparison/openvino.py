"""Runs the vision tower in OpenVINO, one process for each file and precision."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from process import Worker, WorkerError

from comparison.rows import MissingError
from pocketvlm.tensors import DenseTensor

PEERS = Path(__file__).resolve().parent.parent / "peers"
GET = "`pip install openvino nncf`"
# Column: the file, and the precision that is asked for. With int8 the rest runs in bfloat16.
COLUMNS = {"OpenVINO bf16": ("f32", "bf16"), "OpenVINO int8": ("int8", "bf16")}
EXACT = ("f32", "f32")


class OpenVINO:
    """The processes. Raises MissingError if the files cannot be made or no process runs."""

    def __init__(self, tensors: Mapping[str, DenseTensor], directory: Path, threads: int) -> None:
        if importlib.util.find_spec("openvino") is None or importlib.util.find_spec("nncf") is None:
            raise MissingError(f"OpenVINO is left out: {GET}")
        from openvino_tower import places

        self._files, self._threads, self._scratch = places(tensors, directory), threads, directory
        if not all(path.exists() for path in self._files.values()):
            script = str(PEERS / "openvino_tower.py")
            if subprocess.run([sys.executable, script, str(directory)], stdout=subprocess.PIPE, check=False).returncode:
                raise MissingError("OpenVINO is left out, its files could not be made: the message is above")
        self._running: dict[tuple[str, str], Worker] = {}

    def ask(self, which: tuple[str, str], do: str, **values: Any) -> dict[str, Any]:
        """A command to the process of a file and a precision."""
        if which not in self._running:
            kind, precision = which
            arguments = [str(self._files[kind]), "--precision", precision, "--threads", str(self._threads)]
            arguments += ["--scratch", str(self._scratch)]
            self._running[which] = Worker(PEERS / "openvino_worker.py", arguments)
        return self._running[which](do, **values)

    def versions(self) -> dict[str, str]:
        """Versions, and the precision that the plugin runs in where bfloat16 is asked for."""
        try:
            info = self.ask(COLUMNS["OpenVINO bf16"], "info")
        except WorkerError as error:
            raise MissingError(f"OpenVINO is left out ({error})") from error
        return {"OpenVINO": f"{info['openvino']}, runs in {info['precision']} where bfloat16 is asked for"}

    def features(self, which: tuple[str, str], seed: int) -> NDArray[np.float32]:
        """Features of a random view."""
        path = Path(self.ask(which, "vision", seed=seed, save=True)["path"])
        found: NDArray[np.float32] = np.load(path)
        path.unlink()
        return found

    def timers(self) -> dict[str, Callable[[], float]]:
        """A timer of a view for each column."""
        return {
            name: lambda which=which: float(self.ask(which, "vision")["seconds"])  # type: ignore[misc]
            for name, which in COLUMNS.items()
        }

    def stop(self, which: tuple[str, str] | None = None) -> None:
        """End a process, or all; one that is needed again starts again."""
        for key in [which] if which else list(self._running):
            if worker := self._running.pop(key, None):
                worker.__exit__()
