"""Holds a vision tower in OpenVINO in a process of its own and times what JSON lines ask for.

python benchmarks/peers/openvino_worker.py TOWER.xml --precision bf16 --threads 2

{"do": "info"}                  version, processor, and the precision that the plugin runs in
{"do": "vision", "seed": 0}     seconds for the features of a random view; "save": true answers a path too
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from inputs import random_patches

Answer = dict[str, Any]


class Worker:
    """A compiled tower and the commands."""

    def __init__(self, options: argparse.Namespace) -> None:
        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": options.precision,
            "INFERENCE_NUM_THREADS": options.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled = core.compile_model(core.read_model(options.tower), "CPU", settings)
        self._request = self._compiled.create_infer_request()
        self._scratch, self._saved = options.scratch, 0
        self._cpu = core.get_property("CPU", "FULL_DEVICE_NAME")

    def info(self) -> Answer:
        """What runs here."""
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        return {"openvino": openvino.get_version(), "cpu": self._cpu, "precision": hint.get_type_name()}

    def vision(self, seed: int = 0, save: bool = False) -> Answer:
        """Seconds for the features of a random view."""
        patches = random_patches(seed)[None]
        began = time.perf_counter()
        features = next(iter(self._request.infer([patches]).values()))
        answer: Answer = {"seconds": time.perf_counter() - began}
        if save:
            self._saved += 1
            path = self._scratch / f"{os.getpid()}-{self._saved}.npy"
            np.save(path, np.asarray(features, np.float32))
            answer["path"] = str(path)
        return answer


def main() -> None:
    """Load, then answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tower", type=Path)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="folder for saved arrays")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(parser.parse_args())
    commands = {"info": worker.info, "vision": worker.vision}
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = commands[command.pop("do")](**command)
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
