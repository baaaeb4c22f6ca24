"""Times the native backend against transformers on the real model's shape: same random weights, one run, in turns.

    python benchmarks/against_transformers.py --runs 5

Results are compared before anything is timed. Writes benchmarks/results/against_transformers.json and the table between
the markers of docs/benchmarks.md. Needs the development install and about 14 GB of memory; close everything else.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from oracle import Oracle, make_oracle, make_prompt, reference_features, reference_inputs  # noqa: E402

from pocketvlm.backends import native  # noqa: E402
from pocketvlm.backends.options import choose  # noqa: E402
from pocketvlm.bench.shape import RELEASED  # noqa: E402
from pocketvlm.engine import Engine, Request  # noqa: E402
from pocketvlm.model import MiniCPMV  # noqa: E402
from pocketvlm.types import Prompt, SamplingParams  # noqa: E402

DECODED = 16
Timer = Callable[[], float]


def clock(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def native_prefill(engine: Engine, prompt: Prompt) -> float:
    """Seconds from an encoded prompt to its first token."""

    def work() -> None:
        number = engine.add(Request(prompt, SamplingParams(temperature=0, max_tokens=1)))
        while not engine.step():
            pass
        engine.release(number)

    return clock(work)


def native_decode(engine: Engine, prompt: Prompt) -> float:
    """Seconds a token, over DECODED tokens after the prompt."""
    number = engine.add(Request(prompt, SamplingParams(temperature=0, max_tokens=DECODED + 1)))
    while not engine.step():
        pass
    spent = clock(lambda: [engine.step() for _ in range(DECODED)])
    engine.release(number)
    return spent / DECODED


@torch.no_grad()
def peer_prefill(model: Any, prompt: Prompt) -> float:
    """The same through transformers."""
    ids = torch.from_numpy(prompt.ids.astype(np.int64))[None]
    return clock(lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1))


@torch.no_grad()
def peer_decode(model: Any, prompt: Prompt) -> float:
    """The same through transformers, with its cache."""
    ids = torch.from_numpy(prompt.ids.astype(np.int64))[None]
    out = model(input_ids=ids, use_cache=True, logits_to_keep=1)

    def work() -> None:
        nonlocal out
        for _ in range(DECODED):
            token = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)

    return clock(work) / DECODED


@torch.no_grad()
def peer_vision(model: Any, oracle: Oracle, prompt: Prompt) -> float:
    """Seconds for the image features of the prompt's views."""
    inputs = reference_inputs(prompt, oracle.config)
    del inputs["input_ids"]
    return clock(lambda: model.model.get_image_features(**inputs))


def check(oracle: Oracle, engine: Engine, prompts: dict[str, Prompt]) -> dict[str, float]:
    """Largest differences to transformers in float32; stops the run where they are not parity."""
    text = prompts["prefill 128"]
    with torch.no_grad():
        reference = oracle.model(**reference_inputs(text, oracle.config)).logits[0].numpy()
    found = {"logits": float(np.abs(engine.prompt_logits(text) - reference).max())}
    for name in ("vision 448x448 16x", "vision 448x448 4x"):
        features = reference_features(oracle, prompts[name])
        ours = np.concatenate([engine.model.backend.to_numpy(f) for f in engine.runner.encode(prompts[name].views)])
        found[name] = float(np.linalg.norm(ours - features) / np.linalg.norm(features))
    limits = {"logits": 2e-3}
    bad = {name: value for name, value in found.items() if value > limits.get(name, 1e-4)}
    if bad:
        sys.exit(f"results differ, nothing was timed: {bad}")
    return found


def scenarios(oracle: Oracle, engine: Engine, half: Any, prompts: dict[str, Prompt]) -> dict[str, dict[str, Timer]]:
    """Per row of the table, one timer for each engine."""
    rows: dict[str, dict[str, Timer]] = {}
    for name, prompt in prompts.items():
        if name.startswith("vision"):
            rows[name] = {
                "native": lambda p=prompt: clock(lambda: engine.runner.encode(p.views)),
                "transformers fp32": lambda p=prompt: peer_vision(oracle.model, oracle, p),
                "transformers bf16": lambda p=prompt: peer_vision(half, oracle, p),
            }
            continue
        ours, peer = (native_decode, peer_decode) if name == "decode" else (native_prefill, peer_prefill)
        rows[name] = {
            "native": lambda p=prompt, f=ours: f(engine, p),
            "transformers fp32": lambda p=prompt, f=peer: f(oracle.model, p),
            "transformers bf16": lambda p=prompt, f=peer: f(half, p),
        }
    return rows


def measure(rows: dict[str, dict[str, Timer]], runs: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every engine in turns, after one turn that does not count."""
    result: dict[str, dict[str, list[float]]] = {}
    for name, timers in rows.items():
        result[name] = {engine: [] for engine in timers}
        for turn in range(runs + 1):
            for engine, timer in timers.items():
                seconds = timer()
                if turn:
                    result[name][engine].append(seconds)
        print(name, {e: f"{statistics.median(s):.3f}" for e, s in result[name].items()}, file=sys.stderr)
    return result


def table(result: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: medians with (min-max), and the ratio peer / native of each turn."""
    lines = [
        "| | native, exact | transformers bf16 | transformers fp32 | faster than bf16 | faster than fp32 |",
        "|---|---|---|---|---|---|",
    ]
    for name, engines in result.items():
        tokens = {"prefill 128": 128, "prefill 512": 512, "decode": 1}.get(name)

        def show(seconds: list[float], tokens: int | None = tokens) -> str:
            if tokens is None:
                low, mid, high = (f"{f(seconds) * 1000:.0f}" for f in (min, statistics.median, max))
                return f"{mid} ms ({low}-{high})"
            low, mid, high = (f"{tokens / f(seconds):.1f}" for f in (max, statistics.median, min))
            return f"{mid} tok/s ({low}-{high})"

        def ratio(peer: list[float], ours: list[float] = engines["native"]) -> str:
            turns = [p / o for p, o in zip(peer, ours, strict=True)]
            return f"{statistics.median(turns):.2f}x ({min(turns):.2f}-{max(turns):.2f})"

        half, full = engines["transformers bf16"], engines["transformers fp32"]
        cells = [show(engines["native"]), show(half), show(full), ratio(half), ratio(full)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def machine(engine: Engine) -> dict[str, str]:
    """What ran where."""
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())  # fmt: skip
    return {
        "cpu": cpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **{f"native {key}": value for key, value in engine.model.backend.describe().items()},
    }


def write_page(text: str, where: dict[str, str], differences: dict[str, float], runs: int) -> None:
    """Replace the part of docs/benchmarks.md between its markers."""
    page = ROOT / "docs" / "benchmarks.md"
    begin, end = "<!-- against_transformers: begin -->", "<!-- against_transformers: end -->"
    before, rest = page.read_text().split(begin)
    after = rest.split(end)[1]
    facts = "; ".join(f"{key}: {value}" for key, value in where.items())
    diffs = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    body = f"{text}\n\nMedian (min-max) of {runs} runs in turns, 2 threads. {facts}.\n\nChecked first: {diffs}."
    page.write_text(f"{before}{begin}\n{body}\n{end}{after}")


def main() -> None:
    """Check, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="counted turns of each row (default 5)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="rows whose name contains this; the page is then left alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    oracle = make_oracle(dict(RELEASED), seed=11, dtype=torch.bfloat16)
    half = make_oracle(dict(RELEASED), seed=11, dtype=torch.bfloat16).model.to(torch.bfloat16)
    engine = Engine(
        MiniCPMV(
            oracle.config, native.create(options.threads, scheme=choose("native", precision="exact")), oracle.tensors
        )
    )
    config = oracle.config
    prompts = {
        "prefill 128": make_prompt(config, [], text=128),
        "prefill 512": make_prompt(config, [], text=512),
        "decode": make_prompt(config, [], text=32),
        "vision 448x448 16x": make_prompt(config, [(32, 32)], "16x", 4),
        "vision 448x448 4x": make_prompt(config, [(32, 32)], "4x", 4),
    }
    differences = check(oracle, engine, prompts)
    rows = scenarios(oracle, engine, half, prompts)
    chosen = {name: timers for name, timers in rows.items() if not options.only or options.only in name}
    result = measure(chosen, options.runs)
    where = machine(engine)
    print(table(result))
    if not options.only:
        record = {"machine": where, "differences": differences, "seconds": result}
        path = ROOT / "benchmarks" / "results" / "against_transformers.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        write_page(table(result), where, differences, options.runs)


if __name__ == "__main__":
    main()
