"""Measures what quantizing a checkpoint of the released shape costs: time, time by stage, and peak memory.

    python benchmarks/quantize_released.py --directory DIRECTORY
    python benchmarks/quantize_released.py --directory DIRECTORY --only rtn
    python benchmarks/quantize_released.py --render

Weights are random, so the file says nothing about quality; time and memory do not depend on the values. Each run has a
process of its own. Needs 10 GB of disk. Writes benchmarks/results/quantize_released-KIND.json and the part of
docs/quantize.md between its markers; with --only, the other rows stay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

from comparison.machines import code, machine, this_kind  # noqa: E402
from comparison.report import write_page  # noqa: E402
from peers.checkpoint import digest, write_checkpoint  # noqa: E402

PAGE = ROOT / "docs" / "quantize.md"
RUNS: dict[str, dict[str, Any]] = {
    "rtn": {"scheme": "int4-g64", "method": "rtn"},
    "auto": {"scheme": "int4-g64", "method": "auto", "bits_per_weight": 4.5},
}


def results_file() -> Path:
    """The file of this kind of machine."""
    return ROOT / "benchmarks" / "results" / f"quantize_released-{this_kind()}.json"


def checkpoint(directory: Path) -> Path:
    """Random weights of the released shape as a directory, made once."""
    from pocketvlm.bench.shape import random_tensors, released_config
    from pocketvlm.checkpoint.hub import embedded_directory

    tensors = random_tensors(released_config())
    return write_checkpoint(tensors, embedded_directory(), directory / f"checkpoint-{digest(tensors)}")


def work(source: str, options: dict[str, Any]) -> None:
    """Quantize once and print the figures as JSON. Peak memory is the process's, so it has no other work."""
    import time

    import pocketvlm

    stages: dict[str, float] = {}
    last = time.perf_counter()

    def progress(stage: str, done: int, total: int, left: float | None) -> None:
        nonlocal last
        now = time.perf_counter()
        stages[stage] = stages.get(stage, 0.0) + now - last
        last = now

    with tempfile.TemporaryDirectory(dir=Path(source).parent) as temporary:
        found = pocketvlm.quantize_model(source, Path(temporary) / "out", progress=progress, **options)
    row = {
        "seconds": round(found.seconds, 1),
        "stages": {stage: round(seconds, 1) for stage, seconds in stages.items()},
        "peak_memory": found.peak_memory,
        "bits_per_weight": found.bits_per_weight,
        "calibration": found.calibration,
        "code": code(),
    }
    print(json.dumps(row))


def page(results: dict[str, Any]) -> list[str]:
    """The table in Markdown."""
    lines = ["| method | bits a weight | time | peak memory |", "|---|---|---|---|"]
    for name, row in results["rows"].items():
        minutes, seconds = divmod(round(row["seconds"]), 60)
        memory = row["peak_memory"] / 2**30
        lines.append(f"| `{name}` | {row['bits_per_weight']:.2f} | {minutes} min {seconds} s | {memory:.2f} GiB |")
    return [*lines, "", ", ".join(f"{name}: {value}" for name, value in results["machine"].items()) + "."]


def main() -> None:
    """Measure, write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("build/quantize"), help="where the checkpoint is made")
    parser.add_argument("--only", choices=RUNS, help="one run")
    parser.add_argument("--render", action="store_true", help="write the page from the results")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work[0], json.loads(args.work[1]))
        return
    path = results_file()
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": {}}
    if not args.render:
        source = checkpoint(args.directory)
        results["machine"] = machine()
        for name in [args.only] if args.only else list(RUNS):
            command = [sys.executable, __file__, "--work", str(source), json.dumps(RUNS[name])]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            results["rows"][name] = json.loads(done.stdout)
            print(name, results["rows"][name], flush=True)
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_page(PAGE, "\n".join(page(results)), "quantized released shape")


if __name__ == "__main__":
    main()
