"""Measures quantized nanos: KL divergence on held-out prompts, and points of all of nano's tasks, paired.

    python benchmarks/quantize_nano.py --questions 300
    python benchmarks/quantize_nano.py --questions 0 --only auto "round to nearest"   # KL alone
    python benchmarks/quantize_nano.py --render

The candidates are ours by each method, and files of llama.cpp's own quantizer (extra `bench`), read by our engine: all
models run the same kernels in exact arithmetic, unless the row says otherwise, so that only weights differ. Questions
need the fonts and packages of recipes/nano/README.md. Writes benchmarks/results/quantize_nano.json and the part of
docs/quantize.md between its markers; with --only, the other rows of the results stay.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

from comparison.machines import machine  # noqa: E402
from comparison.report import write_page  # noqa: E402
from quantizing.candidates import CANDIDATES, Candidate  # noqa: E402
from quantizing.paired import summary  # noqa: E402
from quantizing.questions import right, tasks  # noqa: E402

import pocketvlm  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "quantize_nano.json"
PAGE = ROOT / "docs" / "quantize.md"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=300, help="of each task; 0 asks none")
    parser.add_argument("--only", nargs="+", default=[], help="rows whose name contains one of these")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--directory", type=Path, help="where checkpoints are made, and found if they are there")
    parser.add_argument("--render", action="store_true", help="write the page from the results alone")
    return parser.parse_args()


def made(candidates: Sequence[Candidate], directory: Path, threads: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """The path of each candidate and what making it says: seconds."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for candidate in candidates:
        path, facts = "nano", {}
        if candidate.make is not None:
            target = directory / candidate.name.partition(", fast")[0].replace(" ", "_").replace(",", "")
            if not target.exists():
                began = time.perf_counter()
                candidate.make(target, directory, threads)
                facts = {"seconds": time.perf_counter() - began}
            path = str(target)
        found[candidate.name] = path, facts
    return found


def divergence(path: str, precision: str, threads: int) -> dict[str, Any]:
    """KL divergence, top-1 agreement and sizes of one candidate."""
    found = pocketvlm.compare_models("nano", path, max_tokens=None, precision=precision, threads=threads)
    rows = {row.kind: row.divergence for row in (*found.kinds, found.total)}
    still = [row for row in found.kinds if row.kind != "clip"]
    positions = sum(row.divergence.positions for row in still)
    return {
        "bits": found.candidate.language_bits_per_weight,
        "vision_bits": found.candidate.vision_bits_per_weight,
        "bytes": found.candidate.bytes,
        "kl": {kind: row.mean for kind, row in rows.items()},
        "kl_p99": {kind: row.p99 for kind, row in rows.items()},
        "top1": {kind: row.top1 for kind, row in rows.items()},
        "kl_pictures_and_text": sum(row.divergence.mean * row.divergence.positions for row in still) / positions,
        "features": {row.mode: row.relative for row in found.features},
    }


def asked(paths: dict[str, tuple[str, str]], count: int, threads: int) -> dict[str, dict[str, list[bool]]]:
    """Right answers of each model by task; each task's questions are prepared once. paths: path and precision."""
    models: dict[tuple[str, str], pocketvlm.Model] = {}
    answers: dict[str, dict[str, list[bool]]] = {name: {} for name in paths}
    for key in dict.fromkeys(paths.values()):
        models[key] = pocketvlm.load(key[0], precision=key[1], threads=threads, cache=False)
    processor = next(iter(models.values())).processor
    for task, questions in tasks(processor, count):
        for name, key in paths.items():
            answers[name][task] = right(models[key], questions)
        print(task, {name: sum(found[task]) for name, found in answers.items()}, file=sys.stderr, flush=True)
    return answers


def measure(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """All rows."""
    reference = CANDIDATES[0]
    chosen = [each for each in CANDIDATES if not args.only or any(part in each.name for part in args.only)]
    if reference not in chosen:
        chosen.insert(0, reference)
    directory.mkdir(parents=True, exist_ok=True)
    found = made(chosen, directory, args.threads)
    rows: dict[str, Any] = {}
    for candidate in chosen:
        path, facts = found[candidate.name]
        rows[candidate.name] = {**facts, **divergence(path, candidate.precision, args.threads)}
        row = rows[candidate.name]
        print(f"{candidate.name:36} {row['bits']:6.3f} bits  KL {row['kl_pictures_and_text']:.5f}  {row['kl']}")
    if args.questions:
        paths = {each.name: (found[each.name][0], each.precision) for each in chosen if each.answers}
        answers = asked(paths, args.questions, args.threads)
        for name in paths:
            rows[name]["answers"] = summary(answers[reference.name], answers[name])
            mean = rows[name]["answers"]["mean"]
            print(f"{name:36} {mean['right']:.2f} %  {mean['points']:+.2f} points {mean['interval']}")
    return rows


def page(results: dict[str, Any]) -> list[str]:
    """The table in Markdown."""
    rows = results["rows"]
    lines = [
        "| | bits a weight | KL, pictures and text | text | 16x | 4x | clip | top-1 | all tasks | difference, 95 % |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        kl, answers = row["kl"], row.get("answers")
        cells = [name, f"{row['bits']:.2f}", f"{row['kl_pictures_and_text']:.4f}"]
        cells += [f"{kl[kind]:.4f}" for kind in ("text", "image 16x", "image 4x", "clip")]
        cells.append(f"{row['top1']['all']:.1%}".replace("%", " %"))
        if answers is None:
            cells += ["", ""]
        else:
            mean = answers["mean"]
            low, high = mean["interval"]
            cells += [f"{mean['right']:.1f} %", f"{mean['points']:+.2f} ({low:+.2f} to {high:+.2f})"]
        lines.append(f"| {' | '.join(cells)} |")
    tasks = next((len(row["answers"]["tasks"]) for row in rows.values() if "answers" in row), 0)
    asked = f"{results['questions_a_task']} questions for each of {tasks} tasks. " if tasks else ""
    facts = ", ".join(f"{name}: {value}" for name, value in results["machine"].items())
    return [*lines, "", f"KL divergence: mean in nats. {asked}{facts}."]


def main() -> None:
    """Measure, write the results and the page."""
    args = parse()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if not args.render:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as temporary:
            rows = measure(args, args.directory or Path(temporary))
        order = [each.name for each in CANDIDATES]
        merged = {**results.get("rows", {}), **rows} if args.only else rows
        results = {
            "machine": machine(),
            "questions_a_task": args.questions,
            "seconds": round(time.perf_counter() - began),
            "rows": dict(sorted(merged.items(), key=lambda item: order.index(item[0]))),
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_page(PAGE, "\n".join(page(results)), "quantized nano")


if __name__ == "__main__":
    main()
