"""Results as Markdown: one table of all formats, one of llama.cpp with the same file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from comparison.report import middle
from comparison.rows import Figures

from checkpoints.errors import Errors
from checkpoints.make import FORMATS
from checkpoints.measure import LLAMA, Measured
from checkpoints.small import SMALL_FORMATS
from checkpoints.source import SMALL

MIB, GIB = 2**20, 2**30
# Most memory after an image, and the longest next start.
GOALS = {"MLX, 4 bits": 1.3 * GIB}
MEMORY_GOAL, START_GOAL = 1.2 * GIB, 0.8


@dataclass
class Results:
    """Everything that one machine measured, by the formats' keys. missing: what was left out of a format's turns."""

    machine: dict[str, str] = field(default_factory=dict)
    threads: int = 0
    runs: int = 0
    missing: dict[str, list[str]] = field(default_factory=dict)
    formats: dict[str, Measured] = field(default_factory=dict)
    errors: dict[str, Errors] = field(default_factory=dict)

    def of_machine(self, machine: dict[str, str], threads: int, runs: int) -> Results:
        """These results, to be added to, if the same machine and versions gave them; else new ones."""
        same = (self.machine, self.threads, self.runs) == (machine, threads, runs)
        return self if same else Results(machine, threads, runs)

    def save(self, path: Path) -> None:
        """Write everything, formats in the order of the tables."""
        self.formats = {kind.key: self.formats[kind.key] for kind in FORMATS if kind.key in self.formats}
        self.errors = {kind.key: self.errors[kind.key] for kind in SMALL_FORMATS if kind.key in self.errors}
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def restore(cls, path: Path) -> Results:
        """Read what `save` wrote."""
        found = cls(**json.loads(path.read_text()))
        found.formats = {key: Measured(**one) for key, one in found.formats.items()}  # type: ignore[arg-type]
        found.errors = {key: Errors(**one) for key, one in found.errors.items()}  # type: ignore[arg-type]
        for one in found.formats.values():
            one.rows = {name: Figures(**row) for name, row in one.rows.items()}  # type: ignore[arg-type]
        return found


def page(results: Results) -> str:
    """The part of docs/formats.md: tables, and how to read them."""
    found = list(results.formats.values())
    facts = "; ".join(f"{key}: {value}" for key, value in results.machine.items())
    facts += "".join(f"; code: {commit}" for commit in dict.fromkeys(one.code for one in found if one.code))
    facts += "".join(f"; {LLAMA}: {one.peer}" for one in found if one.peer)
    missing = "".join(f"\n\nNot measured: {line}" for lines in results.missing.values() for line in lines)
    errors = (
        "Errors are those of rounding activations, and the dense rest, to 8 bits: the norm of the difference to exact "
        "arithmetic on the same file, relative to the norm of the result. The language model with random weights "
        "amplifies them, so that they compare engines and formats, and predict no answers."
    )
    return "\n\n".join(
        [
            f"Random weights in the released shape on {results.machine['cpu']}, {results.threads} threads.",
            table(found),
            peers(found),
            errors,
            *([small_table(list(results.errors.values()))] if results.errors else []),
            f"Medians (least-most); {results.runs} counted turns of each speed. First start: "
            "nothing is cached yet, whole process with "
            "one token of an answer; next start: packed weights are cached. Memory is resident after an image of 448 x "
            f"448 was answered, mapped pages included. {facts}.{missed_goals(found)}{missing}",
        ]
    )


def small_table(found: Sequence[Errors]) -> str:
    """Errors of every format that is read, several in a line."""
    types = [[one.title, f"{one.ours:.3f}", f"{one.llama:.3f}"] for one in found if one.llama is not None]
    others = [[one.title, f"{one.ours:.3f}"] for one in found if one.llama is None]
    lines = [
        f"Errors of the logits in every format that is read, {SMALL}. In GGUF all matrices, the output matrix "
        f"included, have the one type; the other libraries quantized what published checkpoints have quantized. "
        f"{LLAMA} rounds activations in blocks of 256 with types that end in K and with IQ4_XS, else in blocks of 32:",
        "",
        *_in_columns(["GGUF type", "pocketvlm", LLAMA], types, 2),
        "",
        *_in_columns(["not read by llama.cpp", "pocketvlm"], others, 3),
    ]
    return "\n".join(lines)


def _in_columns(head: list[str], cells: list[list[str]], across: int) -> list[str]:
    """A table with several groups of columns next to each other, filled from top to bottom."""
    height = -(-len(cells) // across)
    padded = cells + [[""] * len(head)] * (height * across - len(cells))
    rows = [head * across, ["---"] * (len(head) * across)]
    rows += [[cell for i in range(across) for cell in padded[i * height + line]] for line in range(height)]
    return [f"| {' | '.join(row)} |" for row in rows]


def table(found: Sequence[Measured]) -> str:
    """A line for each format."""
    head = (
        "| format, name on the hub | file | first start (peak) | next start | memory | decode | prefill 512 | a view |"
        " first token, 1 view |"
    )
    lines = [f"{head} error: text, image |", "|---|---|---|---|---|---|---|---|---|---|"]
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
