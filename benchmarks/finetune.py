"""Measures LoRA steps of the released shape on a CPU: peak memory, seconds a step, tokens a second.

    python benchmarks/finetune.py --threads 2
    python benchmarks/finetune.py --render

Random weights in a temporary folder (2.6 GB), one view of 448 x 448 a sample, gradient checkpointing, rank 16 on all
matrices of the language model's layers. Each row runs in a process of its own, so that its peak memory is its own.
"cached": the features of the picture are there, and the vision tower is not in memory. "native": the native engine
computes them in each step. "torch": the network's own tower does. Writes benchmarks/results/finetune.json and the part
of docs/finetune.md between its markers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from comparison.machines import machine
from comparison.report import write_page

from pocketvlm import backends
from pocketvlm.backends.options import choose
from pocketvlm.bench.shape import RELEASED, random_tensors, released_config
from pocketvlm.checkpoint.formats.format import dense_tensors
from pocketvlm.checkpoint.formats.safetensors import read_entries, write_tensors
from pocketvlm.model import expected_tensors
from pocketvlm.options.training import TrainingOptions
from pocketvlm.train.features import VisionEncoder
from pocketvlm.train.memory import peak_memory
from pocketvlm.train.records import Record, ViewKey
from pocketvlm.train.targets import choose_targets
from pocketvlm.types import View

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "finetune.json"
PAGE = ROOT / "docs" / "finetune.md"
# Name, where features come from, samples of a batch, and the type of frozen weights.
ROWS = (
    ("cached features", "cached", 1, "f32"),
    ("cached features, 8 samples a batch", "cached", 8, "f32"),
    ("cached features, bf16", "cached", 1, "bf16"),
    ("native tower in each step", "native", 1, "f32"),
    ("torch tower in each step", "torch", 1, "f32"),
)
TOKENS, VIEW_TOKENS, ANSWER = 104, 64, 16


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed, after one that is not")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[], help="rows of these names, else rows whose name contains one")
    parser.add_argument("--render", action="store_true", help="write the page from the results alone")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_checkpoint(folder: Path) -> None:
    """A checkpoint of the released shape with random bfloat16 weights."""
    write_tensors(folder / "model.safetensors", random_tensors(released_config()), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**RELEASED, "dtype": "bfloat16"}))


def measure(source: str, batch: int, dtype: str, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of one row, in this process."""
    import torch

    from pocketvlm.train.network import Network

    torch.set_num_threads(args.threads)
    config, random = released_config(), np.random.default_rng(0)
    options = TrainingOptions(dtype=dtype)  # type: ignore[arg-type]
    network = Network(
        args.checkpoint, config, options, choose_targets(config, "auto"), source == "torch", torch.device("cpu")
    )
    encoder = None
    if source != "torch":
        network.drop_vision()
    if source == "native":
        backend = backends.create("native", args.threads, scheme=choose("native", "stored", "exact"))
        entries = read_entries(args.checkpoint)
        tensors = dense_tensors(entries, expected_tensors(config), str(args.checkpoint), sparse=True)
        encoder = VisionEncoder(config, backend, tensors)
    ids = random.integers(1000, 200_000, TOKENS).astype(np.int32)
    labels = np.full(TOKENS, -100, np.int32)
    labels[-ANSWER:] = ids[-ANSWER:]
    record = Record(ids, labels, (ViewKey(5, VIEW_TOKENS, "16x", "a"),), None, "")
    patches = random.uniform(-1, 1, (1024, config.vision.patch_dim)).astype(np.float32)  # type: ignore[union-attr]
    view = View(patches, 32, 32, "16x", 5, VIEW_TOKENS, "a")
    cached = random.normal(0, 1, (VIEW_TOKENS, config.text.hidden_size)).astype(np.float32)
    optimizer = torch.optim.AdamW(network.parameters.values(), lr=1e-4)
    network.train(True)
    seconds = []
    for _ in range(args.steps + 1):
        began = time.perf_counter()
        features: Any = cached if source == "cached" else network.encode(view) if encoder is None else encoder(view)
        loss = network.loss([record] * batch, [[features]] * batch) / (batch * ANSWER)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    median = float(np.median(seconds[1:]))
    return {
        "seconds": round(median, 2),
        "min": round(min(seconds[1:]), 2),
        "max": round(max(seconds[1:]), 2),
        "tokens_per_second": round(batch * TOKENS / median, 1),
        "peak_memory": peak_memory(False),
        "loss": float(loss.detach()),
        "trained": sum(each.numel() for each in network.parameters.values()),
    }


def table(results: dict[str, Any]) -> str:
    """The rows in Markdown."""
    about = results["machine"]
    lines = [
        f"One step of the released shape with random weights: LoRA of rank 16 on 186 matrices, {TOKENS} tokens a "
        f"sample, of which {VIEW_TOKENS} are a view of 448 x 448 and {ANSWER} the answer, gradient checkpointing, "
        f"{results['threads']} threads of {about['cpu']}; median of {results['steps']} steps "
        f"(`benchmarks/finetune.py`):",
        "",
        "| | seconds a step | tokens/s | peak memory |",
        "|---|---|---|---|",
    ]
    for name, row in results["rows"].items():
        spread = f"{row['seconds']:.2f} ({row['min']:.2f} - {row['max']:.2f})"
        lines.append(f"| {name} | {spread} | {row['tokens_per_second']:.1f} | {row['peak_memory'] / 2**30:.1f} GiB |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the page."""
    args = parse()
    rows = {name: row for name, *row in ROWS}
    chosen = {name: row for name, row in rows.items() if name in args.only} or {
        name: row for name, row in rows.items() if not args.only or any(part in name for part in args.only)
    }
    if args.row:
        print(json.dumps(measure(*chosen_row(args.row), args)))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    if not args.render:
        results |= {"machine": machine(), "threads": args.threads, "steps": args.steps}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_checkpoint(folder)
            for row in chosen:
                command = [sys.executable, __file__, "--row", row, "--checkpoint", str(folder)]
                command += ["--steps", str(args.steps), "--threads", str(args.threads)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
                results["rows"][row] = json.loads(done.stdout.splitlines()[-1])
                print(row, results["rows"][row], flush=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write_page(PAGE, table(results), "figures")


def chosen_row(name: str) -> Any:
    """Source, batch and type of a row."""
    return next(row for each, *row in ROWS if each == name)


if __name__ == "__main__":
    main()
