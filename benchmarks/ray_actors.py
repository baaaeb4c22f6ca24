"""Images to one word on Ray Data, with one actor of one core and with two: `python benchmarks/ray_actors.py`.

The goal is 1.7 times the images a second. First the answers of both are compared; then each runs in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))


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


def run(paths: list[str], actors: int) -> tuple[float, dict[int, str]]:
    """Images a second from the first finished row to the last, and the words: starting actors is not counted."""
    import ray

    from pocketvlm.ray import PocketVLMEngineProcessorConfig, build_processor

    processor = build_processor(
        PocketVLMEngineProcessorConfig("nano", batch_size=16, concurrency=actors),
        preprocess=lambda row: {
            "prompt": "What is this? One word.",
            "image": row["path"],
            "sampling_params": {"temperature": 0, "max_tokens": 4},
        },
        postprocess=lambda row: {"id": row["id"], "text": row["generated_text"]},
    )
    rows = [{"id": number, "path": path} for number, path in enumerate(paths)]
    done: dict[int, str] = {}
    moments: list[float] = []
    data = processor(ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // 32)))
    for batch in data.iter_batches(batch_size=None, batch_format="numpy"):
        moments += [time.perf_counter()] * len(batch["id"])
        done.update(zip(batch["id"].tolist(), batch["text"].tolist(), strict=True))
    skip = len(paths) // 5  # until all actors run
    return (len(moments) - skip) / (moments[-1] - moments[skip - 1]), done


def main() -> None:
    """Print and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--update", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    import os
    import tempfile

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray
    from comparison.machines import machine

    with tempfile.TemporaryDirectory() as folder:
        paths = pictures(Path(folder), options.images)
        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
        rates: dict[int, list[float]] = {1: [], 2: []}
        words: list[dict[int, str]] = []
        for _ in range(options.turns):
            for actors, found in rates.items():
                rate, done = run(paths, actors)
                found.append(rate)
                words.append(done)
                print(f"{actors} actor{'s' if actors > 1 else ''}: {rate:.1f} images a second", flush=True)
    if any(each != words[0] for each in words):
        raise SystemExit("the runs gave different words: the figures mean nothing")
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    figures: dict[str, Any] = {
        "images": options.images,
        "images_per_second": rates,
        "ratio": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
        "machine": machine(),
    }
    print(json.dumps(figures, indent=2))
    if options.update:
        options.update.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
