"""Images to one word on Ray Data, with one actor of one core and with two: `python benchmarks/ray_actors.py`.

The goal is 1.7 times the images a second. First the answers of both are compared; then each runs in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
_BATCH = 16  # rows of a task


def pictures(folder: Path, count: int) -> list[str]:
    """Distinct pictures, so that no cache answers: coloured noise over one of the examples."""
    import numpy as np
    from PIL import Image

    base = np.asarray(Image.open(ROOT / "examples" / "penguin.png").convert("RGB").resize((336, 336)))
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        path = folder / f"{number}.png"
        noise = random.integers(0, 24, base.shape, dtype=np.uint8)
        Image.fromarray(np.minimum(base.astype(np.uint16) + noise, 255).astype(np.uint8)).save(path)
        paths.append(str(path))
    return paths


def processor_seconds() -> Counter[str]:
    """Seconds of processor time so far, by the kind of process: the driver, Ray's own, actors and tasks."""
    found: Counter[str] = Counter()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_text().split("\0")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        name = Path(words[0]).name
        if int(folder.name) == os.getpid():
            name = "driver"
        elif name.startswith("ray::"):
            name = "actors" if "Worker" in name else "tasks and idle workers"
        elif name not in ("raylet", "gcs_server"):
            continue
        found[name] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


class Sampler(threading.Thread):
    """Reads the processor time of all processes twice a second, until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.found: list[tuple[float, Counter[str]]] = []
        self.ending = threading.Event()
        self.start()

    def run(self) -> None:
        """Append a time and the seconds until then."""
        while not self.ending.wait(0.5):
            self.found.append((time.time(), processor_seconds()))

    def between(self, begin: float, end: float) -> Counter[str]:
        """Processor seconds a second between two times."""
        within = [each for each in self.found if begin <= each[0] <= end]
        (first, before), (last, after) = within[0], within[-1]
        return Counter({name: (after[name] - before[name]) / (last - first) for name in after})


def run(paths: list[str], actors: int, bound: bool) -> tuple[float, Counter[str], dict[int, str]]:
    """Images a second, cores in use by the kind of process, and the words.

    Actors note when they begin a row. Counted are the rows that begin after the first third: later no process starts,
    and earlier than the end, since the last rows of a job do not fill all actors.
    """
    import ray

    from pocketvlm.ray import PocketVLMEngineProcessorConfig, build_processor

    processor = build_processor(
        PocketVLMEngineProcessorConfig("nano", batch_size=_BATCH, concurrency=actors, bind_cores=bound),
        preprocess=lambda row: {
            "prompt": "What is this? One word.",
            "image": row["path"],
            "sampling_params": {"temperature": 0, "max_tokens": 4},
            "begun": time.time(),
        },
        postprocess=lambda row: {"id": row["id"], "begun": row["begun"], "text": row["generated_text"]},
    )
    rows = [{"id": number, "path": path} for number, path in enumerate(paths)]
    sampler = Sampler()
    found = processor(ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // _BATCH))).take_all()
    sampler.ending.set()
    begun = sorted(row["begun"] for row in found)
    first = len(begun) // 3
    rate = (len(begun) - 1 - first) / (begun[-1] - begun[first])
    return rate, sampler.between(begun[first], begun[-1]), {row["id"]: row["text"] for row in found}


def main() -> None:
    """Print and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--unbound", action="store_true", help="let actors run on any core")
    parser.add_argument("--update", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    import tempfile

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray
    from comparison.machines import machine

    with tempfile.TemporaryDirectory() as folder:
        paths = pictures(Path(folder), options.images)
        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
        context = ray.data.DataContext.get_current()
        context.wait_for_min_actors_s = 120
        context.enable_progress_bars = False
        rates: dict[int, list[float]] = {1: [], 2: []}
        words: list[dict[int, str]] = []
        for _ in range(options.turns):
            for actors, found in rates.items():
                rate, spent, done = run(paths, actors, not options.unbound)
                found.append(rate)
                words.append(done)
                costs = ", ".join(f"{name} {each:.2f}" for name, each in sorted(spent.items()))
                print(f"{actors} actors: {rate:.1f} images a second", flush=True)
                print(f"  cores in use: {costs}", flush=True)
    if any(each != words[0] for each in words):
        raise SystemExit("the runs gave different words: the figures mean nothing")
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    figures: dict[str, Any] = {
        "images": options.images,
        "images_per_second": rates,
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "machine": machine(),
    }
    print(json.dumps(figures, indent=2))
    if options.update:
        options.update.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
