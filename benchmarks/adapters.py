"""Measures what adapters cost: decode of one sequence and of eight, and prefill, of the released shape in int4.

    python benchmarks/adapters.py [--threads 2] [--turns 9]

Random weights, and adapters of rank 16 on all matrices of the decoder layers. Requests with and without adapters run
in turns in one engine, one turn of each at first without timing. Writes benchmarks/results/adapters.json. Needs 8 GB of
memory. Close everything else.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pocketvlm.adapters import Adapter, Update
from pocketvlm.backends import native
from pocketvlm.backends.options import choose
from pocketvlm.bench.shape import random_tensors, released_config
from pocketvlm.config import ModelConfig
from pocketvlm.engine import Engine, Request
from pocketvlm.model import MiniCPMV, expected_tensors, tensor_roles
from pocketvlm.quantize import quantized
from pocketvlm.types import Prompt, SamplingParams

from comparison.machines import code, machine  # isort: skip

RESULTS = Path(__file__).resolve().parent / "results" / "adapters.json"
RANK, DEPTH, ANSWER, PREFILL, BATCH = 16, 32, 24, 512, 8
CASES: dict[str, list[list[str | None]]] = {
    "decode of one sequence": [[None], ["0"]],
    "decode of eight sequences": [[None] * BATCH, [str(i) for i in range(BATCH)], ["0"] * BATCH],
    "prefill of 512 tokens": [[None], ["0"]],
}
LABELS = ("without", "with", "with, one adapter for all")


def random_adapter(config: ModelConfig, seed: int) -> Adapter:
    """Updates of all matrices of the decoder layers."""
    random, shapes = np.random.default_rng(seed), expected_tensors(config)
    made = {}
    for name, role in tensor_roles(config).items():
        if role in ("matrix", "gate"):
            outputs, inputs = shapes[name]
            a = random.standard_normal((RANK, inputs), np.float32) / np.float32(inputs**0.5)
            b = 0.02 * random.standard_normal((outputs, RANK), np.float32)
            made[name] = Update(a, b)
    return Adapter(made)


def seconds(engine: Engine, adapters: Sequence[str | None], prefill: bool) -> float:
    """Seconds of a decode step, or of a prefill: of one request for each adapter, together."""
    length, count = (PREFILL, 1) if prefill else (DEPTH, ANSWER)
    params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
    numbers = []
    for seed, adapter in enumerate(adapters):
        ids = np.random.default_rng(seed).integers(0, 240_000, length).astype(np.int32)
        numbers.append(engine.add(Request(Prompt(ids, (), (), ""), params, adapter=adapter)))
    while engine.busy:
        engine.step()
    spent = [engine.release(number) for number in numbers]
    return spent[0].prefill if prefill else spent[0].decode / (ANSWER - 1)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    full, scheme = released_config(), choose("native", "int4")
    config = replace(full, vision=None)
    names = expected_tensors(config)
    tensors = {name: tensor for name, tensor in random_tensors(full).items() if name in names}
    model = MiniCPMV(
        config, native.create(options.threads, scheme=scheme), quantized(tensors, tensor_roles(config), scheme)
    )
    for i in range(BATCH):
        model.add_adapter(str(i), random_adapter(config, i))
    engine = Engine(model, 1 << 30, prefix_cache=0)
    matrices = len(random_adapter(config, 0).updates)
    results: dict[str, object] = {
        "machine": machine(), "code": code(), "threads": options.threads, "isa": model.backend.describe(),
        "rank": RANK, "matrices": matrices, "turns": options.turns,
    }  # fmt: skip
    rows: dict[str, dict[str, list[float]]] = {}
    for case, variants in CASES.items():
        prefill = case.startswith("prefill")
        turns = [[seconds(engine, adapters, prefill) for adapters in variants] for _ in range(1 + options.turns)][1:]
        rows[case] = {LABELS[i]: [turn[i] for turn in turns] for i in range(len(variants))}
        for i, label in enumerate(LABELS[: len(variants)]):
            tokens = PREFILL if prefill else len(variants[i])
            rates = sorted(tokens / turn[i] for turn in turns)
            ratios = sorted(turn[i] / turn[0] for turn in turns)
            print(
                f"{case}, {label}: {statistics.median(rates):.1f} tok/s ({rates[0]:.1f}-{rates[-1]:.1f}), "
                f"{statistics.median(ratios):.3f} times the time ({ratios[0]:.3f}-{ratios[-1]:.3f})"
            )
    RESULTS.write_text(json.dumps({**results, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
