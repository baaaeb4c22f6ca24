"""Results as Markdown: one table of all formats, one of llama.cpp with the same file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from comparison.report import middle
from comparison.rows import Figures

from checkpoints.measure import LLAMA, Measured

MIB, GIB = 2**20, 2**30
# Most memory after an image, and the longest next start.
GOALS = {"MLX, 4 bits": 1.3 * GIB}
MEMORY_GOAL, START_GOAL = 1.2 * GIB, 0.8


def save(path: Path, record: Mapping[str, Any], found: Sequence[Measured]) -> None:
    """Write everything that was measured."""
    path.write_text(json.dumps({**record, "formats": [one.as_json() for one in found]}, indent=1) + "\n")


def restore(path: Path) -> tuple[dict[str, Any], list[Measured]]:
    """Read what `save` wrote."""
    record = json.loads(path.read_text())
    found = [Measured(**one) for one in record.pop("formats")]
    for one in found:
        one.rows = {name: Figures(**row) for name, row in one.rows.items()}  # type: ignore[arg-type]
    return record, found


def page(record: Mapping[str, Any], found: Sequence[Measured]) -> str:
    """The part of docs/formats.md: tables, and how to read them."""
    facts = "; ".join(f"{key}: {value}" for key, value in record["machine"].items())
    facts += "".join(f"; {LLAMA}: {one.peer}" for one in found if one.peer)
    missing = "".join(f"\n\nNot in this run: {line}" for line in record["missing"])
    errors = (
        "Errors are those of rounding activations, and the dense rest, to 8 bits: the norm of the difference to exact "
        "arithmetic on the same file, relative to the norm of the result. The language model with random weights "
        "amplifies them, so that they compare engines and formats, and predict no answers."
    )
    return "\n\n".join(
        [
            f"Random weights in the released shape on {record['machine']['cpu']}, {record['threads']} threads.",
            table(found),
            peers(found),
            errors,
            f"Medians (least-most); {record['runs']} counted turns of each speed. First start: "
            "nothing is cached yet, whole process with "
            "one token of an answer; next start: packed weights are cached. Memory is resident after an image of 448 x "
            f"448 was answered, mapped pages included. {facts}.{missed_goals(found)}{missing}",
        ]
    )


def table(found: Sequence[Measured]) -> str:
    """A line for each format."""
    head = (
        "| format, name on the hub | file | first start (peak) | next start | memory | decode | prefill 512 | a view |"
    )
    lines = [f"{head} error: text, image |", "|---|---|---|---|---|---|---|---|---|"]
    for one in found:
        cells = [
            f"{one.title}, `{one.hub}`",
            f"{one.disk / 1e9:.2f} GB",
            f"{middle(one.first_starts, '.1f', ' s')}, {median(one.first_peaks) / GIB:.1f} GiB",
            middle(one.next_starts, ".2f", " s"),
            f"{one.memory['bytes'] / MIB:.0f} MiB",
            *speeds(one),
            " / ".join(f"{value:.3f}" for name, value in one.errors.items() if not name.startswith(LLAMA)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    lines.append('Each runs by its name: `pocketvlm run NAME -i photo.jpg -p "What is this?"`.')
    return "\n".join(lines)


def speeds(one: Measured) -> list[str]:
    """Our speed in each row."""
    return [amount(figures, figures.ours()) for figures in one.rows.values()]


def amount(figures: Figures, values: Sequence[float]) -> str:
    """Tokens a second, or milliseconds."""
    if figures.tokens:
        return middle([figures.tokens / value for value in values], ".1f", " tok/s")
    return middle([1000 * value for value in values], ".0f", " ms")


def peers(found: Sequence[Measured]) -> str:
    """llama.cpp with the same file, where it reads it."""
    lines = [f"| the same file in turns | pocketvlm | {LLAMA} | faster than {LLAMA} |", "|---|---|---|---|"]
    for one in found:
        for name, figures in one.rows.items():
            if pairs := figures.pairs.get(LLAMA):
                theirs, ratio = [value for _, value in pairs], middle(figures.ratios(LLAMA), ".2f", "x")
                own = amount(figures, figures.ours())
                lines.append(f"| {one.title}, {name} | {own} | {amount(figures, theirs)} | {ratio} |")
        for what in ("text", "image"):
            if (theirs := one.errors.get(f"{LLAMA}, {what}")) is not None:
                own = one.errors[f"pocketvlm, {what}"]
                lines.append(f"| {one.title}, error of {what} | {own:.3f} | {theirs:.4f} | |")
    return "\n".join(lines)


def missed_goals(found: Sequence[Measured]) -> str:
    """The goals that were missed, in words."""
    missed = []
    for one in found:
        if one.memory["bytes"] > (goal := GOALS.get(one.title, MEMORY_GOAL)):
            missed.append(f"{one.title}: {one.memory['bytes'] / GIB:.2f} GiB, goal {goal / GIB:g} GiB")
        if median(one.next_starts) > START_GOAL:
            missed.append(f"{one.title}: next start {median(one.next_starts):.2f} s, goal {START_GOAL:g} s")
    return f" Goals missed: {'; '.join(missed)}." if missed else " All goals for memory and starts are met."
